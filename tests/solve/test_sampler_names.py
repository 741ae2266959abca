"""Names of k-diffusion and ComfyUI: each is that formula, in σ of the variance-exploding path, written out here from k-diffusion's."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import VE, VP, Flow
from reverie.solve import grids, iterate, plain
from reverie.solve.auto import CHOICES, ELSEWHERE, NAMED, choose, named, split

from ..margin import apart

Model = Callable[[Tensor, float], Tensor]
Noise = Callable[[int], Tensor]


def euler(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for s, u in pairwise(sigmas):
        x = x + (x - model(x, s)) / s * (u - s)
    return x


def euler_ancestral(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for i, (s, u) in enumerate(pairwise(sigmas)):
        up = min(u, math.sqrt(u**2 * (s**2 - u**2) / s**2))
        down = math.sqrt(u**2 - up**2)
        x = x + (x - model(x, s)) / s * (down - s)
        x = x + noise(i) * up if u else x
    return x


def heun(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for s, u in pairwise(sigmas):
        d = (x - model(x, s)) / s
        ahead = x + d * (u - s)
        x = ahead if u == 0.0 else x + (d + (ahead - model(ahead, u)) / u) / 2 * (u - s)
    return x


def lms(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    ds: list[Tensor] = []
    for i, (s, u) in enumerate(pairwise(sigmas)):
        ds = [(x - model(x, s)) / s, *ds][:4]

        def basis(tau: float, j: int, i: int = i, order: int = len(ds)) -> float:
            others = (k for k in range(order) if k != j)
            return math.prod((tau - sigmas[i - k]) / (sigmas[i - j] - sigmas[i - k]) for k in others)

        x = x + sum(quad(basis, s, u, args=(j,), epsrel=1e-9)[0] * d for j, d in enumerate(ds))
    return x


def dpmpp_2m(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    old, last = None, 0.0
    for s, u in pairwise(sigmas):
        d = model(x, s)
        if u == 0.0:
            x = d
            continue
        h = math.log(s / u)
        r = last / h
        mixed = d if old is None else (1 + 1 / (2 * r)) * d - 1 / (2 * r) * old
        x, old, last = u / s * x - math.expm1(-h) * mixed, d, h
    return x


def dpmpp_2m_sde(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    old, last = None, 0.0
    for i, (s, u) in enumerate(pairwise(sigmas)):
        d = model(x, s)
        if u == 0.0:
            x = d
            continue
        h = math.log(s / u)
        x = u / s * math.exp(-h) * x - math.expm1(-2 * h) * d
        if old is not None:
            x = x - 0.5 * math.expm1(-2 * h) * h / last * (d - old)
        x, old, last = x + noise(i) * u * math.sqrt(-math.expm1(-2 * h)), d, h
    return x


def ddpm(model: Model, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """ComfyUI's, of the variance-preserving x/√(1 + σ²)."""
    for i, (s, u) in enumerate(pairwise(sigmas)):
        eps, bar, before = (x - model(x, s)) / s, 1 / (s**2 + 1), 1 / (u**2 + 1)
        alpha = bar / before
        mean = alpha**-0.5 * (x / math.sqrt(1 + s**2) - (1 - alpha) * eps / math.sqrt(1 - bar))
        mean = mean + math.sqrt((1 - alpha) * (1 - before) / (1 - bar)) * noise(i) if u else mean
        x = mean * math.sqrt(1 + u**2)
    return x


FORMULAS = {
    "ddim": euler,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lms": lms,
}


@pytest.mark.parametrize("path", [VE(), VP()], ids=["ve", "vp"])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_its_formula(problem, name, path):
    steps, ve = 8, problem.mixture().denoiser(VE())
    points = (*(path.at(float(lam)) for lam in np.linspace(-2.5, 3.0, steps)), path.clean())
    sigmas = [p.rho for p in points]
    x = torch.randn(5, 2, dtype=torch.float64) * points[0].sigma
    tape = Tape(sample_seeds(0, 5), torch.float64)

    def model(z: Tensor, sigma: float) -> Tensor:
        return ve(z, VE().at(-math.log(sigma))).x0

    def ended(name: str) -> Tensor:
        denoise = problem.mixture().denoiser(path)
        return list(iterate(denoise, x=x, solver=name, walk=plain(points), tape=tape))[-1].x

    expected = FORMULAS[name](model, x / points[0].alpha, sigmas, lambda i: tape.draw("step", i, (2,)))
    assert torch.allclose(ended(name), expected, rtol=0, atol=1e-7)
    assert apart(ended("dpmpp3" if name != "dpmpp3" else "ddim"), expected) > 1e-4  # the control


def test_every_name_from_elsewhere_is_compared():
    """uni_pc is diffusers' with lower_order_final, see test_peers_multistep."""
    assert set(ELSEWHERE) - set(FORMULAS) == {"uni_pc", "uni_pc_bh2"}
    assert not set(ELSEWHERE) & set(NAMED)


def test_a_name_may_end_in_a_grid(problem):
    assert split("dpmpp_2m_karras") == ("dpmpp_2m", "karras") and split("dpmpp_2m_sde") == ("dpmpp_2m_sde", None)
    assert all(split(name) == (name, None) for name in CHOICES)
    denoise = problem.mixture().denoiser(Flow())
    assert choose(denoise, "euler_ancestral_sgm_uniform", None, 8) == (named("euler_ancestral"), grids.sgm_uniform())
    a = rv.sample(denoise, 4, solver="heun_karras", steps=5)
    assert torch.equal(a, rv.sample(denoise, 4, solver="heun", grid="karras", steps=5))
    assert apart(a, rv.sample(denoise, 4, solver="heun", steps=5)) > 1e-4
    with pytest.raises(InputError, match="says the grid karras: leave grid='beta' out"):
        rv.sample(denoise, solver="heun_karras", grid="beta")


@pytest.mark.parametrize("name", ["dpmpp_3m_sde", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral", "karras"])
def test_what_is_another_formula_here_has_no_such_name(problem, name):
    with pytest.raises(InputError, match="unknown solver"):
        rv.sample(problem.mixture().denoiser(Flow()), solver=name)
