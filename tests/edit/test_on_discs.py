"""Editors on a trained network, that of :mod:`tests.guide.discs`: what each promises is seen in the picture, and in a fake of it is not."""

from importlib import import_module

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.edit import imagic, inversion, masactrl, pix2pix_zero, plug_and_play, reconstruct, sdedit
from reverie.edit.branches import EDIT, SOURCE, START, Branched, attentions, changed_attention, late
from reverie.edit.dragon import Energetic, Regions, dragon
from reverie.edit.inversion.regularised import autocorrelation, like_noise
from reverie.edit.masactrl import Mutual
from reverie.edit.pix2pix_zero import Watcher, nearer
from reverie.solve import DDIM

from ..adapt.told_discs import disc
from ..guide import discs
from ..margin import apart
from . import blocks
from .closed_form import rms

FIRST, SECOND = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
THIRD = 3 - FIRST - SECOND
"""Two colours of each picture, and the one that takes the place of the first."""


@pytest.fixture(scope="module")
def denoise() -> Denoiser:
    return discs.load()


def drawn(denoise: Denoiser, each: int = 1) -> tuple[Tensor, Cond, Cond]:
    """Pictures of the two colours, what they are told, and what their edits are."""
    first, second, third = (colour.repeat(each) for colour in (FIRST, SECOND, THIRD))
    source = discs.text(first, second)
    return rv.sample(denoise, len(first), source, "euler", 20, seed=0, progress=""), source, discs.text(third, second)


def lit(images: Tensor) -> Tensor:
    """Pixels lit in each colour, (N, 3)."""
    return (images > 0.0).sum((2, 3))


def kept(images: Tensor, source: Tensor) -> float:
    """The edges of what is bright, as they were: intersection over union."""

    def edges(x: Tensor) -> Tensor:
        thing = x.amax(1) > 0.0
        return (thing[:, 1:, :-1] != thing[:, :-1, :-1]) | (thing[:, :-1, 1:] != thing[:, :-1, :-1])

    a, b = edges(images), edges(source)
    return float(((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)).mean())


def test_plug_and_play_keeps_more_edges_than_sdedit_where_as_many_edits_succeed(denoise):
    images, source, target = drawn(denoise, 3)
    rows, first, second, third = torch.arange(18), *(colour.repeat(3) for colour in (FIRST, SECOND, THIRD))

    def success(edited: Tensor) -> float:
        count = lit(edited)
        done = (count[rows, third] > 10) & (count[rows, second] > 10) & (count[rows, first] < 4)
        return float(done.double().mean())

    code = inversion.ode(denoise, images, source, 20)
    featured, plain = (plug_and_play(denoise, code, target, until=until) for until in (-0.96, -100.0))
    noised = [sdedit(denoise, images, target, start, steps=20, seed=1) for start in (0.55, 0.6, 0.7, 0.8)]
    assert success(featured) > 0.85 and success(images) == 0.0 and kept(images, images) == 1.0
    level = max(kept(each, images) for each in noised if success(each) >= success(featured) - 0.06)
    assert kept(featured, images) > level + 0.04
    assert success(plain) > 0.85 and kept(plain, images) < level + 0.04  # control: without the features


@pytest.fixture(scope="module", params=["stored", pytest.param("anew", marks=pytest.mark.slow)])
def of_blocks(request, tmp_path_factory) -> Denoiser:
    file = blocks.FILE
    if request.param == "anew":
        file = tmp_path_factory.mktemp("blocks") / blocks.FILE.name
        blocks.save(blocks.train(), file)
    assert file.stat().st_size < 300_000
    return blocks.load(file)


