"""What DreamBooth and textual inversion promise, on the painted world: the subject is learned, and its class and every other row stay."""

import math

import torch
from torch import Tensor

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.times import Uniform
from reverie.diffusion.denoising import Denoising
from reverie.guide import cfg
from reverie.measure.frechet import frechet_distance
from reverie.nets import build

from .subjects import NET, base, painted, trained

SUBJECT = torch.tensor([[0.8, -0.6, 0.1]])


def drawn(model: Denoiser, label: int, n: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return rv.sample(cfg(model, scale), n, Cond(label=[label] * n), "euler", 12, seed=seed, progress="")


def halves(images: Tensor) -> Tensor:
    """The colours of both halves, (B, 6)."""
    return torch.cat([images[..., :4].mean((2, 3)), images[..., 4:].mean((2, 3))], 1)


def test_dreambooth_learns_the_subject_and_its_prior_keeps_the_class():
    """One colour on the left is learned as a token like the left, which is of any colour; without the prior all that is left becomes it."""
    denoise = base()
    pictures = painted(SUBJECT.expand(4, -1), torch.zeros(4), 3)
    before = drawn(denoise, 0, 100)

    def is_subject(images: Tensor) -> float:
        return float(((halves(images) - torch.cat([SUBJECT, -torch.ones(1, 3)], 1)).norm(dim=1) < 0.45).double().mean())

    drift, accuracy = {}, {}
    for preserve in (1.0, 0.0):
        how = {"token": "<mine>", "like": "0", "steps": 300, "batch": 16, "rate": 3e-3, "drawn": 64}
        adapter = rv.adapt.fit(denoise, pictures, "dreambooth", preserve=preserve, **how)
        model = rv.adapt.apply(denoise, adapter)
        accuracy[preserve] = is_subject(drawn(model, 2, 100))
        drift[preserve] = frechet_distance(halves(drawn(model, 0, 100)), halves(before))
    assert min(accuracy.values()) >= 0.8 > 0.1 > is_subject(before), accuracy
    assert drift[1.0] <= 0.5 * drift[0.0], drift
    assert frechet_distance(halves(drawn(denoise, 0, 100, seed=1)), halves(before)) < drift[1.0]  # control: other noise


HUES, KNOWN = 8, [0, 1, 2, 4, 5, 6, 7]
"""A circle of colours, of which one is held out."""


def colour(hue: Tensor) -> Tensor:
    angle = 2.0 * math.pi * hue / HUES
    return 0.1 + 0.8 * torch.stack([torch.cos(angle - 2.0 * math.pi * k / 3.0) for k in range(3)], 1)


def hue(images: Tensor) -> Tensor:
    """The nearest hue of the brighter half, (B,)."""
    r, g, b = halves(images).unflatten(1, (2, 3)).amax(1).T
    return (HUES * torch.atan2(3**0.5 * (g - b), 2.0 * r - g - b) / (2.0 * math.pi)).round().long() % HUES


def told_hues() -> NetDenoiser:
    """A model of the known hues, on either side."""
    torch.manual_seed(0)
    net = build(NET, channels=3, size=8, classes=len(KNOWN))
    denoise = NetDenoiser(net, Flow(), "flow", shape=(3, 8, 8))

    def feed(rows: Tensor) -> Batch:
        rng = torch.Generator().manual_seed(int(rows[0]))
        label, side = (torch.randint(n, (len(rows),), generator=rng) for n in (len(KNOWN), 2))
        return Batch(painted(colour(torch.tensor(KNOWN)[label]), side, int(rows[0])), Cond(label=label))

    trained(Denoising(denoise, Uniform(), drop=0.1), feed, 500, 4e-3, 64)
    net.eval().requires_grad_(False)
    return denoise


def test_textual_inversion_draws_a_style_that_was_held_out_and_leaves_the_other_rows():
    denoise = told_hues()
    table: Tensor = denoise.net.conditioning.label.table.weight  # pyright: ignore
    rows, others = table.clone(), [drawn(denoise, k, 16, 2.0) for k in range(len(KNOWN))]
    pictures = painted(colour(torch.full((5,), 3.0)), torch.tensor([0, 1, 0, 1, 0]), 9)

    def learned(rate: float, of: Tensor = pictures) -> Denoiser:
        how = {"token": "<mine>", "like": "2", "steps": 150, "batch": 16, "rate": rate}
        return rv.adapt.apply(denoise, rv.adapt.fit(denoise, of, "textual", **how))

    def share(model: Denoiser) -> float:
        return float((hue(drawn(model, len(KNOWN), 96, 2.0)) == 3).double().mean())

    model = learned(0.1)
    assert share(model) >= 0.8, share(model)
    assert share(learned(0.0)) < 0.1  # control: the row that it begins as
    assert share(learned(0.1, pictures.roll(1, 1))) < 0.1  # control: pictures of another hue
    assert torch.equal(table, rows)
    mine: Tensor = model.net.conditioning.label.table.weight  # pyright: ignore
    assert all(torch.equal(mine[k], rows[k]) for k in range(len(KNOWN)))
    for k, before in enumerate(others):
        assert (hue(before) == KNOWN[k]).double().mean() > 0.9
        assert torch.equal(drawn(model, k, 16, 2.0), before)
