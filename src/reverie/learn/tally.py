"""The figures of a training: kept on the device until they are read back, all at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from reverie.core import memory
from reverie.core.errors import RunError
from reverie.learn.divergence import Turn

PATIENCE = 1.0
"""Seconds after which figures are read back although the log is not due."""
SHOWN = {"loss": "loss {:.4f}", "grad_norm": "gradient {:.3g}", "lr": "rate {:.2g}"}
"""What of a player stands behind the bar."""


class Tally:
    """Figures of turns since the last line of the log.

    Args:
        several: more than one player is stepped, so that its name leads.
        diverged: makes the error of what is not finite: told what, whose turn and which part of the loss, None for the gradient.
    """

    def __init__(self, several: bool, diverged: Callable[[str, Turn, str | None], RunError]) -> None:
        self.several, self.diverged = several, diverged
        self.since = (0, 0.0)
        self.forget(0, 0.0)

    def forget(self, images: int, seconds: float) -> None:
        """Begin anew after so many images and seconds of training."""
        self.pending: list[Turn] = []
        self.recent: dict[str, list[float]] = {}
        self.since, self.read_at = (images, seconds), time.perf_counter()

    def add(self, turn: Turn) -> None:
        self.pending.append(turn)

    @property
    def late(self) -> bool:
        """Whether nothing was read back for :data:`PATIENCE` seconds."""
        return time.perf_counter() - self.read_at > PATIENCE

    def read_back(self) -> None:
        """Read back what the turns since the last time gave.

        Raises:
            RunError: when a loss or a gradient was not finite.
        """
        self.read_at = time.perf_counter()
        if not self.pending:
            return
        turns, self.pending = self.pending, []
        numbers = iter(torch.stack([v.float() for t in turns for v in (*t.sums.values(), t.norm)]).tolist())
        for turn in turns:
            sums = {part: next(numbers) for part in turn.sums}
            norm, loss = next(numbers), sum(sums.values())
            for part, value in sums.items():
                if not math.isfinite(value):
                    raise self.diverged(f"the loss of {turn.player}, part {part!r}, is {value}", turn, part)
            if not math.isfinite(norm):
                raise self.diverged(f"the gradient norm of {turn.player} is {norm} at loss {loss:.4g}", turn, None)
            prefix = f"{turn.player}." if self.several else ""
            for key, value in {"loss": loss, **sums, "grad_norm": norm, "lr": turn.rate}.items():
                self.recent.setdefault(prefix + key, []).append(value)

    def summary(self, device: torch.device) -> str:
        """Losses, gradient norms and rates as last read back, and the most memory that the process took."""
        said = []
        for key, values in self.recent.items():
            player, _, kind = key.rpartition(".")
            if kind in SHOWN:
                said.append(f"{player} {SHOWN[kind].format(values[-1])}".strip())
        peak = memory.peak(device)
        return ", ".join([*said, f"{peak / 2**30:.1f} GiB"] if said and peak else said)

    def take(self, images: int, seconds: float) -> tuple[dict[str, float], float]:
        """The mean of each figure since the last time, none if nothing was read back, and images a second meanwhile."""
        self.read_back()
        means = {key: sum(values) / len(values) for key, values in self.recent.items()}
        pace = (images - self.since[0]) / max(seconds - self.since[1], 1e-9)
        if means:
            self.recent, self.since = {}, (images, seconds)
        return means, pace
