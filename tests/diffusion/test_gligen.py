"""Boxes read by a frozen model: bit-equal at first, exact about what is read where, trained for seconds on discs, and what is refused."""

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
from reverie.core.times import LogitNormal
from reverie.data import Mirrored, TensorSet
from reverie.diffusion.gligen import Gligen, Reading, grounded, reader
from reverie.learn.muon import Muon
from reverie.nets import DiTConfig, MMDiTConfig, UNetConfig, UViTConfig
from reverie.nets.controlnet import fingerprint
from reverie.nets.grounding import Boxes, fourier

from ..guide import discs
from .shaken import shaken

SIZE, CLASSES = 16, 3
CONFIGS = {
    "unet": UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4),
    "told": UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4, context=8),
    "dit": DiTConfig(patch=4, width=16, depth=2, heads=2),
    "uvit": UViTConfig(patch=4, width=16, depth=3, heads=2),
    "mmdit": MMDiTConfig(patch=4, width=16, depth=2, heads=2, context=8),
}
LABELS = rv.Cond(label=[0, 1, 2])
X = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def model(name: str = "unet", seed: int = 1) -> NetDenoiser:
    net = shaken(rv.nets.build(CONFIGS[name], channels=1, size=SIZE, classes=3), seed)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(1, SIZE, SIZE))


