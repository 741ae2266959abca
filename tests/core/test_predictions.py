"""Prediction kinds: any pair determines any other by one 2×2 solve, on every path."""

import pytest
import torch

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.paths import EDM, Custom, Shifted, SubVP, Table, Trigonometric, ZeroTerminal
from reverie.core.predictions import KINDS, Kind, convert, edm, kind, mean
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule

PATHS = [
    VP(), Cosine(), Flow(), VE(), EDM(), SubVP(), Trigonometric(), Table.linear(100), Table.cosine(50).zero_terminal(),
    Shifted(Flow(), 3.0), ZeroTerminal(VP()), Custom(lambda t: (1 - t) * (1 + t), lambda t: t * (1 + t) ** 0.3),
]  # fmt: skip
NAMES = [*KINDS, "mine"]
MINE = Kind("mine", lambda point: (0.3 + point.sigma, -2.0 * point.alpha))


def by_name(name: str) -> Kind:
    return MINE if name == "mine" else kind(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_kind_gives_back_x0_and_noise(path: Schedule, name: str, per_sample: bool) -> None:
    x0, eps = torch.randn(2, 5, 3, dtype=torch.float64)
    times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    point = path.point(times).align(x0) if per_sample else path.point(0.3)
    x = point.alpha * x0 + point.sigma * eps
    p, q = by_name(name)(point)
    estimate = Estimate(x, p * x0 + q * eps, (p, q), point)
    close = {"rtol": 1e-12, "atol": 1e-12}
    scale = max(1.0, float(torch.as_tensor(point.sigma).max()))
    torch.testing.assert_close(estimate.x0, x0, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(estimate.eps, eps, rtol=1e-12, atol=1e-12 / float(torch.as_tensor(point.sigma).min()))
    torch.testing.assert_close(estimate.score, -eps / point.sigma, rtol=1e-9, atol=1e-9)
    if scale == 1.0:
        torch.testing.assert_close(estimate.v, point.alpha * eps - point.sigma * x0, **close)
        torch.testing.assert_close(estimate.velocity, point.d_alpha * x0 + point.d_sigma * eps, rtol=1e-11, atol=1e-11)


def test_velocity_is_the_derivative_of_the_state() -> None:
    x0, eps = torch.randn(2, 4, dtype=torch.float64)
    for path in PATHS:
        t = torch.tensor(0.345, dtype=torch.float64)
        value, slope = torch.func.jvp(
            lambda s, path=path: path.alpha(s) * x0 + path.sigma(s) * eps, (t,), (torch.ones_like(t),)
        )
        estimate = Estimate(value, eps, (0.0, 1.0), path.point(t))
        torch.testing.assert_close(estimate.velocity, slope, rtol=1e-9, atol=1e-9)


def test_flow_is_straight_on_the_straight_path() -> None:
    assert KINDS["flow"](Flow().point(0.4)) == (-1.0, 1.0) == KINDS["straight"](VP().point(0.4))


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_mean_of_the_posterior_in_betas(per_sample: bool) -> None:
    """μ̃ = √ᾱ_(t−1)·β_t/(1 − ᾱ_t)·x0 + √α_t·(1 − ᾱ_(t−1))/(1 − ᾱ_t)·x_t (Ho et al. 2020, eq. 7), and x0 at the first step."""
    table = Table.linear(50, 1e-3, 0.3)
    beta = torch.tensor(table.betas, dtype=torch.float64)
    bar = torch.cumprod(1.0 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    x0, eps = torch.randn(2, 50, 3, dtype=torch.float64)
    x = bar.sqrt()[:, None] * x0 + (1.0 - bar).sqrt()[:, None] * eps
    first, second = before.sqrt() * beta / (1.0 - bar), (1.0 - beta).sqrt() * (1.0 - before) / (1.0 - bar)
    expected = first[:, None] * x0 + second[:, None] * x
    times = torch.arange(1, 51, dtype=torch.float64) / 50
    found = mean(table, 50)
    if per_sample:
        p, q = found(table.point(times).align(x0))
        y = p * x0 + q * eps
    else:
        pairs = [found(table.point(t)) for t in times.tolist()]
        y = torch.stack([p * a + q * b for (p, q), a, b in zip(pairs, x0, eps, strict=True)])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(y[0], x0[0])


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_the_mean_of_the_posterior_determines_x0_on_every_path(path: Schedule) -> None:
    x0, eps = torch.randn(2, 4, dtype=torch.float64)
    for i in (1, 2, 13, 19):
        point = path.point(i / 20)
        pair = mean(path, 20)(point)
        estimate = Estimate(point.alpha * x0 + point.sigma * eps, pair[0] * x0 + pair[1] * eps, pair, point)
        torch.testing.assert_close(estimate.x0, x0, rtol=1e-8, atol=1e-8)


def test_edm_is_the_preconditioning_of_the_paper() -> None:
    """D = c_skip·x + c_out·F with the coefficients of table 1, and a target of unit variance, whatever the standard deviation of data."""
    for s in (0.5, 1.3):
        for sigma in (0.02, 0.7, 30.0):
            point = VE(0.01, 80.0).at(-torch.log(torch.tensor(sigma, dtype=torch.float64)).item())
            p, q = edm(s)(point)
            a, b = convert((p, q), (1.0, 0.0), point.alpha, point.sigma)
            total = sigma**2 + s**2
            assert a == pytest.approx(s**2 / total, rel=1e-12)
            assert b == pytest.approx(sigma * s / total**0.5, rel=1e-12)
            assert p**2 * s**2 + q**2 == pytest.approx(1.0, rel=1e-12)
    for t in (0.1, 0.9):
        p, q = edm(0.5)(VP().point(t))
        assert p**2 * 0.25 + q**2 == pytest.approx(1.0, rel=1e-12)
    assert KINDS["edm"](VP().point(0.4)) == edm(0.5)(VP().point(0.4))


def test_singular_conversions_raise() -> None:
    end, start = Flow().point(1.0), Flow().clean()
    with pytest.raises(InputError, match="finite logsnr"):
        convert(KINDS["eps"](end), (1.0, 0.0), end.alpha, end.sigma)
    with pytest.raises(InputError, match="finite logsnr"):
        convert(KINDS["x0"](start), (0.0, 1.0), start.alpha, start.sigma)
    with pytest.raises(InputError, match="score is infinite"):
        KINDS["score"](start)
    for name in ("v", "flow", "straight", "x0"):  # these determine x0 at pure noise
        a, b = convert(KINDS[name](end), (1.0, 0.0), end.alpha, end.sigma)
        x0, eps = 0.7, -1.1
        p, q = KINDS[name](end)
        assert a * eps + b * (p * x0 + q * eps) == pytest.approx(x0)


def test_the_same_kind_passes_through_unchanged() -> None:
    out = torch.randn(3)
    estimate = Estimate(torch.randn(3), out, (0.0, 1.0), Flow().point(1.0))
    assert estimate.eps is out


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'score'"):
        kind("scores")
    assert kind(MINE) is MINE
