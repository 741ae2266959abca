"""Inversions: what is exact closes to rounding under guidance where plain inversion does not, and none serves a model that it is not of."""

from dataclasses import replace
from importlib import import_module
from itertools import pairwise

import pytest
import torch

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.exact import GaussianMixture
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import VP, Cosine, Flow
from reverie.edit import Inversion, reconstruct
from reverie.edit.inversion import (
    METHODS,
    cycle,
    edict,
    edit_friendly,
    fixed_point,
    negative_prompt,
    null_text,
    ode,
    regularised,
)
from reverie.edit.inversion.noises import drawn
from reverie.edit.inversion.null_text import null_of
from reverie.nets import DiTConfig, build
from reverie.solve import DDIM, grids
from reverie.solve.stochastic import Stochastic

from .closed_form import As, Soft, picture, pictures, rms, word

ENDS = grids.logsnr(start=-8.0, end=9.0)
PATHS = [VP(), Flow()]


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_edict_comes_back_exactly_under_guidance_where_ddim_does_not(schedule):
    denoise, x = Soft(schedule), pictures()
    code = edict(denoise, x, word(0), steps=50, scale=7.5)
    assert rms(reconstruct(denoise, code), x) < 1e-10
    assert rms(reconstruct(denoise, code.at(20)), x) < 1e-10
    plain = ode(denoise, x, word(0), steps=50, solver=DDIM(), scale=7.5)
    assert rms(reconstruct(denoise, plain), x) > 0.05
    other = replace(code, second=code.second.roll(1, 1))  # the tracks of different pictures
    assert rms(reconstruct(denoise, other), x) > 0.05
    assert rms(reconstruct(denoise, code, scale=3.0), x) > 0.05


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("method", [edit_friendly, cycle])
def test_stored_noises_come_back_exactly(schedule, method):
    denoise, x = Soft(schedule), pictures()
    code = method(denoise, x, word(0), steps=40, scale=3.5)
    for skip in (0, 15):
        assert rms(reconstruct(denoise, code, skip=skip), x) < 1e-10
    shuffled = replace(code, noises=code.noises.roll(1, 0))
    assert rms(reconstruct(denoise, shuffled), x) > 1e-2
    noises = code.noises.clone()
    noises[-1] = 0.0  # the last one is part of the picture
    assert rms(reconstruct(denoise, replace(code, noises=noises)), x) > 1e-5


def test_edit_friendly_noises_are_large_and_anticorrelated_and_those_of_the_forward_process_are_native():
    denoise, x = Soft(VP()), pictures(60)
    friendly, native = (
        method(denoise, x, word(0), steps=100, scale=1.0, eta=1.0).noises[10:-40] for method in (edit_friendly, cycle)
    )

    def lagged(noises):
        return float((noises[1:] * noises[:-1]).mean() / noises.square().mean())

    assert float(friendly.std()) > 2.0 and lagged(friendly) < -0.4
    assert float(native.std()) == pytest.approx(1.0, abs=0.1) and abs(lagged(native)) < 0.1


def wider(eta: float, convention: str) -> Stochastic:
    """States of another process: a third more of the noise is drawn anew."""
    return Stochastic(min(1.0, eta / 0.75) if eta < 1.0 else 0.75, convention)


def larger(*given) -> tuple[torch.Tensor, torch.Tensor]:
    """Noises in another unit."""
    noise, x = drawn(*given)
    return 1.2 * noise, x


@pytest.mark.parametrize(
    "wrong", [{}, {"Stochastic": wider}, {"drawn": larger}], ids=["", "control: η", "control: unit"]
)
@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_where_the_models_posterior_is_that_of_the_process_cycle_stores_the_noises_it_drew(eta, wrong, monkeypatch):
    """Data that is a point: a model that knows it moves as the forward process does, and what is left is the draw, of unit size."""
    for name, other in wrong.items():
        monkeypatch.setattr(import_module("reverie.edit.inversion.cycle"), name, other)
    point = GaussianMixture(torch.ones(1), torch.tensor([[0.4, -0.3]]), 1e-12 * torch.eye(2)[None]).denoiser(VP())
    x = torch.tensor([[0.4, -0.3]]).expand(3, -1)
    noises = cycle(point, x, steps=20, eta=eta, seed=4).noises[:-1]

    def tape(seed: int) -> torch.Tensor:
        return torch.stack([Tape(sample_seeds(seed, 3)).draw("invert", i, (2,)) for i in range(1, 20)]).to(noises)

    off = (noises - tape(4)).abs().max()
    assert (off > 0.1) if wrong else (off < 1e-2), off
    assert (noises - tape(5)).abs().max() > 1.0


