"""Every path: λ and its inverse, derivatives, limits and dtypes, against closed forms and autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.core.errors import InputError
from reverie.core.paths import EDM, Custom, Shifted, SubVP, Table, Trigonometric, ZeroTerminal
from reverie.core.schedules import VE, VP, Cosine, Flow, Point, Schedule

CUSTOM = Custom(lambda t: (1 - t) * (1 + t), lambda t: t * (1 + t) ** 0.3)
PATHS: dict[str, Schedule] = {
    "vp": VP(),
    "vp other": VP(0.2, 12.0),
    "cosine": Cosine(),
    "trigonometric": Trigonometric(),
    "flow": Flow(),
    "ve": VE(),
    "subvp": SubVP(),
    "edm": EDM(),
    "table": Table.linear(),
    "table cosine": Table.cosine(50),
    "table zero": Table.scaled_linear().zero_terminal(),
    "flow shifted": Shifted(Flow(), 3.0),
    "vp shifted": Shifted(VP(), 4.0),
    "cosine shifted": Shifted(Cosine(), 2.0),
    "ve shifted": Shifted(VE(), 0.5),
    "zero terminal": ZeroTerminal(VP()),
    "custom": CUSTOM,
}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
inside = st.floats(1e-4, 1.0 - 1e-4)


@paths
@settings(max_examples=12)
@given(t=inside)
def test_the_inverse_of_lambda_is_exact(path: Schedule, t: float) -> None:
    assert path.t_of_lam(path.lam(t)) == pytest.approx(t, rel=1e-12, abs=1e-12)
    assert path.at(path.lam(t)).alpha == pytest.approx(path.alpha(t), rel=1e-11)


@paths
@settings(max_examples=12)
@given(t=inside)
def test_everything_agrees_with_alpha_and_sigma(path: Schedule, t: float) -> None:
    assert math.exp(path.log_alpha(t)) == pytest.approx(path.alpha(t), rel=1e-12)
    assert math.exp(path.log_sigma(t)) == pytest.approx(path.sigma(t), rel=1e-12)
    assert path.lam(t) == pytest.approx(path.log_alpha(t) - path.log_sigma(t), rel=1e-12, abs=1e-12)
    assert path.logsnr(t) == 2.0 * path.lam(t)
    assert path.lam(t) > path.lam(min(t + 1e-4, 1.0))


@paths
@settings(max_examples=12)
@given(t=inside)
def test_derivatives_agree_with_autograd(path: Schedule, t: float) -> None:
    if isinstance(path, Table) and abs(t * len(path.betas) - round(t * len(path.betas))) < 1e-9:
        return  # a knot has a derivative on each side
    for f, d in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma), (path.lam, path.d_lam)):
        s = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(f(s), s)
        assert d(t) == pytest.approx(slope.item(), rel=1e-9, abs=1e-12)


@paths
def test_tensors_keep_dtype_shape_and_value(path: Schedule) -> None:
    t = torch.linspace(0.05, 0.95, 7)
    for f in (path.alpha, path.sigma, path.lam, path.d_alpha, path.d_sigma, path.log_alpha, path.log_sigma):
        low, high = f(t), f(t.double())
        assert low.dtype == torch.float32 and low.shape == (7,)
        torch.testing.assert_close(low, high.float(), rtol=2e-5, atol=2e-5)
        assert isinstance(f(0.5), float)


@paths
def test_points_are_cached_floats_and_reach_both_ends(path: Schedule) -> None:
    first, last = path.point(1.0), path.point(0.0)
    assert all(isinstance(v, float) and not math.isnan(v) for v in (*first, *last))
    assert path.point(0.25) is path.point(0.25)
    assert path.clean().sigma == 0.0 and path.clean().lam == math.inf == path.at(math.inf).lam
    low, high = path.lam_range()
    assert math.isfinite(low) and math.isfinite(high) and low < high
    assert path.prior_std() == first.sigma
    assert path.at(0.5 * (low + high)).lam == 0.5 * (low + high)


def test_ends_are_exact() -> None:
    for path in (Flow(), Cosine(), Trigonometric(), ZeroTerminal(VP()), PATHS["table zero"], Shifted(Flow(), 3.0)):
        assert path.alpha(1.0) == 0.0 and path.lam(1.0) == -math.inf and path.point(1.0).rho == math.inf
        assert path.point(1.0).tau == pytest.approx(1.0, abs=1e-15)
    for path in (Flow(), Cosine(), Trigonometric(), VP(), SubVP(), Table.linear(), Shifted(VP(), 2.0)):
        assert path.sigma(0.0) == 0.0 and path.lam(0.0) == math.inf and path.alpha(0.0) == pytest.approx(1.0, abs=1e-15)
    assert VE().sigma(0.0) == pytest.approx(0.01) and VE().sigma(1.0) == pytest.approx(80.0)
    assert EDM().sigma(0.0) == pytest.approx(0.002) and EDM().sigma(1.0) == pytest.approx(80.0)


@pytest.mark.parametrize(
    "path", [VP(), Cosine(), Trigonometric(), Table.linear(), ZeroTerminal(VP()), Shifted(VP(), 3.0)]
)
def test_variance_is_preserved(path: Schedule) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-14)


def test_closed_forms_of_the_papers() -> None:
    t = 0.3
    beta = 0.1 * t + 0.5 * 19.9 * t**2  # ∫β
    assert VP().alpha(t) == pytest.approx(math.exp(-0.5 * beta), rel=1e-14)
    assert SubVP().sigma(t) == pytest.approx(1.0 - math.exp(-beta), rel=1e-14)
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert Cosine().alpha(t) ** 2 == pytest.approx(f(t) / f(0.0), rel=1e-13)
    assert VE().sigma(t) == pytest.approx(0.01 * 8000.0**t, rel=1e-13)
    assert EDM().sigma(t) == pytest.approx((0.002 ** (1 / 7) + t * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7, rel=1e-13)
    assert Trigonometric().sigma(t) == pytest.approx(math.sin(math.pi * t / 2), rel=1e-15)


def test_low_noise_keeps_its_digits() -> None:
    """√(1 − α²) in float32 is 9 % wrong at t = 1e-6: the forms used here are not."""
    t = 1e-6
    exact = VP().sigma(t)
    alpha = VP().alpha(torch.tensor(t))
    naive = torch.sqrt(1.0 - alpha**2).item()
    assert abs(naive / exact - 1.0) > 0.05
    for path in (VP(), Cosine(), SubVP(), Table.linear()):
        assert path.sigma(torch.tensor(t)).item() == pytest.approx(path.sigma(t), rel=1e-5)
    assert exact == pytest.approx(math.sqrt(-math.expm1(-0.1 * t - 0.5 * 19.9 * t * t)), rel=1e-14)


@pytest.mark.parametrize("make", [Table.linear, Table.scaled_linear, Table.cosine])
def test_a_table_agrees_at_its_points(make) -> None:
    table = make()
    alpha_bar = np.cumprod(1.0 - np.array(table.betas))
    for i in (0, 1, 499, 998, 999):
        t = float(table.time(i))
        assert table.alpha(t) == pytest.approx(alpha_bar[i] ** 0.5, rel=1e-12)
        assert table.sigma(t) == pytest.approx((1.0 - alpha_bar[i]) ** 0.5, rel=1e-12)
        assert table.index(t) == pytest.approx(i, abs=1e-9)
    assert table.index(table.time(torch.tensor([0, 7]))).tolist() == pytest.approx([0.0, 7.0])


def test_zero_terminal_table_is_that_of_the_paper() -> None:
    table = Table.scaled_linear()
    root = np.cumprod(1.0 - np.array(table.betas)) ** 0.5
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    got = table.zero_terminal().alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    assert got[-1] == 0.0 and got[0] == pytest.approx(root[0], rel=1e-14)


def test_shift_is_that_of_the_papers() -> None:
    s = 3.0
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    shifted = Shifted(Flow(), s)
    moved = s * t / (1 + (s - 1) * t)
    torch.testing.assert_close(shifted.sigma(t), moved, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(shifted.alpha(t), 1 - moved, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(shifted.d_sigma(t), s / (1 + (s - 1) * t) ** 2, rtol=1e-12, atol=1e-14)
    for base in (VP(), Cosine()):
        assert Shifted(base, s).lam(0.4) == pytest.approx(base.lam(0.4) - math.log(s), rel=1e-14)
    # the limit at clean data of a path whose σ starts as √t
    assert Shifted(VP(), s).d_alpha(0.0) == pytest.approx(s**2 * VP().d_alpha(0.0), rel=1e-9)


def test_custom_agrees_with_the_path_it_imitates() -> None:
    mine = Custom(lambda t: 1 - t, lambda t: t)
    for t in (1e-9, 1e-3, 0.37, 0.99):
        assert mine.d_alpha(t) == pytest.approx(-1.0, rel=1e-12) and mine.d_sigma(t) == pytest.approx(1.0, rel=1e-12)
        assert mine.t_of_lam(Flow().lam(t)) == pytest.approx(t, rel=1e-12)
    lam = torch.tensor([-2.0, 0.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mine.t_of_lam(lam).sum(), lam)
    torch.testing.assert_close(slope, (-torch.sigmoid(lam) * torch.sigmoid(-lam)).detach())


def test_what_a_path_refuses() -> None:
    with pytest.raises(InputError, match=r"covers logsnr"):
        VE().at(20.0)
    with pytest.raises(InputError, match=r"covers logsnr"):
        Custom(lambda t: 1 - 0.5 * t, lambda t: t).at(-1.0)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        VP().point(1.5)
    with pytest.raises(InputError, match="int64"):
        VP().alpha(torch.tensor([3]))
    with pytest.raises(InputError, match="last may be 1"):
        Table((0.1, 1.0, 0.2))
    with pytest.raises(InputError, match="no point at logsnr"):
        Shifted(Custom(lambda t: 1 - 0.5 * t, lambda t: t), 50.0)
    with pytest.raises(InputError, match="positive"):
        Shifted(Flow(), 0.0)
    with pytest.raises(InputError, match="variance-preserving"):
        ZeroTerminal(VE())


def test_a_point_broadcasts_per_sample() -> None:
    t = torch.tensor([0.2, 0.7])
    point = VP().point(t).align(torch.zeros(2, 3, 4, 4))
    assert all(field.shape == (2, 1, 1, 1) for field in point)
    assert point.logsnr.flatten().tolist() == pytest.approx((2 * VP().lam(t)).tolist())
    host = VP().point(0.2)
    assert host.align(torch.zeros(2, 3)) is host and isinstance(host, Point)
