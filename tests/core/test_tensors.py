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


@pytest.mark.parametrize("inference", [False, True])
def test_terms_are_broadcast_and_promoted_as_ever(inference: bool) -> None:
    a, b, c = torch.randn(1, 3), torch.randn(4, 3), torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode(inference):
        total = combine((0.5, 2.0, -1.0), (a, b, c))
    assert total.dtype == torch.float64 and total.shape == (4, 3)
    torch.testing.assert_close(total.clone(), (a * 0.5 + 2.0 * b).double() - c)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("later", [(False, True, False), (False, False, True), (True, False, False)])
def test_a_sum_of_which_some_terms_are_batched_goes_through_vmap(later: tuple[bool, ...], inference: bool) -> None:
    given = [torch.randn(5, 3) if batched else torch.randn(3) for batched in later]
    with torch.inference_mode(inference):
        batched = torch.func.vmap(lambda *xs: combine((0.5, -2.0, 3.0), xs), tuple(0 if b else None for b in later))
        total = batched(*given)
    torch.testing.assert_close(total.clone(), 0.5 * given[0] - 2.0 * given[1] + 3.0 * given[2])


def test_sums_are_differentiated_in_every_term() -> None:
    """In place or not: gradients, second ones, and forward derivatives."""
    weights = (0.5, -2.0, 3.0)
    given = tuple(torch.randn(3, dtype=torch.float64, requires_grad=i != 0) for i in range(3))
    grads = torch.autograd.grad(combine(weights, given).pow(3).sum(), given[1:], create_graph=True)
    total = sum(w * x for w, x in zip(weights, given, strict=True))
    torch.testing.assert_close(grads[1], 9.0 * total.square())
    (second,) = torch.autograd.grad(grads[1].sum(), given[1])
    torch.testing.assert_close(second, -36.0 * total)
    for i in range(3):
        point = [x.detach() for x in given]
        tangent = torch.ones(3, dtype=torch.float64)
        _, out = torch.func.jvp(
            lambda x, i=i, p=point: combine(weights, [*p[:i], x, *p[i + 1 :]]), (point[i],), (tangent,)
        )
        torch.testing.assert_close(out, weights[i] * tangent)
