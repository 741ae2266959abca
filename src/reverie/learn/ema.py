"""A moving average of weights whose memory is a function of the images seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from reverie.learn import shards

Decay = Callable[[float, float], float]
"""(images before the step, images after it) -> the share of the old average that stays."""


def half_life(images: float) -> Decay:
    """The average forgets half of what it knew in this many images."""
    return lambda before, after: 0.5 ** ((after - before) / images)


def exponent(std: float) -> float:
    """γ of the average whose width is ``std`` of the training time: the root of ``(γ+1)/((γ+2)²(γ+3)) = std²``."""
    return float(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max())


def power(std: float) -> Decay:
    """The average ``∝ ∫ τ^γ θ(τ) dτ``, γ such that its width is ``std`` of the training time (Karras et al. 2024, eq. 2 and 3).

    One step multiplies by ``(before/after)^(γ+1)``.
    """
    gamma = exponent(std)
    return lambda before, after: (before / after) ** (gamma + 1)


class Ema:
    """The average of a module's parameters and of the statistics of its batch normalisations; what is frozen and other buffers are its own.

    Args:
        module: what is averaged.
        decay: how fast it forgets.
        names: of the parameters that are stepped; all by default.
    """

    def __init__(self, module: nn.Module, decay: Decay, names: Sequence[str] | None = None) -> None:
        self.module, self.decay = module, decay
        names = [name for name, _ in module.named_parameters()] if names is None else names
        self.weights: dict[str, Tensor] = {name: module.get_parameter(name) for name in names}
        for path, part in module.named_modules():
            if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
                prefix = f"{path}." if path else ""
                self.weights |= {f"{prefix}{name}": getattr(part, name) for name in ("running_mean", "running_var")}
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, before: int, after: int) -> None:
        """Take in the weights after the step that saw images ``before … after``."""
        share = 1.0 - self.decay(before, after)
        for kind in {type(value) for value in self.average.values()}:  # those in parts apart from those that are not
            averages = {name: value for name, value in self.average.items() if type(value) is kind}
            weights = [self.weights[name].detach() for name in averages]
            torch._foreach_lerp_(list(averages.values()), weights, share)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the averaged weights, in evaluation mode; afterwards it is as it was."""
        training = self.module.training
        self._swap()
        self.module.eval()
        try:
            yield
        finally:
            self._swap()
            self.module.train(training)

    def state_dict(self) -> dict[str, Tensor]:
        """What ``module.state_dict()`` would give with the averaged weights."""
        return {**self.module.state_dict(), **self.average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.average.items():
            value.copy_(shards.part(state[name], value))

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.weights.items():
            if shards.parted(parameter):  # its memory is known to what makes it whole
                other = parameter.detach().clone()
                parameter.copy_(self.average[name])
                self.average[name].copy_(other)
            else:
                parameter.data, self.average[name] = self.average[name], parameter.data
