"""How far two results lie apart: a change is seen against its control by a margin, never by bits that rounding decides."""

from torch import Tensor


def apart(a: Tensor, b: Tensor) -> float:
    """``‖a − b‖ / ‖b‖``: float32 rounds by 1e-6 or so, what is meant to change does by a hundred times that and more."""
    return float((a.detach() - b.detach()).norm() / b.detach().norm())
