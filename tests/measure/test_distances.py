"""Fréchet and kernel distance, precision and recall: against closed forms, other implementations and controls that must fail."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.core.errors import InputError
from reverie.measure.frechet import frechet_distance, frechet_distance_of_moments
from reverie.measure.kernel import kernel_distance
from reverie.measure.precision_and_recall import _distances, _Points, precision_recall

RNG = torch.Generator().manual_seed(1)


def normal(*shape: int, rng: torch.Generator = RNG) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def covariance(d: int) -> torch.Tensor:
    a = normal(d, d)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def with_moments(n: int, mean: torch.Tensor, cov: torch.Tensor) -> torch.Tensor:
    """``n`` points whose sample mean and unbiased covariance are exactly these: whitened noise, coloured again."""
    z = normal(n, len(mean))
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / (n - 1)), z.T, upper=False).T
    return z @ torch.linalg.cholesky(cov).T + mean


def sqrtm_frechet(m1: torch.Tensor, c1: torch.Tensor, m2: torch.Tensor, c2: torch.Tensor) -> float:
    root = scipy.linalg.sqrtm((c1 @ c2).numpy()).real
    return float(((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * np.trace(root))


def test_frechet_of_data_is_the_closed_form():
    m1, m2, c1, c2 = normal(6), normal(6), covariance(6), covariance(6)
    expected = sqrtm_frechet(m1, c1, m2, c2)
    assert frechet_distance(with_moments(50, m1, c1), with_moments(80, m2, c2)) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance_of_moments(m1, c1, m2, c2) == pytest.approx(expected, abs=1e-6)
    # control: with the biased covariance the figure would be another one
    biased = sqrtm_frechet(m1, c1 * 49 / 50, m2, c2 * 79 / 80)
    assert abs(biased - expected) > 1e-3


def test_frechet_of_commuting_gaussians():
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 0.25, 2.0]).double()
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    expected = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance_of_moments(shift, a.diag(), 0 * shift, b.diag()) == pytest.approx(
        expected.item(), abs=1e-12
    )


def test_frechet_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = normal(40, 5), 2 * normal(60, 5) + 1
    theirs = fid._compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)).item()
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-9)


def test_frechet_of_a_set_with_itself_is_zero_even_with_fewer_points_than_dimensions():
    x = normal(20, 64)
    assert abs(frechet_distance(x, x)) < 1e-10
    assert frechet_distance(x, x + 0.1) == pytest.approx(0.01 * 64, abs=1e-9)


@given(st.integers(0, 2**31), st.integers(2, 8))
def test_frechet_sees_neither_order_nor_rotation(seed: int, d: int):
    rng = torch.Generator().manual_seed(seed)
    x, y = normal(30, d, rng=rng), 1.5 * normal(25, d, rng=rng) + 0.3
    value = frechet_distance(x, y)
    rotation = torch.linalg.qr(normal(d, d, rng=rng)).Q
    assert frechet_distance(y, x) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(x[torch.randperm(30, generator=rng)], y) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(value, rel=1e-9)
    assert abs(frechet_distance(x @ rotation, y) - value) > 1e-6  # control: turning one of the two is seen


def kernel_by_definition(x: torch.Tensor, y: torch.Tensor, unbiased: bool = True) -> float:
    """The sums of the definition, pair by pair."""

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def within(z: torch.Tensor) -> float:
        pairs = [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j or not unbiased]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kernel_distance_is_its_definition():
    x, y = normal(7, 3), normal(9, 3) + 0.5
    assert kernel_distance(x, y) == pytest.approx(kernel_by_definition(x, y), rel=1e-12)
    assert kernel_distance(x, y) != pytest.approx(kernel_by_definition(x, y, unbiased=False), rel=1e-3)


def test_kernel_distance_of_shifted_gaussians():
    # in one dimension, k = (xy + 1)³ = 1 + 3xy + 3x²y² + x³y³, so MMD² = 3(Δm₁)² + 3(Δm₂)² + (Δm₃)² in raw moments
    shift = 0.5
    d1, d2, d3 = shift, shift**2, shift**3 + 3 * shift
    expected = 3 * d1**2 + 3 * d2**2 + d3**2
    rng = torch.Generator().manual_seed(3)
    values = [kernel_distance(normal(400, 1, rng=rng), normal(400, 1, rng=rng) + shift) for _ in range(60)]
    mean, error = np.mean(values), np.std(values) / math.sqrt(len(values))
    assert abs(mean - expected) < 4 * error
    assert error < 0.1 * expected


def test_kernel_distance_is_unbiased():
    rng = torch.Generator().manual_seed(2)
    ours, biased = [], []
    for _ in range(400):
        x, y = normal(40, 4, rng=rng), normal(30, 4, rng=rng)
        ours.append(kernel_distance(x, y))
        extra = [((v.square().sum(1) / 4 + 1) ** 3).mean().item() for v in (x, y)]
        kx, ky = (((v @ v.T / 4 + 1) ** 3).mean().item() for v in (x, y))
        biased.append(kx + ky - 2 * ((x @ y.T / 4 + 1) ** 3).mean().item())
        assert extra[0] > 0
    error = np.std(ours) / 20
    assert abs(np.mean(ours)) < 4 * error
    assert np.mean(biased) > 10 * error  # control: the estimator with the diagonal is far from zero
    assert min(ours) < 0


def test_kernel_distance_agrees_with_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = normal(50, 8), normal(50, 8) * 1.3
    assert kernel_distance(x, y) == pytest.approx(kid.poly_mmd(x, y).item(), rel=1e-9)


def test_kernel_distance_in_blocks(monkeypatch: pytest.MonkeyPatch):
    x, y = normal(23, 3), normal(17, 3)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("reverie.measure.kernel.ROWS", 5)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def mixture(n: int, modes: range) -> torch.Tensor:
    centres = 20 * torch.eye(8, dtype=torch.float64)
    which = torch.arange(n) % len(modes)
    return centres[which + modes.start] + normal(n, 8)


def test_dropped_modes_cost_recall_and_not_precision():
    real, kept = mixture(800, range(8)), mixture(800, range(6))
    got = precision_recall(real, kept)
    same = precision_recall(real, mixture(800, range(8)))
    assert got.recall == pytest.approx(0.75 * same.recall, abs=0.03)
    assert got.precision > 0.95 * same.precision
    swapped = precision_recall(kept, real)
    assert (swapped.precision, swapped.recall) == (got.recall, got.precision)
    # control: invented modes cost precision instead
    invented = precision_recall(kept, mixture(800, range(8)))
    assert invented.precision == pytest.approx(0.75 * same.precision, abs=0.03) and invented.recall > 0.8


def test_equal_points_are_at_distance_zero_in_many_dimensions():
    x = 10 * normal(50, 512)
    points = _Points(x, torch.arange(50))
    expected = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(_distances(points, points).diagonal(), torch.zeros(50).double())
    assert torch.allclose(_distances(points, points), expected, atol=1e-9)
    # control: products alone put them beside each other
    assert torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").diagonal().max() > 1e-8
    assert precision_recall(x, x.clone()) == (1.0, 1.0)


def test_precision_recall_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # radii for k = 1: 1, 1, 2, 7
    assert precision_recall(real, torch.tensor([[5.0], [3.0], [20.0]]), k=1) == (2 / 3, 3 / 4)
    edge = precision_recall(real, torch.tensor([[17.0], [17.1]]), k=1)
    assert edge.precision == 0.5  # the edge of a ball belongs to it
    # a ball that counted its own centre as neighbour would have no radius, and nothing new would be covered
    assert precision_recall(real, real, k=1) == (1.0, 1.0)


@given(st.integers(0, 2**31))
def test_precision_recall_swaps_with_its_arguments_and_ignores_scale(seed: int):
    rng = torch.Generator().manual_seed(seed)
    x, y = normal(30, 3, rng=rng), 1.3 * normal(30, 3, rng=rng)
    precision, recall = precision_recall(x, y)
    assert precision_recall(y, x) == (recall, precision)
    assert precision_recall(4 * x, 4 * y) == (precision, recall)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
def test_features_that_cannot_be_compared(measure):
    with pytest.raises(InputError, match=r"\(5, 3\) and \(5, 4\)"):
        measure(normal(5, 3), normal(5, 4))
    with pytest.raises(InputError, match="at least"):
        measure(normal(1, 3), normal(5, 3))
    with pytest.raises(InputError, match="finite"):
        measure(normal(5, 3) * math.nan, normal(5, 3))
