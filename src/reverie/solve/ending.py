"""One look at what a run ends with: numbers that are not finite are an error, which the run taken again says the beginning of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from reverie.core.errors import InputError, RunError
from reverie.core.tensors import finite
from reverie.solve.fast import network

if TYPE_CHECKING:
    from reverie.core.denoiser import Denoiser
    from reverie.solve.iterating import Step


def check_finite(denoise: Denoiser, x: Tensor, given: Tensor | None, again: Callable[[], Iterable[Step]]) -> None:
    """Raise where ``x``, the end of a run, is not finite.

    Args:
        given: what the run was asked to start from, if anything.
        again: the same run once more, of the samples that went wrong: only then is each step looked at.

    Raises:
        InputError: when what was given is not finite.
        RunError: otherwise; it names the step and what is known of the cause.
    """
    if finite(x):
        return
    if given is not None and not finite(given):
        raise InputError("the run starts from numbers that are not finite: look at what is given as x or images")
    for step in again():
        where = f"step {step.index + 1} (logsnr {2.0 * step.at.lam:.4g} to {2.0 * step.to.lam:.4g})"
        if not finite(step.estimate.out):
            raise RunError(f"the model's estimate is not finite from {where} on: {_cause(denoise, step.estimate.x_t)}")
        if not finite(step.x):
            raise RunError(f"the state is not finite after {where}: {_cause(denoise, step.estimate.x_t)}")
    raise RunError(
        f"the run is finite, and what its space makes of it is not: {_cause(denoise, x.nan_to_num(0, 0, 0))}"
    )


def drawn(x: Tensor) -> Tensor:
    """What a model without steps drew, itself; a :class:`RunError` where it is not finite."""
    if not finite(x):
        raise RunError(
            "what was drawn is not finite: the model's weights hold numbers that are not, or what it was given is"
        )
    return x


def _cause(denoise: Denoiser, x: Tensor) -> str:
    net = network(denoise)
    weights = () if net is None else net.named_parameters()
    sick = next((name for name, value in weights if not finite(value)), None)
    if sick is not None:
        return f"its weight {sick!r} holds numbers that are not finite. Load another checkpoint, or train again"
    guided = f", the guidance scale is {denoise.guidance:g}" if denoise.guidance != 1.0 else ""
    return (
        f"the state before it reaches {float(x.detach().abs().max()):.3g}{guided}. "
        "Take a smaller scale, more steps, or a solver of lower order"
    )
