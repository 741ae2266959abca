"""The update rows that the solvers' docstrings print, written out on α, σ and numbers, against runs on an exact Gaussian denoiser."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from reverie.core.exact import Gaussian
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import VE, VP, Cosine, Flow, HostPoint, Schedule
from reverie.solve import DDIM, DDPM, DEIS, DPMpp, DPMpp2S, Euler, Heun, Multistep, SDEDPMpp, UniPC, iterate, plain
from reverie.solve.plan import Solver

MEAN, STD, ETA = 0.3, 0.6, 0.7
LAMS = (-1.2, -0.3, 0.2, 1.1)
"""Uneven steps: constants that happen to be right for even ones are not right here."""
PATHS = [VP(), Flow(), VE(), Cosine()]
Data = Callable[[Tensor, HostPoint], Tensor]
Row = Callable[[Tensor, Sequence[HostPoint], Tensor], Tensor]


def x0(x: Tensor, p: HostPoint) -> Tensor:
    """E[x0 | x] for data N(0.3, 0.6²)."""
    gain = p.alpha * STD**2 / (p.alpha**2 * STD**2 + p.sigma**2)
    return MEAN + gain * (x - p.alpha * MEAN)


def eps(x: Tensor, p: HostPoint) -> Tensor:
    return (x - p.alpha * x0(x, p)) / p.sigma


def one(update: Callable[[Tensor, HostPoint, HostPoint, Tensor], Tensor]) -> Row:
    """A run of a method that looks at nothing but its own step."""

    def run(x: Tensor, points: Sequence[HostPoint], z: Tensor) -> Tensor:
        for i in range(len(points) - 1):
            x = update(x, points[i], points[i + 1], z[i])
        return x

    return run


def two(quantity: Data, first: Callable[..., Tensor], update: Callable[..., Tensor]) -> Row:
    """A run of a two-step method on ``quantity``: ``first`` makes the first move, ``update`` the others from this and the last value."""

    def run(x: Tensor, points: Sequence[HostPoint], z: Tensor) -> Tensor:
        before = quantity(x, points[0])
        x = first(x, before, points[0], points[1], z[0])
        for i in range(1, len(points) - 1):
            now = quantity(x, points[i])
            x, before = update(x, now, before, points[i - 1], points[i], points[i + 1], z[i]), now
        return x

    return run


def ddim(x: Tensor, t: HostPoint, u: HostPoint, z: Tensor) -> Tensor:
    """Song et al. 2021, eq. 12, with the σ of their eq. 16."""
    q = ETA * u.sigma * math.sqrt(1 - (t.alpha * u.sigma / (u.alpha * t.sigma)) ** 2)
    e = eps(x, t)
    return u.alpha * (x - t.sigma * e) / t.alpha + math.sqrt(u.sigma**2 - q**2) * e + q * z


def ddpm(x: Tensor, t: HostPoint, u: HostPoint, z: Tensor) -> Tensor:
    """Ho et al. 2020, eq. 6 and 7."""
    a = t.alpha / u.alpha
    v = t.sigma**2 - a**2 * u.sigma**2
    mean = (a * u.sigma**2 * x + u.alpha * v * x0(x, t)) / t.sigma**2
    return mean + math.sqrt(v * u.sigma**2 / t.sigma**2) * z


def heun(x: Tensor, t: HostPoint, u: HostPoint, z: Tensor) -> Tensor:
    """Karras et al. 2022, algorithm 1, for x/α and ρ = σ/α."""
    d_rho = u.sigma / u.alpha - t.sigma / t.alpha
    d = eps(x, t)
    guess = u.alpha * (x / t.alpha + d_rho * d)
    return u.alpha * (x / t.alpha + d_rho * (0.5 * d + 0.5 * eps(guess, u)))


def two_s(x: Tensor, t: HostPoint, u: HostPoint, z: Tensor, path: Schedule) -> Tensor:
    """Lu et al. 2022b, algorithm 1, r = ½."""
    h, s = u.lam - t.lam, path.at(0.5 * (t.lam + u.lam))
    middle = s.sigma / t.sigma * x - s.alpha * math.expm1(-h / 2) * x0(x, t)
    return u.sigma / t.sigma * x - u.alpha * math.expm1(-h) * x0(middle, s)


def dpmpp1(x, d, t, u, z):
    return u.sigma / t.sigma * x - u.alpha * math.expm1(-(u.lam - t.lam)) * d


def dpmpp2(x, d, before, s, t, u, z):
    """Lu et al. 2022b, algorithm 2."""
    h = u.lam - t.lam
    r = (t.lam - s.lam) / h
    return u.sigma / t.sigma * x - u.alpha * math.expm1(-h) * ((1 + 1 / (2 * r)) * d - 1 / (2 * r) * before)


def sde1(x, d, t, u, z):
    h = u.lam - t.lam
    mean = u.sigma / t.sigma * math.exp(-ETA * h) * x - u.alpha * math.expm1(-(1 + ETA) * h) * d
    return mean + u.sigma * math.sqrt(-math.expm1(-2 * ETA * h)) * z


def sde2(x, d, before, s, t, u, z):
    """Lu et al. 2022b, SDE-DPM-Solver++(2M), η times the noise."""
    h = u.lam - t.lam
    r = (t.lam - s.lam) / h
    slope = (d - before) / (2 * r)
    return sde1(x, d, t, u, z) - u.alpha * math.expm1(-(1 + ETA) * h) * slope


def tau(p: HostPoint) -> float:
    return p.sigma / (p.alpha + p.sigma)


def rho(p: HostPoint) -> float:
    return p.sigma / p.alpha


def adams_bashforth(clock: Callable[[HostPoint], float], scale: Callable[[HostPoint], float]):
    """Euler's first step and the two-step method of Adams and Bashforth, uneven steps."""

    def first(x, y, t, u, z):
        return scale(u) * (x / scale(t) + (clock(u) - clock(t)) * y)

    def update(x, y, before, s, t, u, z):
        step = clock(u) - clock(t)
        k = step / (2 * (clock(t) - clock(s)))
        return scale(u) * (x / scale(t) + step * ((1 + k) * y - k * before))

    return first, update


