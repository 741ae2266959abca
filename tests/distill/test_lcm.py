"""Latent consistency into an adapter: held to closed forms, and on a tiny pipeline of diffusers with random weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import unmerged
from reverie.adapt.config import METHODS
from reverie.core.batch import Batch
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.flow_map import NetFlowMap
from reverie.core.schedules import Flow
from reverie.core.task import Moment, Player
from reverie.distill.lcm import HUBER, LatentConsistency
from reverie.solve import GaussianMap

from ..bridge.conftest import build_sd
from ..margin import apart
from .maps import gaussian

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
WORDS = ["a red fox", "two birds", "snow", "a blue fox"]
NOW = Moment(0, 0, 1000)


def loss(student, teacher, x, cond=None, scales=(1.0, 1.0), intervals=8):
    """Of a student that says x0 as ``student(x, point)``."""
    says = SimpleNamespace(schedule=Flow(), denoise=lambda x, point, cond: SimpleNamespace(x0=student(x, point)))
    task = LatentConsistency(says, teacher, scales, intervals, Player(nn.Linear(1, 1)))
    with torch.no_grad():
        return task.loss("adapter", Batch(x, cond), Draws(5, 0, len(x)), NOW)["consistency"]


def test_an_exact_map_has_no_loss_but_that_of_the_step():
    """A step of DDIM errs by its length squared; the mean of the data, which is no map of the flow, is not one x0 along it."""
    data = gaussian()
    teacher, exact = data.denoiser(Flow()), GaussianMap(data, Flow())
    x = data.sample(4000, torch.Generator().manual_seed(1))

    def mapped(x, at):
        return exact(x, at, Flow().clean())

    def mean(x, at):
        return teacher(x, at).x0

    right, wrong = ([float(loss(f, teacher, x, intervals=n).mean()) for n in (8, 32)] for f in (mapped, mean))
    assert right[0] / right[1] > 8 and wrong[0] / wrong[1] < 6
    assert right[1] < 0.05 * wrong[1]


class Two(nn.Module):
    """Data of one point a class: where it is told class 0 or 1, and elsewhere at the origin."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64))
        self.conditions = {"label": Label(2)}

    def forward(self, x, time, cond=None):
        label = cond["label"]
        return self.points[label.value] * label.present[:, None]


def test_the_flow_is_augmented_by_the_scale_of_each_sample():
    """Guided at w, a class at c has its data at w·c: the state moves along that line, and a student that says x/α errs as computed here."""
    teacher = NetDenoiser(Two(), Flow(), "x0", shape=(2,))
    x, labels, n = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64).repeat(8, 1), [0, 1] * 8, 10
    found = loss(lambda x, at: x / at.alpha.clamp(min=0.05), teacher, x, Cond(label=labels), (2.0, 6.0), n)
    rng = Draws(5, 0, 16)
    t = (1.0 + (rng.even("time") * n).floor())[:, None] / n
    s, w = t - 1.0 / n, (2.0 + 4.0 * rng.uniform("scale"))[:, None]

    def expected(w):
        at_t = (1 - t) * x + t * rng.normal("noise", (2,)).double()
        at_s = (1 - s) * w * x + s * (at_t - (1 - t) * w * x) / t
        error = at_t / (1 - t).clamp(min=0.05) - at_s / (1 - s)
        return ((error**2 + HUBER**2).sqrt() - HUBER).mean(1)

    assert torch.allclose(found.double(), expected(w), rtol=1e-4)
    assert apart(found.double(), expected(1.0)) > 0.1


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lcm")
    pipeline = build_sd(folder)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"


def test_fresh_it_is_the_base_and_it_alone_is_trained(sd):
    model = rv.load(sd[1])
    before, cond = fingerprint(model.net), model.conditioner(WORDS)
    fresh = Adapter("lcm", before, METHODS["lora"](rank=4).changes(model.net, 0))
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(unmerged(model, fresh)(x, 0.5, cond).out, model(x, 0.5, cond).out)
    fast = rv.distill.lcm_lora(model, IMAGES, cond, scales=(2.0, 4.0), intervals=10, rank=4, steps=16, rate=6e-3)
    assert fingerprint(model.net) == before == fast.base and fast.method == "lcm"
    with torch.no_grad():
        codes = model.space.encode(IMAGES)

    def errs(net):
        task = LatentConsistency(NetFlowMap(net), model, (2.0, 4.0), 10, Player(nn.Linear(1, 1)))
        with torch.no_grad():
            parts = [
                task.loss("adapter", Batch(codes, cond), Draws(9, i, 4), NOW)["consistency"].mean()
                for i in range(0, 24, 4)
            ]
        return float(torch.stack(parts).mean())

    assert errs(rv.adapt.apply(model, fast)) < 0.96 * errs(model)


def test_it_draws_by_leaps_and_diffusers_opens_its_file(sd, tmp_path):
    pipeline, folder = sd
    model = rv.load(folder)
    fast = Adapter(
        "lcm", fingerprint(model.net), METHODS["lora"](rank=3, layers="attn|cross|conv").changes(model.net, 0)
    )
    with torch.no_grad():
        for i, parameter in enumerate(fast.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    flow_map, cond = rv.distill.leaping(model, fast), model.conditioner(WORDS[:2])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        first = flow_map.denoise(x, 1.0, cond).x0
        assert torch.allclose(rv.sample(flow_map, cond=cond, x=x, steps=1), model.space.decode(first), atol=1e-5)
        four = rv.sample(flow_map, cond=cond, steps=4, seed=3)
    assert four.shape == (2, 3, 16, 16) and four.isfinite().all()
    with pytest.raises(InputError, match="leaps to clean data only"):
        flow_map(x, 1.0, 0.5, cond)
    file = rv.adapt.write(fast, tmp_path / "lcm.safetensors", model, "kohya")
    told = cond["text"].value
    pipeline.load_lora_weights(file)
    try:
        with torch.no_grad():
            theirs = pipeline.unet(x, 500, told).sample
    finally:
        pipeline.unload_lora_weights()
    with torch.no_grad():
        point = model.schedule.point(501 / 1000)
        ours, base = flow_map.denoise(x, point, cond).eps, model(x, point, cond).eps
    size = float(theirs.abs().max())
    assert (ours - theirs).abs().max() < 1e-5 * size and (base - theirs).abs().max() > 1e-2 * size


def test_what_does_not_fit_is_said(sd):
    model = rv.load(sd[1])
    cond = model.conditioner("a red fox")
    for images, told, settings, message in (
        (IMAGES, None, {}, "it takes text: got None"),
        (IMAGES, cond, {"scales": (0.5, 2.0)}, "at least 1"),
        (IMAGES, cond, {"intervals": 1}, "at least 2"),
        (IMAGES[0], cond, {}, r"\(N, C, H, W\)"),
    ):
        with pytest.raises(InputError, match=message):
            rv.distill.lcm_lora(model, images, told, steps=1, **settings)