def test_masactrl_moves_the_things_and_keeps_their_colours(of_blocks):
    """Told the other side, squares go there. No word says their colour: it is the source's where its keys and values are looked up."""
    images, side = blocks.pictures(40, torch.Generator().manual_seed(5))
    images, axis = images[side == 0][:12], torch.arange(blocks.SIZE)
    code = inversion.ode(of_blocks, images, Cond(label=[0] * 12), 20)

    def place(x: Tensor) -> Tensor:
        """The mean column of what is bright, (N,)."""
        light = (x.amax(1) > 0.0).float().sum(1)
        return (light * axis).sum(1) / light.sum(1)

    def histogram(x: Tensor) -> Tensor:
        """Of each colour over what is bright, its nine deciles in shares of the range, (N, 3, 9)."""
        tenths = torch.arange(0.1, 0.95, 0.1)
        return torch.stack([each[:, each.amax(0) > 0.5].quantile(tenths, 1).T for each in 0.5 * (x + 1.0)])

    def off(x: Tensor) -> float:
        return float((histogram(x) - histogram(images)).abs().mean())

    edited, plain = (masactrl(of_blocks, code, Cond(label=1), start=start) for start in (START, 100.0))
    for each in (edited, plain):
        assert (place(each) - place(images) > 2.5).all()
    assert off(edited) < 0.1 and off(plain) > 0.2, (off(edited), off(plain))
    assert off(reconstruct(of_blocks, code)) < 0.02


def test_the_regularised_inversion_has_less_autocorrelation_and_comes_back_as_near(denoise):
    images, source, _ = drawn(denoise)
    plain = inversion.ode(denoise, images, source, 20, DDIM())

    def correlated(code: inversion.Inversion) -> float:
        return float(sum(autocorrelation(code.code, [k / 8.0] * 2).mean() for k in range(1, 8)))

    def made(pair: float, kl: float = 0.0) -> inversion.Inversion:
        return inversion.regularised(denoise, images, source, 20, pair=pair, kl=kl)

    less, none, more = made(20.0, 20.0), made(0.0), made(-20.0)
    assert apart(none.trajectory, plain.trajectory) < 1e-4  # of weight 0 it is DDIM's
    assert correlated(less) < 0.85 * correlated(plain) and correlated(more) > 1.15 * correlated(plain)
    for narrow in (0.7, 1.3):
        noise = narrow * torch.randn(2, 3, 16, 16)
        towards, same, away = (abs(float(like_noise(noise, 0.0, kl).std()) - 1.0) for kl in (20.0, 0.0, -20.0))
        assert towards < same - 1e-3 and away > same + 1e-3
    back, ddim = (rms(reconstruct(denoise, code), images) for code in (less, plain))
    assert back < 1.15 * ddim, (back, ddim)
    alone = inversion.regularised(denoise, images[2:3], source.index([2]), 20)
    assert apart(alone.trajectory[:, 0], less.trajectory[:, 2]) < 1e-4