def layout(taught: Gligen, n: int = 3, seed: int = 4) -> Boxes:
    """Two boxes a sample, of the last one only one."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(CLASSES, (n, 2, 1), generator=generator).float()
    corners = torch.rand(n, 2, 4, generator=generator).sort(-1).values[..., [0, 1, 2, 3]]
    rows = torch.cat([kind, corners], 2)
    rows[-1, 1] = -1.0
    table = torch.randn(CLASSES, 8, generator=generator) if taught.net.classes is None else None
    return taught.boxes(rows, table)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_step_is_the_base_bit_for_bit(name: str):
    """Also guided; once the gates are open each sample hears its own boxes, and padding is not heard."""
    base = model(name)
    taught = Gligen(base, reader(base, 16, CLASSES, 0))
    boxes = layout(taught)
    assert torch.equal(grounded(base, taught.net, boxes)(X, 0.4, LABELS).out, base(X, 0.4, LABELS).out)
    guided = (rv.guide.cfg(d, 3.0)(X, 0.4, LABELS).x0 for d in (grounded(base, taught.net, boxes), base))
    assert torch.equal(*guided)
    shaken(taught.net)
    with torch.no_grad():
        out = grounded(base, taught.net, boxes)(X, 0.4, LABELS).out
        assert (out - base(X, 0.4, LABELS).out).abs().amax((1, 2, 3)).min() > 1e-3
        moved = boxes._replace(corners=boxes.corners.clone())
        moved.corners[0] *= 0.5
        moved.corners[2, 1] = 0.7  # where there is no box
        other = grounded(base, taught.net, moved)(X, 0.4, LABELS).out
        assert torch.equal(out[1:], other[1:]) and (out[0] - other[0]).abs().max() > 1e-4
        turned = Boxes(*(part.flip(1) for part in boxes))
        same = grounded(base, taught.net, turned)(X, 0.4, LABELS).out
        assert torch.allclose(out, same, atol=1e-5)  # boxes have no order
        null, cond = (grounded(base, taught.net, boxes)(X, 0.4, c).x0 for c in (LABELS.null(), LABELS))
        led = rv.guide.cfg(grounded(base, taught.net, boxes), 3.0)(X, 0.4, LABELS).x0
        assert torch.allclose(led, null + 3.0 * (cond - null), atol=1e-4)


def test_boxes_are_read_in_their_interval_only():
    base = model()
    taught = Gligen(base, shaken(reader(base, 16, CLASSES, 0)))
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    with torch.no_grad():
        late = grounded(base, taught.net, layout(taught), (-math.inf, 0.5))(X, times, LABELS).out
        always, never = grounded(base, taught.net, layout(taught))(X, times, LABELS).out, base(X, times, LABELS).out
    assert torch.equal(late[0], never[0]) and torch.equal(late[1:], always[1:])
    assert (always[0] - never[0]).abs().max() > 1e-3


def test_the_features_of_corners_tell_them_apart():
    """The lowest frequency is 1, the next ones grow by 100^(1/8): by hand."""
    corner = torch.tensor([0.1, 0.2, 0.5, 0.9])
    found = fourier(corner)
    assert found.shape == (64,)
    assert torch.allclose(found[:8], torch.stack([torch.sin(0.1 * torch.tensor(100.0 ** (i / 8))) for i in range(8)]))
    assert torch.allclose(found[56:], torch.stack([torch.cos(0.9 * torch.tensor(100.0 ** (i / 8))) for i in range(8)]))


def test_boxes_turn_with_their_pictures():
    rows = torch.tensor([[[1.0, 0.1, 0.2, 0.5, 0.4], [-1.0, -1.0, -1.0, -1.0, -1.0]]])
    both = Mirrored(TensorSet(X[:1], extra={"boxes": rows})).batch([0, 1])
    assert torch.equal(both.extra["boxes"][0], rows[0]) and torch.equal(both.x[1], X[0].flip(-1))
    assert torch.allclose(both.extra["boxes"][1, 0], torch.tensor([1.0, 0.1, 0.6, 0.5, 0.8]))
    assert both.extra["boxes"][1, 1, 0] == -1.0


def told_discs(n: int, seed: int) -> tuple[torch.Tensor, rv.Cond, torch.Tensor]:
    """Pictures of two discs, their words, and their boxes (n, 2, 5), the class of which is the colour."""
    x0, words = discs.pictures(n, torch.Generator().manual_seed(seed))
    rows, radius = [], (discs.RADIUS + 0.5) / discs.SIZE
    for i in (0, 1):
        colour = (words["text"].value[:, i, None] - discs.WORDS).abs().sum(-1).argmin(1)
        at = discs.centre(x0, colour)
        rows.append(torch.cat([colour[:, None].float(), at - radius, at + radius], 1).clamp(min=0))
    return x0, words, torch.stack(rows, 1)


def taught_discs(steps: int, batch: int = 16) -> tuple[Reading, Gligen]:
    """A frozen painter of discs that is taught to read boxes, at times when places are decided."""
    base = discs.load()
    taught = Gligen(base, reader(base, 32, 0, 0))
    task = Reading(taught, LogitNormal(1.5, 1.0), discs.WORDS, drop=0.0)
    optimizer = Muon(taught.net, lr=0.02, adam_lr=0.005)
    for step in range(steps):
        x0, words, rows = told_discs(batch, step)
        some, rng = Batch(x0, words, {"boxes": rows}), Draws(0, batch * step, batch)
        loss = task.loss("gligen", some, rng, Moment(step, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return task, taught


def test_only_the_reader_learns():
    """Every weight of it, once the gates are open; the base is what it was, by its hash."""
    task, taught = taught_discs(2)
    assert fingerprint(taught.base.net) == fingerprint(discs.load().net) == taught.net.base
    idle = [name for name, p in taught.net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, idle
    assert task.players["base"].saved == "none" and task.players["base"].optim is None
    with torch.no_grad():
        next(taught.base.net.parameters()).add_(1e-3)
    assert fingerprint(taught.base.net) != taught.net.base  # what the hash would have seen


@pytest.mark.slow
def test_discs_are_drawn_in_their_boxes():
    """After half a minute a disc is in its own box more often than in that of another picture, and than where no box is told."""
    _, taught = taught_discs(400)
    taught.net.requires_grad_(False)
    _, words, rows = told_discs(48, 10_000)
    boxes = taught.boxes(rows, discs.WORDS)
    drawn = rv.sample(grounded(taught.base, taught.net, boxes), cond=words, solver="euler", steps=12)
    free = rv.sample(taught.base, cond=words, solver="euler", steps=12)

    def share(pictures: torch.Tensor, rows: torch.Tensor) -> float:
        """Of discs whose middle is in the box of their colour."""
        found = []
        for i in (0, 1):
            at = discs.centre(pictures, rows[:, i, 0].long())
            found.append(((at > rows[:, i, 1:3]) & (at < rows[:, i, 3:])).all(1))
        return float(torch.stack(found).float().mean())

    other = rows.roll(1, 0)
    other[..., 0] = rows[..., 0]  # its own colours, at the places of another picture
    own, elsewhere, untold = share(drawn, rows), share(drawn, other), share(free, rows)
    assert own > 0.5 and own > 2.0 * elsewhere and own > 2.0 * untold, (own, elsewhere, untold)


def test_what_does_not_fit_is_said():
    base = model()
    taught = Gligen(base, reader(base, 16, CLASSES, 0))
    assert taught([(1, 0.1, 0.1, 0.5, 0.5)])(X, 0.4, LABELS).out.shape == X.shape
    with pytest.raises(InputError, match=r"classes of boxes, 0 to 2: got \[3\]"):
        taught([(3, 0, 0, 1, 1)])
    with pytest.raises(InputError, match=r"classes of boxes, 0 to 2: got \['a heart'\]"):
        taught([("a heart", 0, 0, 1, 1)])
    with pytest.raises(InputError, match="give one at least"):
        taught([])
    with pytest.raises(InputError, match="boxes was trained on a model of other weights"):
        grounded(model(seed=2), taught.net, layout(taught))
    with pytest.raises(InputError, match="got the boxes of 2 samples for 3"):
        grounded(base, taught.net, layout(taught, 2))(X, 0.4, LABELS)
    told = model("told")
    with pytest.raises(InputError, match=r"in words what a box is to hold: got \[0\]"):
        Gligen(told, reader(told, 16, CLASSES, 0))([(0, 0, 0, 1, 1)])
    plain = UNetConfig(width=8, multipliers=(1, 1), blocks=1, attention=(), groups=4)
    plain = NetDenoiser(rv.nets.build(plain, channels=1, size=SIZE), Flow(), shape=(1, SIZE, SIZE))
    try:
        net = reader(plain, 16, CLASSES, 0)
    except InputError as error:
        assert "train one with --net.attention" in str(error)
    else:
        assert net.sites == ["middle.0"]  # which attends always
