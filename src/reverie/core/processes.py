"""The processes that share a training or a drawing: what one knows, told to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.generator import Frame, Generator
from reverie.core.noise import Seeds, listed, sample_seeds

if TYPE_CHECKING:
    from reverie.core.condition import Cond


def standing() -> tuple[int, int]:
    """(rank, world) of this process in the group that it has joined; (0, 1) without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, k) of all processes, in the processes' order; each may have another n."""
    if standing()[1] == 1:
        return rows
    counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    parts = [rows.new_empty(most, *rows.shape[1:]) for _ in counts]
    dist.all_gather(parts, torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])]))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def drawn(n: int, draw: Callable[[slice], Tensor]) -> Tensor:
    """The samples 0 … n − 1: each process draws a slice of them, and all get all.

    Raises:
        InputError: when there are fewer samples than processes.
    """
    rank, world = standing()
    if n < world:
        raise InputError(f"{world} processes cannot share the drawing of {n}: draw at least one each, or start fewer")
    return gathered(draw(slice(n * rank // world, n * (rank + 1) // world)).contiguous())


class Shared(Generator):
    """A generator whose samples the processes of a group draw together; every one of them gets all.

    Its noise has the address of the sample, so sample i is the same whichever process draws it.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.shape, self.conditions = generator.shape, generator.conditions

    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        given = len(cond) if cond is not None else len(seed) if listed(seed) else 1  # pyright: ignore[reportArgumentType]
        count = given if n is None else n
        seeds = sample_seeds(seed, count)
        told = None if cond is None else cond.expand(count)

        def draw(part: slice) -> Tensor:
            some = None if told is None else told.index(part)
            return self.generator.sample(
                part.stop - part.start, some, seed=seeds[part], batch_size=batch_size, on_step=on_step
            )

        return drawn(count, draw)

    def settings(self) -> dict[str, Any]:
        return self.generator.settings()

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return self.generator.modules()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.generator.to(device, dtype)
        return self