def test_pix2pix_zero_brings_the_maps_nearer_at_its_steps_and_by_no_direction_reconstructs(denoise, monkeypatch):
    images, source, target = drawn(denoise)
    code = inversion.regularised(denoise, images, source, 20)
    assert apart(pix2pix_zero(denoise, code, source, rate=1.0), reconstruct(denoise, code)) < 1e-5
    found: list[tuple[float, float]] = []

    def distance(denoise: Denoiser, point, source: Tensor, edit: Tensor, both: Cond) -> float:
        watcher = Watcher()
        watched = Branched(changed_attention(denoise, attentions(denoise), watcher), (SOURCE, EDIT))
        watched(torch.cat([source, edit]), point, both)
        assert watcher.distance is not None
        return float(watcher.distance.mean())

    def seen(denoise, point, source, edit, both, rate) -> Tensor:
        new = nearer(denoise, point, source, edit, both, rate)
        found.append(tuple(distance(denoise, point, source, x, both) for x in (edit, new)))  # pyright: ignore[reportArgumentType]
        return new

    monkeypatch.setattr(import_module("reverie.edit.pix2pix_zero"), "nearer", seen)
    summed, falls = {}, {}
    for rate in (0.1, 0.0, -0.1):
        found.clear()
        pix2pix_zero(denoise, code, target, rate=rate)
        summed[rate], falls[rate] = sum(before for before, _ in found), [after < before for before, after in found]
    assert all(falls[0.1]) and not any(falls[-0.1]) and len(falls[0.1]) >= 19
    assert summed[0.1] < 0.95 * summed[0.0] and summed[-0.1] > summed[0.0]


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A picture of a red and a blue disc, (1, 3, 16, 16), the mask of the red one and that of where it is to be."""
    (red, here), (blue, _), (_, there) = (
        disc(colour, at)
        for colour, at in (((1, 0, 0), (4.5, 4.5)), ((0, 0, 1), (11.0, 11.5)), ((1, 0, 0), (4.5, 11.5)))
    )
    return torch.maximum(red, blue)[None], here, there


def test_dragon_moves_a_disc_to_its_cell_and_at_weight_zero_leaves_it(denoise):
    picture, here, there = scene()
    code = inversion.ode(denoise, picture, discs.text(torch.tensor([0]), torch.tensor([2])), 20)

    def centres(strength: float) -> Tensor:
        """Of the red and the blue disc, in pixels; a cell of the features is two."""
        edited = dragon(denoise, code, here, there, strength=strength)
        assert ((lit(edited)[0, [0, 2]] > 10) & (lit(edited)[0, [0, 2]] < 35)).all()
        return torch.cat([16.0 * discs.centre(edited, torch.tensor([colour])) for colour in (0, 2)])

    moved, left = centres(500.0), centres(0.0)
    assert (moved[0] - torch.tensor([4.5, 11.5])).abs().max() < 2.0
    assert (left[0] - torch.tensor([4.5, 4.5])).abs().max() < 1.0
    assert (moved[1] - torch.tensor([11.0, 11.5])).abs().max() < 2.0


@pytest.mark.parametrize("strength", [100.0, pytest.param(-100.0, id="control: uphill")])
def test_the_energy_of_dragon_falls_at_each_step(denoise, strength):
    """Each move ends lower than the move that the model makes alone from the same state, and the last lower than the first begins."""
    picture, here, there = scene()
    source = discs.text(torch.tensor([0]), torch.tensor([2]))
    code, both = inversion.ode(denoise, picture, source, 30, DDIM()), source.cat(source)
    mutual = changed_attention(denoise, late(attentions(denoise)), Mutual(START, None, denoise.shape))
    regions = Regions(*(mask.float()[None, None] for mask in (here, there)))
    guided = Energetic(mutual, ["up.0.1", "up.1.0"], regions, (4.0, 6.0, 0.2), strength, 4.0)
    x, call = code.code, Call().within((SOURCE, EDIT))

    def energy(x: Tensor, i: int) -> float:
        with torch.no_grad():
            return float(guided.energy(torch.cat([code.trajectory[i], x]), code.points[i], both, call)[1])

    first, lower = energy(x, 0), []
    for i, (at, to) in enumerate(zip(code.points, code.points[1:], strict=False)):
        ends = []
        for model in (guided, mutual):
            estimate = model(torch.cat([code.trajectory[i], x]), at, both, call)
            ends.append((to.alpha * estimate.x0 + to.sigma * estimate.eps)[1:].detach())
        if at.alpha > 0.0 and 2.0 * at.lam < guided.until:
            lower.append(energy(ends[0], i + 1) < energy(ends[1], i + 1))
        x = ends[0]
    assert len(lower) > 20
    assert (all(lower) and energy(x, len(code.points) - 1) < first - 0.05) == (strength > 0.0)
    assert any(lower) == (strength > 0.0)


def test_imagic_goes_from_the_picture_to_the_target_and_without_learning_nowhere(denoise):
    """A red disc and a blue one; green is to be in the place of red."""
    picture, target = scene()[0], discs.text(torch.tensor([1]), torch.tensor([2]))

    def edited(optimise: int, tune: int) -> tuple[Tensor, Tensor]:
        """Of five η, the probability that there is green and not red, by their light, and the PSNR to the picture."""
        how = {"rates": (3e-2, 5e-4), "batch": 8, "solver": DDIM(), "steps": 20}
        x = imagic(denoise, picture, target, (0.0, 0.25, 0.5, 0.75, 1.0), optimise=optimise, tune=tune, **how)
        light = x.clamp(0.0, 1.0).sum((2, 3))
        return torch.sigmoid(0.5 * (light[:, 1] - light[:, 0])), -10.0 * (
            (x - picture).square().mean((1, 2, 3)) / 4.0
        ).log10()

    green, near = edited(100, 60)
    assert green.diff().min() > -0.02 and green[0] < 0.1 and green[-1] > 0.9, green
    assert near[0] > near[-1] + 6.0, near
    green, near = edited(0, 0)
    assert green.amin() > 0.9 and near.amax() < near.amin() + 0.1  # control: all are the target
