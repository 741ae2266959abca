"""ControlNet: bit-equal at the first step, added where and when it is said, the base frozen and known by its hash, and what is refused."""

import math

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion import showing
from reverie.diffusion.conditioned import ControlNetConfig
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.diffusion.control import Control, Controlling, control
from reverie.diffusion.hints import edges, shapes
from reverie.nets import DiTConfig, JiTConfig, MMDiTConfig, UNetConfig, UViTConfig, taps
from reverie.nets.adapter import Adapter
from reverie.nets.controlnet import ControlNet, fingerprint
from reverie.nets.prior import Prior

from .shaken import shaken

SIZE = 16
CONFIGS = {
    "unet": UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4),
    "folded": UNetConfig(
        width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4, patch=2, resample="residual"
    ),
    "dit": DiTConfig(patch=4, width=16, depth=3, heads=2),
    "uvit": UViTConfig(patch=4, width=16, depth=5, heads=2),
    "mmdit": MMDiTConfig(patch=4, width=16, depth=5, heads=2, context=0),
}


def model(name: str = "unet", seed: int = 1) -> NetDenoiser:
    net = shaken(rv.nets.build(CONFIGS[name], channels=1, size=SIZE, classes=3), seed)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(1, SIZE, SIZE))


def noise(n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def hint(n: int, seed: int = 4) -> torch.Tensor:
    return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


LABELS = rv.Cond(label=[0, 1, 2])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_step_is_the_base_bit_for_bit(name: str):
    """Also guided, and with a prior; once its zeros have moved it is not, and then it hears hint, time and label."""
    base = model(name)
    net = ControlNet(base.net)
    x = noise(3)
    assert torch.equal(control(base, net, hint(3))(x, 0.4, LABELS).out, base(x, 0.4, LABELS).out)
    guided = (rv.guide.cfg(d, 3.0)(x, 0.4, LABELS).x0 for d in (control(base, net, hint(3)), base))
    assert torch.equal(*guided)
    shaken(net)
    out = control(base, net, hint(3))(x, 0.4, LABELS).out
    assert (out - base(x, 0.4, LABELS).out).abs().amax((1, 2, 3)).min() > 1e-3
    assert (out - control(base, net, hint(3).flip(0))(x, 0.4, LABELS).out).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-4
    told = net.told(hint(3), base.space)
    added = net(x, torch.tensor(0.4), LABELS, told)
    assert set(added) == set(net.sites) <= set(taps.sites(base))
    for other in (
        net(x, torch.tensor(0.9), LABELS, told),
        net(x, torch.tensor(0.4), rv.Cond(label=[1, 2, 0]), told),
    ):
        assert any((added[site] - other[site]).abs().max() > 1e-4 for site in net.sites)


@pytest.mark.parametrize("name", ["unet", "folded"])
def test_an_adapter_tells_the_encoder(name: str):
    """Bit-equal at first; then what it adds at the end of a level goes down and across, and is of the hint alone."""
    base = model(name)
    net = Adapter(base.net)
    x = noise(3)
    assert torch.equal(control(base, net, hint(3))(x, 0.4, LABELS).out, base(x, 0.4, LABELS).out)
    shaken(net)
    told = control(base, net, hint(3))(x, 0.4, LABELS).out
    added = net(x, torch.tensor(0.4), LABELS, hint(3))
    assert list(added) == ["down.0.0", "down.1.1"]
    assert torch.allclose(told, taps.add(base, added)(x, 0.4, LABELS).out, atol=1e-6)
    assert (told - base(x, 0.4, LABELS).out).abs().amax((1, 2, 3)).min() > 1e-3
    other = net(noise(3, 9), torch.tensor(0.9), None, hint(3))
    assert all(torch.equal(added[site], other[site]) for site in added)
    assert not torch.equal(added["down.0.0"], net(x, torch.tensor(0.4), LABELS, hint(3, 8))["down.0.0"])
    across = taps.add(base, {"skip.1": added["down.0.0"], "skip.3": added["down.1.1"]})(x, 0.4, LABELS).out
    assert (told - across).abs().max() > 1e-4  # a ControlNet's way, to the skips alone
    small, large = (sum(p.numel() for p in kind(base.net).parameters()) for kind in (Adapter, ControlNet))
    assert small < 0.8 * large
    with pytest.raises(InputError, match="levels of a U-Net of ours: got DiT"):
        Adapter(model("dit").net)


def test_what_is_added_is_what_the_paper_adds():
    """At the skips and the middle: the same by hand, with residuals at the sites; the control adds at one of them less."""
    base = model()
    net = shaken(ControlNet(base.net))
    x, t = noise(3), 0.4
    added = net(x, torch.tensor(t), LABELS, hint(3))
    assert list(added) == ["skip.0", "skip.1", "skip.2", "skip.3", "middle.1"]
    ours = control(base, net, hint(3))(x, t, LABELS).out
    assert torch.allclose(ours, taps.add(base, added)(x, t, LABELS).out, atol=1e-6)
    fewer = {site: value for site, value in added.items() if site != "skip.2"}
    assert not torch.allclose(ours, taps.add(base, fewer)(x, t, LABELS).out, atol=1e-4)


def test_the_blocks_of_an_mmdit_share_those_of_its_copy():
    """Two copied blocks of five serve four, by hand: three the first; the control serves each its own number. The hint is told as
    pictures are, one channel in place of all, and maps beyond three as they are."""
    base = model("mmdit")
    net = shaken(ControlNet(base.net))
    x, t = noise(3), 0.4
    told = net.told(hint(3), base.space)
    assert torch.equal(told, 2.0 * hint(3) - 1.0)
    added = list(net(x, torch.tensor(t), LABELS, told).values())
    ours = control(base, net, hint(3))(x, t, LABELS).out
    shared, own = (
        taps.add(base, {f"blocks.{b}": added[i] for b, i in enumerate(which)})(x, t, LABELS).out
        for which in ((0, 0, 0, 1), (0, 1, 1, 1))
    )
    assert torch.allclose(ours, shared, atol=1e-6) and (ours - own).abs().max() > 1e-4

    colours = rv.nets.build(CONFIGS["mmdit"], channels=3, size=SIZE, classes=3)
    both = torch.rand(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    codes = ControlNet(colours, 4).told(both, base.space)
    assert torch.equal(codes, torch.cat([2.0 * both[:, :3] - 1.0, both[:, 3:]], dim=1))
    assert torch.equal(
        ControlNet(colours).told(both[:, :1], base.space), (2.0 * both[:, :1] - 1.0).expand(-1, 3, -1, -1)
    )
    with pytest.raises(InputError, match="pictures of 1 channels has 1 or as many: got 3"):
        net.told(both[:, :3], base.space)
    net.base = None
    for other in (model("dit"), model("unet")):
        with pytest.raises(InputError, match="steers an MM-DiT of ours of two blocks at least and 16 features"):
            control(other, net, hint(3))
    for depth in (0, 5):
        with pytest.raises(InputError, match=f"not the last, which gives no text: got {depth} of 5"):
            ControlNet(base.net, depth=depth)
    assert ControlNet(base.net, depth=4).sites == [f"blocks.{i}" for i in range(4)]


def test_several_with_weights_and_intervals():
    """Two at once add; weight 0 is the base; outside of its logsnr a hint is not heard, sample by sample."""
    base = model()
    a, b = shaken(ControlNet(base.net), 1), shaken(ControlNet(base.net), 2)
    x, t, time = noise(3), 0.4, torch.tensor(0.4)
    one, two = a(x, time, LABELS, hint(3)), b(x, time, LABELS, hint(3, 5))
    both = control(control(base, a, hint(3), 0.5), b, hint(3, 5), 2.0)(x, t, LABELS).out
    by_hand = taps.add(base, {site: 0.5 * one[site] + 2.0 * two[site] for site in one})(x, t, LABELS).out
    assert torch.allclose(both, by_hand, atol=1e-5)
    assert not torch.allclose(both, control(base, a, hint(3), 0.5)(x, t, LABELS).out, atol=1e-3)
    assert torch.equal(control(base, a, hint(3), 0.0)(x, t, LABELS).out, base(x, t, LABELS).out)

    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    late = control(base, a, hint(3), interval=(-math.inf, 0.5))(x, times, LABELS).out  # logsnr of the flow at 0.5 is 0
    always, never = control(base, a, hint(3))(x, times, LABELS).out, base(x, times, LABELS).out
    assert torch.equal(late[0], never[0]) and torch.equal(late[1:], always[1:])
    assert (always[0] - never[0]).abs().max() > 1e-3


def test_one_hint_serves_all_and_guidance_tells_both_branches():
    base = model()
    net = shaken(ControlNet(base.net))
    x = noise(3)
    one, three = hint(1), hint(1).expand(3, -1, -1, -1)
    assert torch.equal(control(base, net, one)(x, 0.4, LABELS).out, control(base, net, three)(x, 0.4, LABELS).out)
    told = control(base, net, hint(3))
    null, cond = told(x, 0.4, LABELS.null()).x0, told(x, 0.4, LABELS).x0
    assert torch.allclose(rv.guide.cfg(told, 3.0)(x, 0.4, LABELS).x0, null + 3.0 * (cond - null), atol=1e-4)


def test_a_prior_is_shown_to_the_copy_too():
    config = UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4, image=1)
    net = shaken(rv.nets.build(config, channels=1, size=SIZE, classes=3))
    net.prior = Prior(3, (1, SIZE, SIZE), 2)
    net.prior.fit(noise(30), torch.arange(30) % 3)
    base = NetDenoiser(net.eval(), Flow(), shape=(1, SIZE, SIZE))
    told = ControlNet(net)
    assert not any(name.startswith("copy.prior") for name in told.state_dict())
    x = noise(3)
    assert torch.equal(control(base, told, hint(3))(x, 0.4, LABELS).out, base(x, 0.4, LABELS).out)


UNUSED = {f"copy.blocks.1.{part}" for part in ("text.mlp.inner", "text.mlp.outer", "attention.out_context")}
"""What the last copied block of an MM-DiT would do to the text."""


@pytest.mark.parametrize("name", ["unet", "dit", "uvit", "mmdit"])
def test_only_the_control_learns(name: str):
    """After steps the base is what it was, by its hash, and every weight of the copy that is used has a gradient."""
    base = model(name)
    net = ControlNet(base.net)
    before = fingerprint(base.net)
    x = torch.where(torch.arange(SIZE) < SIZE // 2, -1.0, 1.0).expand(4, 1, SIZE, SIZE)
    task = Controlling(Control(base, net), Uniform(), edges, drop=0.0)
    batch = Batch(x, rv.Cond(label=[0, 1, 2, 0]))
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = task.loss("control", batch, Draws(0, 0, 4), Moment(0, 0, 1))["mse"].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert fingerprint(base.net) == before == net.base
    idle = {name.rpartition(".")[0] for name, p in net.named_parameters() if p.grad is None}
    assert idle == (UNUSED if name == "mmdit" else set())
    assert task.players["base"].saved == "none" and task.players["base"].optim is None
    with torch.no_grad():
        next(base.net.parameters()).add_(1e-3)
    assert fingerprint(base.net) != before  # what the hash would have seen


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_is_shown_has_the_hints_of_what_is_drawn(seconds: float, monkeypatch: pytest.MonkeyPatch):
    """Also where there is time for fewer pictures than there are hints: three rows of those that there are."""
    monkeypatch.setattr(showing, "SECONDS", seconds)
    data = rv.data.load("mnist5k")
    config = ControlNetConfig(
        base="base", model=DenoisingConfig(net=UNetConfig(width=8, multipliers=(1, 1), blocks=1, groups=4))
    )
    steered = config.build(data.spec, 0)
    shown = config.task(steered, data, data, SampleConfig(steps=2), 0).preview()
    assert (
        shown is not None and shown.columns == (1 if seconds == 0.0 else 8) and len(shown.images) == 3 * shown.columns
    )
    real, maps = shown.images[: shown.columns], shown.images[shown.columns : 2 * shown.columns]
    assert torch.equal(maps, 2.0 * edges(real) - 1.0)


def test_another_base_is_refused():
    base = model()
    net = ControlNet(base.net)
    with pytest.raises(InputError, match="trained on a model of other weights"):
        control(model(seed=2), net, hint(1))
    assert (
        control(control(base, net, hint(1)), net, hint(1)) is not None
    )  # itself, drawn by a hint already, is no other


def test_what_does_not_fit_is_said():
    base = model()
    net = ControlNet(base.net)
    with pytest.raises(InputError, match=r"\(n, 1, 16, 16\): got \(1, 1, 8, 8\); nothing is resized"):
        control(base, net, hint(1)[..., :8, :8])
    with pytest.raises(InputError, match="numbers 0 to 1: got -1"):
        control(base, net, 2 * shapes(noise(1)) - 1)
    with pytest.raises(InputError, match="got 2 hints for 3 samples"):
        control(base, net, hint(2))(noise(3), 0.4, LABELS)
    jit = rv.nets.build(
        JiTConfig(patch=4, width=16, depth=2, heads=2, context_start=1), channels=1, size=SIZE, classes=3
    )
    with pytest.raises(InputError, match="U-Net, U-ViT, DiT or MM-DiT of ours: got JiT"):
        ControlNet(jit)
    with pytest.raises(InputError, match="does not come down"):
        ControlNet(base.net, size=(24, 16))


def test_hints_of_what_is_known():
    """A square: its edge is where it ends, and 0 inside and outside; its shape is itself. Both follow it, and no brightness."""
    x = -torch.ones(1, 3, 12, 12)
    x[..., 3:9, 3:9] = 1.0
    edge, shape = edges(x), shapes(x)
    assert edge.shape == shape.shape == (1, 1, 12, 12)
    assert edge[0, 0, 6, 3] == 1.0 and edge[0, 0, 6, 6] == 0.0 == edge[0, 0, 0, 0]
    assert torch.equal(shape[0, 0], (x[0, 0] > 0).float()) and torch.equal(shapes(0.1 * x), shape)
    assert torch.allclose(edges(x + 0.5), edge) and torch.equal(edges(x.roll(2, -1)), edge.roll(2, -1))
    assert not torch.equal(edges(x.roll(2, -1)), edge)


@pytest.mark.slow
def test_a_trained_one_follows_its_hint(tmp_path):
    """After a minute on the edges of digits, what is drawn has the edges of its hint: they agree at least twice as well as with a hint of
    another picture. The label is not told, so that nothing else says what is to be drawn."""
    from reverie.cli import main

    base = "train demo --train.images 20000 --train.warmup 600 --train.processes 1 --train.validate-every 20000 --train.sample-every 20000"
    assert main([*base.split(), "--out", str(tmp_path / "base")]) == 0
    told = f"train controlnet --base {tmp_path / 'base'} --hint edges --train.images 6400 --train.lr 0.003 --train.warmup 640 --drop 1"
    assert main([*told.split(), "--out", str(tmp_path / "run")]) == 0
    steered, x = rv.load(tmp_path / "run"), rv.data.load("mnist5k", "test").batch(range(48)).x
    drawn = edges(rv.sample(steered(edges(x)), 48, steps=12, scale=1.0))

    def fidelity(hints: torch.Tensor) -> float:
        """The mean correlation of the edges drawn with those of the hints."""
        a, b = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (drawn, hints))
        return float(torch.nn.functional.cosine_similarity(a, b).mean())

    assert fidelity(edges(x)) > 0.8 and fidelity(edges(x)) > 2.0 * fidelity(edges(x).roll(1, 0))
