"""Reading on another device: networks stay there, what is read comes back, and it is what the CPU reads."""

import copy

import pytest
import torch

import reverie as rv
from reverie.align import diffae
from reverie.core.denoiser import NetDenoiser
from reverie.data import ImageSet
from reverie.read import maps
from reverie.read.dense_prediction import correspond
from reverie.read.odise import ODISE, PRESETS, Backbone, Captioner
from reverie.read.odise.model import unpack
from reverie.read.odise.scenes import scenes, vocabulary
from reverie.read.probes import ddae, finetune, grid
from reverie.read.probes.diffeed import DifFeed

from .emulated import DEVICE
from .models import CHANNELS, CLASSES, MODELS, SIZE, pictures
from .test_sampling import same

X = pictures(8)
LABELS = torch.arange(8) % CLASSES
SITES = {
    "dit": "blocks.1",
    "unet": "middle.0",
    "unet-text": "middle.0",
    "jit": "blocks.2",
    "mmdit": "blocks.1",
    "uvit": "middle.0",
}


def pair(name: str) -> tuple[NetDenoiser, NetDenoiser]:
    here = MODELS[name]()
    return copy.deepcopy(here).to(DEVICE), here


def pictured() -> ImageSet:
    classes = [str(i) for i in range(CLASSES)]
    return ImageSet("some", "train", ((X + 1) * 127.5).byte(), torch.arange(8), LABELS, classes)


@pytest.mark.parametrize("name", SITES)
def test_features_and_attention_of_every_network(name):
    there, here = pair(name)
    for noise in ("shared", 2, None):
        read = [rv.read.features(d, X, [SITES[name]], logsnr=[1.0, 4.0], noise=noise, pool=2) for d in (there, here)]
        for cell in read[1]:
            assert read[0][cell].device.type == "cpu"
            torch.testing.assert_close(read[0][cell], read[1][cell], rtol=0, atol=1e-4)
    sites = [site for site in rv.taps.sites(here) if site.endswith("attention")][:1]
    for site, value in maps.attention(there, X, sites, t=0.3).items():
        same(value, maps.attention(here, X, sites, t=0.3)[site])


def test_probes_of_every_kind():
    train = pictured()
    there, here = pair("dit")
    for head in ("linear", "knn", "mlp"):
        found = [
            grid.run(d, train, train, labels=4, seeds=1, sites=["blocks.1"], logsnr=[2.0], head=head)
            for d in (there, here)
        ]
        assert found[0].trained.measured == found[1].trained.measured
    read = [ddae.probe(d, train, train, at=["blocks.1"], t=[0.2], epochs=1, batch=4) for d in (there, here)]
    assert read[0] == read[1]


def test_fine_tuning_and_feedback():
    there, here = pair("unet")
    tuned = [finetune.finetune(d, X, LABELS, site="middle.0", epochs=1, batch=4) for d in (there, here)]
    same(tuned[0](X.to(DEVICE)), tuned[1](X), 1e-2)
    looks = []
    for d in (there, here):
        torch.manual_seed(0)
        feed = DifFeed(d, d.schedule.point(0.3), "up.1.0", torch.nn.Identity()).to(d.device).eval()
        looks.append(feed(X.to(d.device)))
    same(*looks)


def test_correspondence_on_maps_that_stay_there():
    fields = torch.randn(3, 6, 4, 4)
    points = torch.tensor([[0, 1], [5, 6]])
    masks = torch.eye(16)[:2].reshape(2, 4, 4)
    for f in (
        lambda v: correspond.match(v[0], v[1], points.to(v.device), (8, 8)),
        lambda v: correspond.dense(v[0], v[1]),
        lambda v: correspond.fuse([(v[0], v[1])], (v[1], v[2]), dim=4),
        lambda v: (correspond.propagate(v, masks.to(v.device), radius=2, top=3),),
        lambda v: (correspond.peaks(correspond.keypoints(points[:, :1].to(v.device).expand(2, 2) % 4, (4, 4))),),
    ):
        for mine, host in zip(f(fields.to(DEVICE)), f(fields), strict=True):
            same(mine, host) if host.is_floating_point() else torch.testing.assert_close(mine.cpu(), host)


def test_a_diffusion_auto_encoder():
    base = MODELS["unet-text"]()
    small = rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)
    encoder = diffae.SemanticEncoder(small, channels=CHANNELS, size=SIZE, classes=7)
    here = NetDenoiser(
        diffae.AutoEncoder(base.net, encoder).eval().requires_grad_(False), base.schedule, shape=base.shape
    )
    there = copy.deepcopy(here).to(DEVICE)
    codes = [diffae.encode(d, X[:2], 2) for d in (there, here)]
    for mine, host in zip(*codes, strict=True):
        same(mine, host)
    same(diffae.decode(there, *codes[0], 2), diffae.decode(here, *codes[1], 2), 1e-3)
    moved = []
    for d, code in ((there, codes[0]), (here, codes[1])):
        attributes = diffae.Attributes(code.semantic, torch.tensor([0, 1], device=d.device))
        moved.append(attributes.move(code.semantic, 0, 0.3))
    same(*moved, 1e-2)


def test_odise():
    torch.manual_seed(0)
    net = rv.nets.build(
        rv.nets.UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(), heads=1, vector=5), channels=3, size=16
    )
    denoise = NetDenoiser(net.eval().requires_grad_(False), rv.core.schedules.Flow(), shape=(3, 16, 16))
    backbone = Backbone(
        denoise, ["up.0.0.in", "up.1.0.in"], [32, 24], PRESETS["small"],
        captioner=Captioner(torch.zeros(5), 12, time=32), embed=lambda x: x.flatten(1)[:, :12], name="vector", t=0.05,
    )  # fmt: skip
    here = ODISE(backbone, 7, PRESETS["small"])
    there = copy.deepcopy(here).to(DEVICE)
    there.backbone._frozen[0].to(DEVICE)
    truth = scenes(0, 2)
    segments = unpack(truth)
    moved = [type(s)(s.labels.to(DEVICE), s.masks.to(DEVICE)) for s in segments]
    losses = (
        there.losses(truth.x.to(DEVICE), moved, vocabulary()),
        here.losses(truth.x, segments, vocabulary()),
    )
    for key, value in losses[1].items():
        same(losses[0][key].detach(), value.detach(), 1e-3)
    found = [m.segment(truth.x.to(next(m.parameters()).device), vocabulary()) for m in (there, here)]
    assert len(found[0]) == len(found[1]) == 2
