"""RealFill: what is known stays and is all that is learned of the picture; a hole is filled with what the references show there."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.training import Adapting
from reverie.core.batch import Batch, DataSpec
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.diffusion import palette
from reverie.diffusion.conditioned import PaletteConfig
from reverie.edit import masked
from reverie.edit.realfill import Filling

from ..adapt import told_discs
from ..adapt.small import DIT, images, model, spread
from ..guide import discs
from ..margin import apart
from .closed_form import rms

MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[4:, 3:] = True
FEW = {"iterations": 3, "batch": 2, "rate": 0.05, "steps": 3}


def of_holes(op: str = "inpaint", **how) -> NetDenoiser:
    torch.manual_seed(0)
    denoise = palette.build(PaletteConfig(op=op, net=DIT, **how), DataSpec((1, 8, 8)), 0)
    spread(denoise.net)
    return denoise


@pytest.mark.parametrize("made", [lambda: model(DIT, None), of_holes], ids=["plain", "palette"])
def test_what_is_known_stays_bit_for_bit_and_what_was_in_the_hole_is_not_looked_at(made):
    denoise, x, others = made(), images(1, seed=1), images(2, seed=2)
    hashed = fingerprint(denoise.net)
    filled = rv.edit.realfill(denoise, x, MASK, others, n=2, **FEW)
    assert filled.shape == (2, 1, 8, 8) and torch.equal(filled[..., ~MASK], x.expand(2, -1, -1, -1)[..., ~MASK])
    assert apart(filled[..., MASK], x.expand(2, -1, -1, -1)[..., MASK]) > 0.1 and apart(filled[0], filled[1]) > 1e-2
    if "image" in denoise.conditions:
        hidden = torch.where(MASK, -x, x)
        assert torch.equal(rv.edit.realfill(denoise, hidden, MASK, others, n=2, **FEW), filled)
    shown = torch.where(MASK, x, x.flip(-1))
    assert apart(rv.edit.realfill(denoise, shown, MASK, others, n=2, **FEW)[..., MASK], filled[..., MASK]) > 1e-4
    other = rv.edit.realfill(denoise, x, MASK, -others, n=2, **FEW)
    assert apart(other[..., MASK], filled[..., MASK]) > 1e-4 and fingerprint(denoise.net) == hashed


@pytest.mark.parametrize("made", [lambda: model(DIT, None), of_holes], ids=["plain", "palette"])
def test_the_error_counts_where_the_picture_is_known(made):
    denoise, x, rng = made(), images(2), Draws(0, 0, 2)
    known = (~MASK).float().expand(2, 1, 8, 8).clone()
    known[0] = 1.0
    work = Filling(Adapting(denoise, Adapter("lora", "", {}), None), None)
    told = None
    if work.shown:
        left = known * palette.holes(x, rng)
        assert 0.0 < float(left[0].mean()) < 1.0
        told = palette.Shown(left * x, left).cond()
    x0, noise = work.denoising.pair(x, rng)
    out = work.denoising.estimate(x0, noise, work.denoising.times(rng.even("time")), told).out
    error = (out - (noise - x0)).square()
    found = work.loss("adapter", Batch(x, extra={"known": known}), rng, Moment(0, 0, 1))["mse"]
    assert torch.allclose(found, (error * known).sum((1, 2, 3)) / known.sum((1, 2, 3)), rtol=1e-4)
    assert apart(found[1:], error.mean((1, 2, 3))[1:]) > 1e-3  # control: everywhere


def moved(by: tuple[int, int], blue: tuple[float, float]) -> Tensor:
    """Two discs seen from elsewhere, (1, 3, 16, 16)."""
    places = {(1.0, 0.0, 0.0): (4.5, 5.5), (0.0, 0.0, 1.0): blue}
    seen = [told_discs.disc(colour, (y + by[0], x + by[1]))[0] for colour, (y, x) in places.items()]
    return torch.maximum(*seen)[None]


@pytest.mark.slow
def test_a_hole_is_filled_with_what_the_references_show_there():
    """Of two discs one is hidden. The base draws one somewhere; of references it is drawn where they show it; others are the control."""
    base, truth, mask = told_discs.model(), moved((0, 0), (11.0, 10.0)), torch.zeros(16, 16, dtype=torch.bool)
    mask[7:, 5:] = True
    told, n = base.conditioner("red blue ground"), 8
    target = torch.where(mask, -torch.ones(()), truth)

    def off(filled: Tensor) -> float:
        assert torch.equal(filled[..., ~mask], target.expand(n, -1, -1, -1)[..., ~mask])
        return rms(filled[..., mask], truth.expand(n, -1, -1, -1)[..., mask])

    def learned(blue: tuple[float, float]) -> float:
        seen = torch.cat([moved(by, blue) for by in ((0, 1), (1, 0), (0, -1))])
        how = {"iterations": 150, "rate": 1e-2, "rank": 8, "steps": 20}
        return off(rv.edit.realfill(base, target, mask, seen, told, n, **how))

    plain = off(masked(base, target.expand(n, -1, -1, -1), mask, told, steps=20))
    right, wrong = learned((11.0, 10.0)), learned((11.5, 8.0))
    assert right < 0.8 * plain and right < 0.85 * wrong, (plain, right, wrong)


def test_what_cannot_be_filled_is_said():
    denoise, x = model(DIT, None), images(1)
    for words, given in (
        ("by references of its size", (denoise, images(2), MASK, x)),
        ("by references of its size", (denoise, x, MASK, torch.zeros(1, 1, 4, 4))),
        ("it needs both", (denoise, x, torch.ones(8, 8), x)),
        ("the mask is 1x4x8", (denoise, x, MASK[:4], x)),
        ("threshold it first", (denoise, x, 0.5 * MASK, x)),
        ("--op inpaint", (of_holes("jpeg"), x, MASK, x)),
        ("leave cond out", (of_holes(), x, MASK, x, rv.Cond(label=1))),
    ):
        with pytest.raises(InputError, match=words):
            rv.edit.realfill(*given)


def test_the_discs_are_what_they_were_trained_as():
    """What the other tests take for granted of the stored model: told two colours by words, it draws these."""
    drawn = rv.sample(told_discs.model(), 4, text="red blue ground", steps=10, solver="euler", seed=0, progress="")
    lit = (drawn > 0.0).sum((2, 3))
    assert (lit[:, [0, 2]] > 10).all() and (lit[:, 1] < 4).all() and discs.FILE.exists()
