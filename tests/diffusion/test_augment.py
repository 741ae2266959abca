"""Augmentation that does not leak: exact changes, the nine numbers that tell of them, and a network that is told nothing in sampling."""

import math
from dataclasses import replace

import numpy as np
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
from reverie.core.warp import rotation, scaling, warped
from reverie.diffusion.augment import CHANGES, MOVE, STD, TOLD, Change, drawn
from reverie.diffusion.config import DenoisingConfig
from reverie.diffusion.denoising import Denoising
from reverie.nets.config import CONFIGS, DiTConfig
from reverie.recipes.recipe import DataConfig, Recipe

X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
NOW = Moment(0, 0, 100)


def change(**values: float) -> Change:
    return Change(*(torch.full((len(X),), values.get(name, 0.0)) for name in Change._fields))


def test_nothing_is_the_identity_to_the_bit():
    nothing = change()
    assert torch.equal(nothing(X), X) and torch.equal(nothing.told(), torch.zeros(len(X), TOLD))
    assert torch.equal(drawn(Draws(0, 0, len(X)), 0.0, X)._replace(mirror=torch.zeros(len(X)))(X), X)
    assert not torch.equal(change(larger=0.1)(X), X)  # a control


def test_mirroring_is_its_own_inverse_to_the_bit():
    for name, side in (("mirror", 3), ("upend", 2)):
        one = change(**{name: 1.0})
        assert torch.equal(one(X), X.flip(side)) and torch.equal(one(one(X)), X)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarters_of_a_turn_are_those_of_arrays(quarters):
    turned = change(angle=quarters * math.pi / 2)(X)
    assert torch.allclose(turned, X.rot90(-quarters, (2, 3)), atol=1e-4)
    assert not torch.allclose(turned, X.rot90(1 - quarters, (2, 3)), atol=1e-2)


def test_moves_of_whole_pixels_are_those_of_arrays():
    """A standard deviation is an eighth of the picture, 2 pixels of 16; what comes in at the edge is mirrored."""
    right = change(across=1.0)(X)
    assert torch.allclose(right[..., 2:], X[..., :-2], atol=1e-4) and torch.allclose(
        right[..., :2], X[..., :2].flip(3), atol=1e-4
    )
    assert torch.allclose(change(down=-2.0)(X)[:, :, :-4], X[:, :, 4:], atol=1e-4)


def test_the_maps_are_orthogonal_or_of_the_areas_that_they_should_be():
    angles = torch.linspace(-3, 3, 6).double()
    eye = torch.eye(2).double().expand(6, 2, 2)
    assert torch.allclose(rotation(angles) @ rotation(angles).transpose(1, 2), eye, atol=1e-12)
    assert torch.allclose(rotation(angles) @ rotation(-angles), eye, atol=1e-12)
    some = Change(*(torch.linspace(-1.5, 1, 6).double() + i / 7 for i in range(8)))
    none = torch.zeros(6).double()
    turned, zoomed = some._replace(larger=none, longer=none).linear(), some._replace(angle=none, longer=none).linear()
    assert torch.allclose(turned @ turned.transpose(1, 2), eye, atol=1e-12)
    assert torch.allclose(zoomed, torch.exp2(-STD * some.larger)[:, None, None] * eye, atol=1e-12)
    assert torch.allclose(some.linear().det(), torch.exp2(-2 * STD * some.larger), atol=1e-12)  # stretching keeps areas
    stretched = some._replace(larger=none, angle=none)
    back = stretched._replace(longer=-some.longer)
    assert torch.allclose(stretched.linear() @ back.linear(), eye, atol=1e-12)
    assert not torch.allclose(stretched.linear() @ stretched.linear(), eye, atol=1e-2)


def test_the_pictures_of_a_wide_and_of_a_square_frame_are_mapped_alike():
    """A square in a picture of 16 x 32 is turned as in one of 32 x 32: pixels are squares."""
    square = torch.zeros(1, 1, 32, 32)
    square[..., 11:21, 13:19] = 1.0
    angle = torch.tensor([0.7])
    linear, none = rotation(angle) @ scaling(torch.tensor([1.2]), torch.tensor([0.8])), torch.zeros(1, 2)
    whole, part = warped(square, linear, none), warped(square[:, :, 8:24], linear, none)
    assert torch.allclose(whole[:, :, 8:24], part, atol=1e-4) and whole.sum() > 40