def test_plain_inversion_comes_back_to_the_order_of_the_solver_and_under_guidance_not_at_all():
    """Twice the steps, half the error, on the path back that guidance has not changed; where it has, no number of steps helps."""
    denoise, x = Soft(), pictures(40)

    def off(steps: int, scale: float) -> float:
        return rms(reconstruct(denoise, ode(denoise, x, word(0), steps, DDIM(), ENDS), scale=scale), x)

    plain, guided = ([off(steps, scale) for steps in (50, 100, 200)] for scale in (1.0, 7.5))
    for errors, halved in ((plain, True), (guided, False)):
        for many, more in pairwise(errors):
            assert (0.4 < more / many < 0.6) == halved, errors


def test_null_text_comes_back_under_guidance():
    denoise, x = Soft(), pictures()
    grid = grids.logsnr(start=-8.0, end=9.0)
    plain = ode(denoise, x, word(0), steps=20, solver=DDIM(), grid=grid, scale=7.5)
    plateau = rms(reconstruct(denoise, plain), x)
    code = null_text(denoise, x, word(0), steps=20, grid=grid, scale=7.5, iterations=20, rate=0.3)
    assert rms(reconstruct(denoise, code), x) < 0.2 * plateau
    assert plateau > 0.1
    assert rms(reconstruct(denoise, replace(code, nulls={"vector": code.nulls["vector"].flip(0)})), x) > 0.2 * plateau
    assert (
        code.nulls["vector"].diff(dim=0).abs().amax((1, 2)) > 0.0
    ).float().mean() > 0.8  # nearly each move has its own
    alone = null_text(denoise, x[1:2], word(0), steps=20, grid=grid, scale=7.5, iterations=20, rate=0.3)
    assert torch.allclose(alone.nulls["vector"][:, 0], code.nulls["vector"][:, 1], atol=1e-9)
    with pytest.raises(InputError, match=r"nulls were optimised for guidance 7.5, asked for 5"):
        reconstruct(denoise, code, scale=5.0)
    with torch.no_grad(), pytest.raises(InputError, match="gradients"):
        null_text(denoise, x, word(0))


def test_the_source_in_the_place_of_the_null_is_no_guidance():
    denoise, x = Soft(), pictures()
    code = negative_prompt(denoise, x, word(0), steps=30, scale=7.5)
    assert rms(reconstruct(denoise, code), reconstruct(denoise, code, scale=1.0)) < 1e-12
    assert rms(reconstruct(denoise, replace(code, method="ode")), x) > 0.05 > 20 * rms(reconstruct(denoise, code), x)
    edits = [reconstruct(denoise, code, word(1), scale=s) for s in (1.0, 3.0)]
    assert rms(*edits) > 0.05


@pytest.mark.parametrize("midpoint", [False, True])
def test_the_fixed_point_closes_the_round_trip_of_few_steps(midpoint):
    denoise, x = Soft(), pictures()
    errors = [
        rms(reconstruct(denoise, fixed_point(denoise, x, word(0), 12, ENDS, iterations=n, midpoint=midpoint)), x)
        for n in (1, 4, 12)
    ]
    assert errors[2] < 1e-4 * errors[0] and errors[1] < 0.2 * errors[0]
    plain = rms(reconstruct(denoise, ode(denoise, x, word(0), 12, DDIM(), ENDS)), x)
    assert plain > 1e3 * errors[2]


def test_the_midpoint_rule_is_of_order_two():
    denoise, x = Soft(), pictures()
    true = ode(denoise, x, word(0), 150, grid=ENDS).code
    for midpoint, low, high in ((True, 1.7, 2.4), (False, 0.7, 1.3)):
        off = [
            rms(fixed_point(denoise, x, word(0), n, ENDS, iterations=20, midpoint=midpoint).code, true)
            for n in (16, 32)
        ]
        assert low < torch.tensor(off[0] / off[1]).log2() < high, off


