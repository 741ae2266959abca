"""One step of every task on another device: the same losses and gradients as on the CPU, and nothing of double precision there."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.adapt import encoder
from reverie.adapt.config import METHODS
from reverie.adapt.e4t import E4T
from reverie.adapt.encoder import Encoding
from reverie.adapt.encoder_config import E4TConfig, FromPicturesConfig, HyperDreamBoothConfig
from reverie.adapt.training import Personalising, begin, own
from reverie.align import diffae, ldae
from reverie.align.auxiliary import WithAuxiliary
from reverie.align.dispersive import Dispersive
from reverie.align.repa import REPA
from reverie.align.sra import SRA
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Text, Tokens
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.paths import Table
from reverie.core.schedules import Cosine
from reverie.core.spelling import spelled
from reverie.core.task import Moment, Optim
from reverie.core.times import LogitNormal, LogSNR, Uniform
from reverie.data import ImageSet, TensorSet
from reverie.diffusion import palette
from reverie.diffusion.augment import CHANGES, TOLD
from reverie.diffusion.classifying import Classifying
from reverie.diffusion.conditioned import InstructConfig, PaletteConfig
from reverie.diffusion.control import Control, Controlling
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.gligen import Gligen, Reading, reader
from reverie.diffusion.hints import edges
from reverie.diffusion.instructing import Instructing
from reverie.diffusion.online import Online
from reverie.diffusion.palette import Palette
from reverie.diffusion.reflow import Reflow
from reverie.diffusion.vlb import VLB, Hybrid, OnChain
from reverie.distill import ADD, DMD2, LADD, Drifting, Guided, Moments, Progressive, Student, hearing
from reverie.distill.add import Inside
from reverie.distill.matching import Critic, blocks, classes_of, shapes
from reverie.families.autoregressive import NextToken
from reverie.families.config import (
    AutoregressiveConfig,
    PixelCNNConfig,
    PixelCNNppConfig,
    PixelRNNConfig,
    SubPixelConfig,
    TileConfig,
)
from reverie.guide.online import Prototypes
from reverie.learn import TrainConfig, optim
from reverie.measure.config import TowersConfig
from reverie.measure.towers import Pairing
from reverie.nets.controlnet import ControlNet
from reverie.spaces.tokenizing import Discriminator, Tokenizing

from .emulated import DEVICE, NAME, waiting
from .models import CHANNELS, CLASSES, MODELS, SIZE, condition, pictures, shaken
from .test_guiding import classifier

X = pictures(4)
PLACES = torch.tensor([[1.0, 0.1, 0.2, 0.6, 0.5], [-1.0, -1.0, -1.0, -1.0, -1.0]]).expand(4, 2, 5).contiguous()
NOW = Moment(0, 0, 100)
SAID = rv.Cond(text=spelled(["red fox", "bird", "blue ship", "bird"], 12))


def trained(module: torch.nn.Module) -> torch.nn.Module:
    return module.train().requires_grad_(True)


def denoising(name: str, **others: Any) -> Denoising:
    denoise = MODELS[name]()
    trained(denoise.net)
    return Denoising(denoise, LogitNormal(), held_out=Batch(X, condition(denoise, len(X))), **others)


def augmented() -> Denoising:
    denoise = MODELS["dit"]()
    denoise.net.listen(CHANGES, count=TOLD)
    trained(shaken(denoise.net))
    return Denoising(denoise, LogitNormal(), augment=0.5, held_out=Batch(X, condition(denoise, len(X))))


def latent() -> Denoising:
    space = rv.spaces.build(
        rv.spaces.SpaceConfig(name="conv-vae", dims=CHANNELS, patch=1, width=8), CHANNELS
    ).requires_grad_(False)
    task = denoising("dit", weight=lambda lam: torch.sigmoid(-lam), loss_kind="eps")
    task.denoise.space = space
    return task


def on_chain(objective: type[OnChain]) -> OnChain:
    torch.manual_seed(0)
    config = rv.nets.DiTConfig(width=16, depth=1, heads=2, learn_sigma=True)
    net = trained(shaken(rv.nets.build(config, channels=CHANNELS, size=SIZE, classes=CLASSES)))
    denoise = NetDenoiser(net, Table.linear(20), "eps", shape=(CHANNELS, SIZE, SIZE), learned_variance=True)
    return objective(denoise, held_out=Batch(X, condition(denoise, len(X))))


def online() -> Online:
    denoise = MODELS["dit"]()
    trained(denoise.net)
    return Online(denoise, Prototypes(16, CLASSES), Uniform(), site="blocks.0")


def aligned() -> WithAuxiliary:
    base = denoising("dit")
    looks = (
        REPA("blocks.0", 16, lambda x: x.flatten(1)[:, :5], 5, hidden=8),
        SRA(base.denoise, "blocks.0", "blocks.1", 16),
    )
    return WithAuxiliary(base, *looks, Dispersive("blocks.1"))


def restoring(op: str) -> Palette:
    config = PaletteConfig(
        op=op,  # pyright: ignore[reportArgumentType]
        augment=True,
        factor=2,
        net=rv.nets.DiTConfig(width=16, depth=1, heads=2),
    )
    model = palette.build(config, rv.data.TensorSet(X).spec, 0)
    trained(shaken(model.net))
    return Palette(model, Uniform(), palette.damage(op, 2), True, held_out=Batch(X))


def instructed() -> Instructing:
    net = rv.nets.UNetConfig(width=8, multipliers=(1, 2), blocks=1, heads=2, attention=(2,))
    model = InstructConfig(net=net).build(DataSpec((CHANNELS, SIZE, 2 * SIZE), {"text": Text(6)}), 0)
    trained(shaken(model.net))
    return Instructing(model, Uniform(), held_out=Batch(X, condition(model, len(X))))


def steering(name: str) -> Controlling:
    base = MODELS[name]()
    net = trained(shaken(ControlNet(base.net)))
    held_out = Batch(X, condition(base, len(X)))
    return Controlling(Control(base, net), Uniform(), edges, held_out=held_out)  # pyright: ignore[reportArgumentType]


def grounding(name: str) -> Reading:
    base = MODELS[name]()
    net = trained(shaken(reader(base, 16, CLASSES, 0)))
    text = base.conditions.get("text")
    table = torch.ones(CLASSES, text.dim) if isinstance(text, Tokens) else None
    held_out = Batch(X, condition(base, len(X)), {"boxes": PLACES})
    return Reading(Gligen(base, net), Uniform(), table, held_out=held_out)  # pyright: ignore[reportArgumentType]


def straightened() -> Reflow:
    base = denoising("dit")
    held_out = Batch(X, condition(base.denoise, len(X)), {"noise": X.flip(0)})
    return Reflow(base.denoise, held_out=held_out)


def personalising(method: str, **settings: Any) -> Personalising:
    denoise = MODELS["unet"]()
    config = METHODS[method](token="<mine>", like="1", preserve=0.5, **settings)
    return Personalising(begin(config, denoise, 0, X), config, own)


def encoding(config: type[FromPicturesConfig], **settings: Any) -> Encoding:
    look = rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)
    model = encoder.build(config(like="1", net=look, width=16, **settings), MODELS["unet"](), 0)
    last = model.net.offset if isinstance(model.net, E4T) else model.net.leave
    trained(shaken(last))  # pyright: ignore[reportArgumentType]
    return Encoding(model, own)


def distilling(make: Callable[[Student], Any]) -> Any:
    torch.manual_seed(0)
    denoise, teacher = MODELS["dit"](), MODELS["dit"]()
    trained(denoise.net)
    return make(Student(denoise, lambda: teacher, scale=2.0))


def fooling(student: Student) -> ADD:
    sites = blocks(student.teacher)  # pyright: ignore[reportArgumentType]
    critic = Critic(shapes(student.teacher, sites), classes_of(student.teacher))  # pyright: ignore[reportArgumentType]
    return ADD(student, 2, looks=Inside(student.teacher, sites), critic=critic, r1=0.1)  # pyright: ignore[reportArgumentType]


def semantic() -> diffae.SemanticDenoising:
    base = MODELS["unet-text"]()
    small = rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)
    encoder = diffae.SemanticEncoder(small, channels=CHANNELS, size=SIZE, classes=7)
    net = trained(diffae.AutoEncoder(base.net, encoder))
    return diffae.SemanticDenoising(NetDenoiser(net, Cosine(), "eps", shape=(CHANNELS, SIZE, SIZE)), Uniform())


def codes() -> diffae.PriorDenoising:
    denoise = diffae.prior(torch.randn(20, 6), 8, 3)
    return diffae.prior_task(denoise)


def deconstructed() -> Denoising:
    space = rv.spaces.PatchPCA.fit(X, 2, 4)
    line = ldae.Settings(
        tokenizer="pca", labels=False, kind="x0", sees="picture", says="picture", target="original", weight="signal"
    )
    return ldae.task(
        line, ldae.build(line, space, (CHANNELS, SIZE, SIZE), rv.nets.DiTConfig(width=16, depth=1, heads=2))
    )


def classifying() -> Classifying:
    judge = classifier()
    trained(judge.net)
    return Classifying(judge, LogSNR(Cosine()), held_out=Batch(X, rv.Cond(label=[0, 1, 2, 3])))


def shaken_prior() -> NetDenoiser:
    denoise = MODELS["causal"]()
    trained(denoise.net)
    return denoise


def towers() -> Pairing:
    small = rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)
    spec = DataSpec((CHANNELS, SIZE, SIZE), {"text": Text(12)}, name="some")
    model = TowersConfig(encoder=small, width=16, depth=1, heads=2, dim=8).build(spec, 0)
    trained(shaken(model))
    return Pairing(model, Said(), "softmax")


class Said(TensorSet):
    """Four pictures with their captions."""

    def __init__(self) -> None:
        super().__init__(X)

    def batch(self, positions: Any) -> Batch:
        return Batch(X[list(positions)], SAID.index(list(positions)))


def tokenizer(name: str) -> Tokenizing:
    torch.manual_seed(0)
    space = rv.spaces.build(rv.spaces.SpaceConfig(name=name, dims=4, patch=2, width=8, codes=8), CHANNELS)  # pyright: ignore[reportArgumentType]
    data = ImageSet("some", "train", ((X + 1) * 127.5).byte(), torch.arange(len(X)))
    return Tokenizing(space, data, data, perceptual=lambda x: [x], discriminator=Discriminator(CHANNELS, 8))


def autoregressive(config: AutoregressiveConfig) -> NextToken:
    data = ImageSet("some", "train", ((X + 1) * 127.5).byte(), torch.arange(len(X)), torch.arange(4), list("abcd"))
    model = config.build(data.spec, 0)
    trained(shaken(model.net))
    return NextToken(model, data, 0)


TASKS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: denoising(name) for name in MODELS if name not in ("vectors", "codes", "causal")},
    "augmented": augmented,
    "latent": latent,
    "deconstructed": deconstructed,
    "hybrid": lambda: on_chain(Hybrid),
    "vlb": lambda: on_chain(VLB),
    "online": online,
    "aligned": aligned,
    **{op: lambda op=op: restoring(op) for op in ("inpaint", "uncrop", "colourise", "jpeg", "superres")},
    "instruct": instructed,
    **{f"controlnet of {name}": lambda name=name: steering(name) for name in ("unet", "dit", "uvit", "mmdit", "prior")},
    **{f"gligen of {name}": lambda name=name: grounding(name) for name in ("unet-text", "dit", "uvit")},
    "reflow": straightened,
    **{method: lambda method=method: personalising(method) for method in METHODS},
    "e4t": lambda: encoding(E4TConfig),
    "hyperdreambooth": lambda: encoding(HyperDreamBoothConfig, depth=1, heads=2, outer=8, inner=8),
    "dora": lambda: personalising("lora", dora=True),
    "progressive": lambda: distilling(
        lambda student: Progressive(Student(hearing(student.denoise, "until"), student.teaching))
    ),
    "guided": lambda: distilling(
        lambda student: Guided(Student(hearing(student.denoise, "scale"), student.teaching), Uniform())
    ),
    "dmd2": lambda: distilling(lambda student: DMD2(student, 2, times=Uniform())),
    "add": lambda: distilling(fooling),
    "ladd": lambda: distilling(lambda student: LADD(student, 2)),
    "moments": lambda: distilling(lambda student: Moments(student, 2)),
    "drifting": lambda: distilling(lambda student: Drifting(student, by="sharp")),
    "semantic": semantic,
    "codes": codes,
    "causal": lambda: Denoising(shaken_prior(), Uniform()),
    "classifier": classifying,
    "towers": towers,
    "patch-ae": lambda: tokenizer("patch-ae"),
    "patch-vae": lambda: tokenizer("patch-vae"),
    **{name: lambda name=name: tokenizer(name) for name in ("conv-ae", "conv-vae", "vq", "multiscale-vq")},
    "pixelcnn": lambda: autoregressive(PixelCNNConfig(width=6, depth=2)),
    "pixelcnnpp": lambda: autoregressive(PixelCNNppConfig(width=6, depth=1, components=2)),
    "pixelrnn": lambda: autoregressive(PixelRNNConfig(width=6, depth=1, kind="diagonal")),
    "subpixel": lambda: autoregressive(SubPixelConfig(width=16, depth=1, heads=2)),
    "tile": lambda: autoregressive(TileConfig(head="mixture", patch=2, components=2, width=16, depth=1, heads=2)),
}


def step(task: Any, device: Any, cond: rv.Cond | None, images: torch.Tensor, optimizer: str) -> dict[str, torch.Tensor]:
    """Losses and gradients of every player, each of which takes a step."""
    found = {}
    for player in task.players.values():
        player.module.to(device).train()
    settings = optim.settings(TrainConfig(), Optim(optimizer=optimizer))  # pyright: ignore[reportArgumentType]
    for name in task.turns(NOW):
        player = task.players[name]
        stepped = optim.build(player.module, settings)
        extra = {"noise": images.flip(0), "shown": images.flip(0)[:, None], "boxes": PLACES}
        batch = Batch(images, cond, extra).to(device)
        losses = task.loss(name, batch, Draws(0, 0, len(images)), NOW)
        sum(v.mean() for v in losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        found |= {f"{name} {key}": v.detach() for key, v in losses.items()}
        found |= {
            f"{name} {key} slope": p.grad.clone() for key, p in player.module.named_parameters() if p.grad is not None
        }
        stepped.step()
        assert all(
            p.isfinite().all() and p.device.type == torch.device(device).type for p in player.module.parameters()
        )
    task.after_step(NOW)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_every_task_takes_the_same_step(name):
    torch.manual_seed(0)
    task = TASKS[name]()
    other = copy.deepcopy(task)
    images = torch.randn(4, 6) if name in ("codes", "causal") else X
    denoise = getattr(task, "denoise", None)
    cond = rv.Cond(label=[0, 1, 2, 3]) if denoise is None else condition(denoise, 4)
    if name == "online" or name == "semantic":
        cond = None
    if name == "towers":
        cond = SAID
    here = step(task, "cpu", cond, images, "adamw")
    there = step(other, DEVICE, cond, images, "adamw")
    assert there.keys() == here.keys() and any(key.endswith("slope") for key in here)
    largest = max(float(v.abs().max()) for key, v in here.items() if key.endswith("slope"))
    for key, value in here.items():
        assert there[key].device.type == NAME and there[key].dtype == torch.float32, key
        size = largest if key.endswith("slope") else float(value.abs().max())
        torch.testing.assert_close(
            there[key].cpu(), value, rtol=0, atol=1e-3 * size, msg=lambda m, key=key: f"{key}: {m}"
        )
    before, after = task.validate(), other.validate()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key] == pytest.approx(value, rel=2e-2, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    "name",
    [
        "dit",
        "unet-text",
        "prior",
        "latent",
        "hybrid",
        "aligned",
        "inpaint",
        "jpeg",
        "controlnet of unet",
        "gligen of dit",
        "classifier",
        "conv-vae",
    ],
)
def test_no_loss_and_no_gradient_waits(name):
    """What a step draws and computes is left to the device; the loop reads losses back when it logs."""
    task = TASKS[name]()
    cond = condition(task.denoise, 4) if hasattr(task, "denoise") else rv.Cond(label=[0, 1, 2, 3])
    for player in task.players.values():
        player.module.to(DEVICE)
    batch = Batch(X, cond, {"boxes": PLACES}).to(DEVICE)
    with waiting() as device:
        losses = task.loss(next(iter(task.players)), batch, Draws(0, 0, 4), NOW)
        sum(v.mean() for v in losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        task.after_step(NOW)
        assert device.waits == 0


def test_muon_steps_there():
    task = denoising("dit")
    other = copy.deepcopy(task)
    for each, device in ((task, "cpu"), (other, DEVICE)):
        step(each, device, condition(task.denoise, 4), X, "muon")
    for mine, host in zip(other.denoise.net.parameters(), task.denoise.net.parameters(), strict=True):
        torch.testing.assert_close(mine.detach().cpu(), host.detach(), rtol=0, atol=5e-3)