def test_each_change_has_its_probability_and_its_density():
    n, p = 40_000, 0.12
    some = drawn(Draws(1, 0, n), p, torch.zeros(n, 1, 1, 1))
    error = 4 * math.sqrt(p * (1 - p) / n)
    for name in ("larger", "angle", "longer", "across"):
        assert abs((getattr(some, name) != 0).double().mean() - p) < error, name
    assert abs(some.mirror.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    assert abs(some.upend.double().mean() - p / 2) < error
    happened = some.angle[some.angle != 0]
    assert (
        abs(happened.double().mean()) < 4 * math.pi / math.sqrt(3 * len(happened)) and happened.abs().max() <= math.pi
    )
    normal = some.larger[some.larger != 0].double()
    assert abs(normal.mean()) < 4 / math.sqrt(len(normal)) and abs(normal.std() - 1) < 4 / math.sqrt(2 * len(normal))
    both = ((some.larger != 0) & (some.longer != 0)).double().mean()  # independent
    assert abs(both - p * p) < 4 * math.sqrt(p * p / n)
    assert not (some.mirror > 0).double().mean() < 2 * p  # a control: what happens with p is told apart from one half


def test_what_is_told_says_what_was_done():
    """The nine numbers are those of the paper, and enough to do it again."""
    some = drawn(Draws(2, 0, len(X)), 1.0, X)
    some = some._replace(longer=some.longer.abs())  # a stretch the other way is told as its opposite, as in the paper
    told = some.told()
    assert torch.allclose(told[:, 3] + 1, some.angle.cos()) and torch.allclose(told[:, 4], some.angle.sin())
    assert torch.allclose(told[:, 5:7].norm(dim=1), some.longer.abs(), atol=1e-5)
    again = Change(
        told[:, 0], told[:, 1], told[:, 2], torch.atan2(told[:, 4], told[:, 3] + 1),
        told[:, 5:7].norm(dim=1), torch.atan2(told[:, 6], told[:, 5]), told[:, 7], told[:, 8],
    )  # fmt: skip
    assert torch.allclose(again(X), some(X), atol=1e-3) and not torch.allclose(some(X), X, atol=0.1)
    part, whole = (drawn(Draws(2, 6 - n, n), 1.0, X[-n:]).told() for n in (3, 6))  # images draw apart from each other
    assert torch.equal(part, whole[3:])


def model(name: str = "dit", classes: int | None = 4) -> NetDenoiser:
    config = {"dit": DiTConfig(width=16, depth=1, heads=2)}.get(name) or CONFIGS[name]()
    net = rv.nets.build(config, channels=3, size=16, classes=classes)
    denoise = NetDenoiser(net, Flow(), "flow", shape=(3, 16, 16))
    net.listen(CHANGES, count=TOLD)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoise


@pytest.mark.parametrize("name", ["dit", "uvit"])
def test_a_network_that_is_told_nothing_is_told_zero(name):
    denoise = model(name)
    x, t = X, torch.full((len(X),), 0.5)
    nothing = denoise.net(x, t, rv.Cond(label=[0] * 6))
    assert torch.equal(nothing, denoise.net(x, t, rv.Cond(label=[0] * 6, **{CHANGES: torch.zeros(6, TOLD)})))
    told = denoise.net(x, t, rv.Cond(label=[0] * 6, **{CHANGES: torch.ones(6, TOLD)}))
    assert (told - nothing).abs().max() > 1e-5
    assert CHANGES not in denoise.conditions  # what draws cannot be asked for a change


def test_training_tells_the_network_and_validation_does_not(monkeypatch):
    """The label is dropped for guidance, what was done never is; the pictures that it sees are the changed ones."""
    denoise, heard = model(), []
    call = denoise.net.forward

    def forward(x, time, cond=None):
        heard.append((x, cond))
        return call(x, time, cond)

    monkeypatch.setattr(denoise.net, "forward", forward)
    held_out = Batch(X, rv.Cond(label=[0] * 6))
    task = Denoising(denoise, LogitNormal(), drop=1.0, augment=0.9, held_out=held_out)
    rng = Draws(0, 0, len(X))
    task.loss("denoiser", Batch(X, rv.Cond(label=[1] * 6)), rng, NOW)
    x, cond = heard[-1]
    some = drawn(rng, 0.9, X)
    assert (
        torch.equal(cond[CHANGES].value, some.told())
        and cond[CHANGES].present.all()
        and not cond["label"].present.any()
    )
    t = task.times(rng.even("time")).float()[:, None, None, None]
    noise = rng.normal("noise", X.shape[1:])
    assert torch.allclose(x, (1 - t) * some(X) + t * noise, atol=1e-5)
    assert not torch.allclose(x, (1 - t) * X + t * noise, atol=0.1)
    with torch.no_grad():
        task.validate()
    assert CHANGES not in heard[-1][1]
    plain = Denoising(denoise, LogitNormal(), drop=1.0)
    plain.loss("denoiser", Batch(X, rv.Cond(label=[1] * 6)), rng, NOW)
    assert CHANGES not in heard[-1][1]


TINY = Recipe(
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=2, width=16, depth=1, heads=2), augment=0.3),
)


def test_a_run_with_it_is_drawn_from_as_any_other(tmp_path):
    small = replace(TINY.train, images=128, batch=32, warmup=32, save_every=64, validate_every=128, sample_every=128)
    run, seen = rv.recipes.train(replace(TINY, train=small), tmp_path / "run")
    denoise = rv.load(run.folder)
    assert seen == 128 and set(denoise.conditions) == {"label"}
    weight = denoise.net.conditioning.numbers[CHANGES].weight
    assert weight.shape[1] == TOLD and weight.abs().max() > 0  # it has learned from what it was told
    assert rv.sample(denoise, 2, rv.Cond(label=3), steps=2).isfinite().all()


def test_where_it_makes_no_sense_is_said(tmp_path):
    for task in (
        replace(TINY.task, space=replace(TINY.task.space, name="pca")),
        replace(TINY.task, objective="vlb", times="uniform"),
    ):
        with pytest.raises(InputError, match="augment changes pictures"):
            rv.recipes.train(replace(TINY, task=task), tmp_path / "run")


def test_moves_are_an_eighth_of_the_picture():
    assert MOVE * 16 == 2 and np.isclose(2.0**STD, 1.1487, atol=1e-4)