def given(method: str) -> tuple[Soft, torch.Tensor]:
    """A model and what it inverts: two vectors, or two pictures where neighbours are compared."""
    if method != "regularised":
        return Soft(), pictures(2)
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Soft(shape=(1, 8, 8)), picture(0, (1, 8, 8)) + 0.3 * noise


@pytest.mark.parametrize("method", METHODS)
def test_it_is_saved_and_loaded_and_decodes_the_same(method, tmp_path):
    denoise, x = given(method)
    code = METHODS[method](denoise, x, word(0), steps=6, scale=2.0)
    code.save(tmp_path / "code.safetensors")
    again = Inversion.load(tmp_path / "code.safetensors")
    assert repr(again) == repr(code) and again.points == code.points and again.method == method
    for cond in (None, word(2)):
        assert torch.equal(reconstruct(denoise, again, cond), reconstruct(denoise, code, cond))
    assert torch.equal(again.images, x) and again.cond is not None


def test_an_inversion_refuses_what_it_is_not_of(tmp_path):
    code = ode(Soft(), pictures(2), word(0), steps=4)
    with pytest.raises(InputError, match=r"does not fit the model: path: VP\(.*then, Cosine\(.*now"):
        reconstruct(Soft(Cosine()), code)
    mixture = GaussianMixture(torch.ones(2), torch.zeros(2, 5), torch.eye(5).repeat(2, 1, 1), labels=[0, 1])
    with pytest.raises(
        InputError, match=r"shape: 3 then, 5 now; conditions: vector: 3 numbers then, label: 2 classes now"
    ):
        reconstruct(mixture.denoiser(VP()), code)
    with pytest.raises(InputError, match="skip is how many of the 4 moves"):
        reconstruct(Soft(), code, skip=4)
    with pytest.raises(InputError, match="mix is in"):
        edict(Soft(), pictures(1), mix=0.0)
    with pytest.raises(InputError, match="eta is in"):
        edit_friendly(Soft(), pictures(1), eta=0.0)
    with pytest.raises(InputError, match="at least 4 rows and columns"):
        regularised(Soft(), pictures(1))
    with pytest.raises(RunError, match="No such file"):
        Inversion.load(tmp_path / "none.safetensors")
    labelled = ode(mixture.denoiser(VP()), torch.zeros(1, 5), Cond(label=0), steps=2)
    with pytest.raises(InputError, match="use negative_prompt or edict"):
        null_text(mixture.denoiser(VP()), torch.zeros(1, 5), Cond(label=0), steps=2)
    assert labelled.cond is not None


def test_the_null_of_a_class_is_its_embedding():
    torch.manual_seed(0)
    net = build(DiTConfig(patch=4, width=16, depth=2, heads=2), channels=1, size=8, classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    denoise = NetDenoiser(net.eval().requires_grad_(False), VP(), "v", shape=(1, 8, 8))
    cond, x = Cond(label=[1, 2]), torch.rand(2, 1, 8, 8) * 2 - 1
    own = null_of(denoise, cond, "label")
    assert own.shape == (2, 16)
    plain, same, other = (
        denoise(x, 0.5, each).out
        for each in (cond.null(), cond.null().with_null(label=own), cond.null().with_null(label=own + 1.0))
    )
    assert torch.equal(plain, same) and rms(other, plain) > 1e-2
    present = denoise(x, 0.5, cond.with_null(label=own + 1.0)).out
    assert torch.equal(present, denoise(x, 0.5, cond).out)
    code = null_text(denoise, x, cond, 6, scale=4.0, iterations=30, rate=0.1)
    plateau = rms(reconstruct(denoise, ode(denoise, x, cond, 6, DDIM(), scale=4.0)), x)
    assert rms(reconstruct(denoise, code), x) < 0.7 * plateau


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_kinds_give_the_same(kind):
    end = grids.logsnr(start=-6.0, end=9.0)
    for method, invert in METHODS.items():
        denoise, x = given(method)
        a, b = (invert(d, x, word(0), steps=5, grid=end, scale=2.0) for d in (denoise, As(denoise, kind)))
        assert rms(a.trajectory, b.trajectory) < 1e-9, method
