"""Sums of scaled tensors: the same in and out of inference mode, and what is given stays as it was."""

import pytest
import torch

from reverie.core.tensors import combine

COEFFICIENTS = [(2.0, -0.5, 3.0), (1.0, 0.0, 0.5), (0.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.3, 0.0, 0.0)]


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_sum_leaves_what_it_adds_alone(coefficients: tuple[float, ...], inference: bool) -> None:
    given = [torch.randn(3, 2, dtype=torch.float64) for _ in coefficients]
    given.append(given[0])
    weights = (*coefficients, 0.25)
    before = [x.clone() for x in given]
    with torch.inference_mode(inference):
        total = combine(weights, given)
    expected = torch.einsum("k,kij->ij", torch.tensor(weights, dtype=torch.float64), torch.stack(before))
    torch.testing.assert_close(total.clone(), expected, rtol=1e-14, atol=1e-14)
    assert all(torch.equal(x, old) for x, old in zip(given, before, strict=True))


def test_in_inference_mode_terms_are_broadcast_and_promoted_as_ever() -> None:
    a, b, c = torch.randn(1, 3), torch.randn(4, 3), torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode():
        total = combine((0.5, 2.0, -1.0), (a, b, c))
    assert total.dtype == torch.float64 and total.shape == (4, 3)
    torch.testing.assert_close(total.clone(), (a * 0.5 + 2.0 * b).double() - c)