def log_rho1(x, e, t, u, z):
    return u.alpha / t.alpha * x - u.sigma * math.expm1(u.lam - t.lam) * e


def log_rho2(x, e, before, s, t, u, z):
    h = u.lam - t.lam
    return log_rho1(x, e, t, u, z) - u.sigma * (math.expm1(h) - h) * (e - before) / (t.lam - s.lam)


def unipc(form: str) -> Row:
    """Zhao et al. 2023: UniP-2 with UniC after every move but the last, UniC-1 after the first, which is UniP-1."""

    def run(x: Tensor, points: Sequence[HostPoint], z: Tensor) -> Tensor:
        past = [x0(x, points[0])]
        for i, (t, u) in enumerate(pairwise(points)):
            h = u.lam - t.lam
            b = -math.expm1(-h) if form == "bh2" else h
            line = u.sigma / t.sigma * x - u.alpha * math.expm1(-h) * past[0]
            if i == 0:
                guess = line
            else:
                r = (t.lam - points[i - 1].lam) / h
                guess = line + u.alpha * b * (past[0] - past[1]) / (2 * r)
            if i == len(points) - 2:
                return guess
            d_u = x0(guess, u)
            if i == 0:
                x = line + u.alpha * 0.5 * b * (d_u - past[0])
            else:  # the parabola D + c₁s + c₂s² through s = −rh, 0 and h, integrated against e^(s−h)
                r = (t.lam - points[i - 1].lam) / h
                up, down = (d_u - past[0]) / h, (past[0] - past[1]) / (r * h)
                c2 = (up - down) / (h + r * h)
                c1 = up - c2 * h
                first = h - 1 + math.exp(-h)
                second = h**2 - 2 * h + 2 - 2 * math.exp(-h)
                x = line + u.alpha * (first * c1 + second * c2)
            past = [d_u, *past]
        raise AssertionError

    return run


ROWS: dict[str, tuple[Solver, Row]] = {
    "ddim": (DDIM(ETA), one(ddim)),
    "ddpm": (DDPM(), one(ddpm)),
    "euler": (Euler(), one(lambda x, t, u, z: u.alpha * x0(x, t) + u.sigma * eps(x, t))),
    "heun": (Heun(), one(heun)),
    "dpm++ 2m": (DPMpp(2), two(x0, dpmpp1, dpmpp2)),
    "sde-dpm++ 2m": (SDEDPMpp(2, ETA), two(x0, sde1, sde2)),
    "adams-bashforth 2": (
        Multistep(2),
        two(lambda x, p: eps(x, p) - x0(x, p), *adams_bashforth(tau, lambda p: p.alpha + p.sigma)),
    ),
    "deis rho-ab2": (DEIS(2, "rho"), two(eps, *adams_bashforth(rho, lambda p: p.alpha))),
    "deis log-rho-ab2": (DEIS(2), two(eps, log_rho1, log_rho2)),
    "unipc2 bh2": (UniPC(2), unipc("bh2")),
    "unipc2 bh1": (UniPC(2, "bh1"), unipc("bh1")),
}


def ends(solver: Solver, row: Row, path: Schedule) -> tuple[Tensor, Tensor]:
    """Where three steps end: by the solver, and by the row written out."""
    points = tuple(path.at(lam) for lam in LAMS)
    denoise = Gaussian(
        torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[STD**2]], dtype=torch.float64)
    ).denoiser(path)
    x = points[0].alpha * MEAN + torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)[:, None]
    tape = Tape(sample_seeds(0, 5), torch.float64)
    z = torch.stack([tape.draw("step", i, (1,)) for i in range(3)])
    *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points), tape=tape)
    return last.x, row(x, points, z)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", ROWS)
def test_a_solver_makes_the_row_of_its_paper(name: str, path: Schedule) -> None:
    got, expected = ends(*ROWS[name], path)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_two_stages_in_lambda(path: Schedule) -> None:
    got, expected = ends(DPMpp2S(), one(lambda x, t, u, z: two_s(x, t, u, z, path)), path)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_no_row_is_that_of_another() -> None:
    """The control: no row ends where another solver does."""
    path = VP()
    for name, (solver, _) in ROWS.items():
        for other, (_, row) in ROWS.items():
            got, expected = ends(solver, row, path)
            if name != other:
                assert (got - expected).abs().max() > 1e-5, (name, other)
