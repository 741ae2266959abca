"""Measurements: adjoint, pseudo-inverse and solve are what they say, in double precision, for each sample by itself."""

import pytest
import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.inverse.operators import (
    REC601,
    Blur,
    Colourise,
    CompressedSensing,
    Inpaint,
    Operator,
    Phase,
    SuperResolution,
    consistency,
    residual,
)

from ..margin import apart

SHAPE = (3, 12, 8)


def motion() -> Tensor:
    """An asymmetric kernel: its adjoint is not itself."""
    kernel = torch.zeros(5, 3, dtype=torch.float64)
    kernel[0, 0], kernel[1, 1], kernel[2, 1], kernel[4, 2] = 0.4, 0.3, 0.2, 0.1
    return kernel


OPERATORS = {
    "inpaint": Inpaint(torch.rand(12, 8, generator=torch.Generator().manual_seed(0)) > 0.4),
    "inpaint channels": Inpaint(torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.4),
    "superresolution": SuperResolution(4),
    "blur": Blur.gaussian(1.0),
    "motion blur": Blur(motion()),
    "colourise": Colourise(),
    "compressed sensing": CompressedSensing(SHAPE, 100, seed=3),
}


class Generic(Operator):
    """Another operator known by A and A* alone: what it does not have comes from conjugate gradients."""

    def __init__(self, of: Operator) -> None:
        self.of = of

    def __call__(self, x: Tensor) -> Tensor:
        return self.of(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.of.adjoint(y)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_adjoint_and_pseudo_inverse(operator: Operator, x: Tensor) -> None:
    seen = operator(x)
    y = torch.randn_like(seen)
    assert torch.allclose((seen * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1), atol=1e-10)
    back = operator.pinv(seen)
    assert torch.allclose(operator(back), seen, atol=1e-10)  # A A⁺ A = A
    assert torch.allclose(operator.pinv(operator(back)), back, atol=1e-10)  # A⁺ A A⁺ = A⁺
    rest = x - back  # A⁺A is the orthogonal projection
    assert torch.allclose((rest * back).flatten(1).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_adjoint_is_the_transpose_of_the_jacobian(operator: Operator, x: Tensor) -> None:
    seen, pull = torch.func.vjp(operator, x)
    y = torch.randn_like(seen)
    y = y if not isinstance(operator, Inpaint) else operator(y)
    assert torch.allclose(pull(y)[0], operator.adjoint(y), atol=1e-10)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
def test_solve_and_conjugate_gradients(operator: Operator, x: Tensor) -> None:
    v = operator(x)
    u = operator.solve(v, 0.7, 0.3)
    assert torch.allclose(0.7 * operator(operator.adjoint(u)) + 0.3 * u, v, atol=1e-10)
    generic = Generic(operator)
    assert torch.allclose(generic.solve(v, 0.7, 0.3), u, atol=1e-5)
    if operator.gram is not None:
        assert torch.allclose(generic.pinv(v), operator.pinv(v), atol=1e-5)
        assert torch.allclose(operator(operator.adjoint(v)), operator.gram * v, atol=1e-10)


def test_conjugate_gradients_are_per_sample(x: Tensor) -> None:
    generic = Generic(OPERATORS["motion blur"])
    x = x * torch.tensor([1.0, 100.0, 0.0, 1e-3], dtype=torch.float64).reshape(4, 1, 1, 1)
    v = generic(x)
    together = generic.solve(v, 1.0, 0.1)
    alone = torch.cat([generic.solve(v[i : i + 1], 1.0, 0.1) for i in range(4)])
    assert torch.allclose(together, alone, rtol=1e-9, atol=0) and torch.equal(together[2], torch.zeros(SHAPE).double())


def test_a_wrong_adjoint_is_found_out(x: Tensor) -> None:
    """The control: an unflipped kernel is no adjoint of an asymmetric blur."""
    blur = OPERATORS["motion blur"]
    y = torch.randn_like(x)
    assert apart((blur(x) * y).flatten(1).sum(1), (x * blur(y)).flatten(1).sum(1)) > 1e-2


def test_what_they_measure(x: Tensor) -> None:
    assert torch.allclose(SuperResolution(4)(x)[0, 1, 2, 1], x[0, 1, 8:12, 4:8].mean())
    assert torch.allclose(Colourise()(x)[:, 0], sum(w * x[:, i] for i, w in enumerate(REC601)))
    spot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spot[..., 4, 4] = 1.0
    assert torch.allclose(Blur(motion())(spot)[0, 0, 2:7, 3:6], motion(), atol=1e-12)  # centered, not shifted
    phase = Phase(2.0)(x)
    assert phase.shape == (4, 3, 24, 16)
    assert torch.allclose(phase.square().sum((2, 3)), (0.5 * (x + 1)).square().sum((2, 3)))  # Parseval
    turned = x.flip(-1, -2)
    assert torch.allclose(phase, Phase(2.0)(turned), atol=1e-10) and apart(Phase(2.0)(x.flip(-1)), phase) > 1e-2


def test_consistency_counts_what_is_measured() -> None:
    mask = torch.zeros(4, 4)
    mask[:2, :2] = 1
    operator, images = Inpaint(mask), torch.zeros(2, 3, 4, 4)
    y = operator(torch.full((1, 3, 4, 4), 0.5))
    assert torch.allclose(consistency(operator, y, images), torch.tensor(0.5))
    assert torch.allclose(residual(operator, y)(images), torch.tensor(0.5 * 12**0.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Inpaint(torch.full((4, 4), 0.5)), ["1 (known) or 0", "threshold"]),
        (lambda: Inpaint(torch.ones(6, 6))(torch.zeros(1, 1, 4, 4)), ["1x6x6", "1x4x4", "give a mask"]),
        (lambda: Inpaint(torch.ones(3, 1, 4, 4))(torch.zeros(2, 1, 4, 4)), ["the mask", "3", "batch of 2"]),
        (lambda: SuperResolution(3)(torch.zeros(1, 1, 4, 4)), ["4x4", "3x3", "divisor"]),
        (lambda: SuperResolution(0), ["at least 1", "got 0"]),
        (lambda: Blur(torch.ones(2, 3)), ["odd", "(2, 3)"]),
        (lambda: Blur.gaussian(0.0), ["positive"]),
        (lambda: Blur.gaussian(3.0)(torch.zeros(1, 1, 8, 8)), ["19x19", "8x8"]),
        (lambda: Colourise()(torch.zeros(1, 1, 4, 4)), ["3 channels", "have 1"]),
        (lambda: CompressedSensing((1, 4, 4), 17), ["16", "17"]),
        (lambda: CompressedSensing((1, 4, 4), 5)(torch.zeros(1, 1, 8, 8)), ["(1, 4, 4)", "(1, 8, 8)"]),
        (lambda: Phase(0.5), ["at least 1"]),
        (lambda: Phase().pinv(torch.ones(1, 1, 8, 8)), ["Phase has no adjoint", "dps and dflow"]),
        (lambda: residual(Colourise(), torch.zeros(3, 1, 4, 4))(torch.zeros(2, 3, 4, 4)), ["3", "batch of 2"]),
    ],
)  # fmt: skip
def test_bad_input(make, words) -> None:
    with pytest.raises(InputError) as error:
        make()
    for word in words:
        assert word in str(error.value), (word, str(error.value))
