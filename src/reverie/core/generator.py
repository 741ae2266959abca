"""Whatever draws: a denoiser with its solver, a flow map, a GAN, a VAE, an autoregressive or masked model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reverie.core.batch import Dataset
    from reverie.core.condition import Cond, Conditions
    from reverie.core.noise import Seeds
    from reverie.core.space import Space


@dataclass(frozen=True)
class Frame:
    """A moment of drawing, as ``on_step`` is told of it. What is not looked at is not computed.

    Args:
        count: samples that are drawn together.
        done: steps made so far, of ``total``.
        total: steps in all.
        state: gives what there is so far, as data (B, …): a noisy state, a picture as far as it is drawn.
        estimate: gives what the model expects in the end, as data (B, …); None if it expects nothing.
        logsnr: of the state; None for a model without noise levels.
    """

    count: int
    done: int
    total: int
    state: Callable[[], Tensor]
    estimate: Callable[[], Tensor] | None = None
    logsnr: float | None = None


class Generator(ABC):
    """A model with everything bound that says how it draws.

    Attributes:
        shape: of one sample of data, of any rank.
        conditions: what it may be told.
        log_prob: ``(x, cond=None) -> (B,)``, the log-density of data in nats, of a generator that knows it; else None. A model of discrete
            levels spreads the mass of each evenly over its bin: log p + d·log(levels/2) for d values in [−1, 1].
        log_prob_bound: the same of a generator that knows a lower bound on it only, of which the mean over x is at most that of log_prob.
        as_space: ``(data) -> Space``, the space of its codes, scaled by those of a data set, of a generator that codes what it draws; else
            None.
    """

    shape: tuple[int, ...]
    conditions: Conditions
    log_prob: Callable[..., Tensor] | None = None
    log_prob_bound: Callable[..., Tensor] | None = None
    as_space: Callable[[Dataset], Space] | None = None

    @abstractmethod
    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        """Draw ``n`` samples, by default one for each condition or seed, else 1.

        Sample i of seed s is the same whatever ``n`` and ``batch_size``.

        Args:
            n: how many.
            cond: one condition for all, or one a sample.
            seed: one for all, or one a sample.
            batch_size: draw at most so many at a time.
            on_step: told of each step of each batch.

        Returns:
            (n, …) data.
        """

    def settings(self) -> dict[str, Any]:
        """How it draws, in words and numbers that JSON takes: recorded beside every figure."""
        return {}

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The networks it draws with, by name."""
        return {}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move its networks; returns itself."""
        for module in self.modules().values():
            module.to(device=device, dtype=dtype)
        return self
