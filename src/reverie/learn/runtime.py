"""Where training runs: the device, the precision of the forward passes, and the processes that share each batch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from reverie.core.errors import InputError, RunError


@dataclass(frozen=True)
class Runtime:
    """One process of ``world`` on one device; every process sees its shard of a batch and makes the same step.

    Under ``torchrun`` the processes find each other by its environment (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, …).
    """

    device: torch.device
    bf16: bool = False
    rank: int = 0
    world: int = 1

    @classmethod
    def choose(cls, device: str = "auto", bf16: bool = False) -> "Runtime":
        """A device by name; ``auto`` is the accelerator if there is one.

        Raises:
            InputError: for a device that this machine does not have, or as :func:`launched`.
        """
        rank, world, local = launched()
        if device == "auto":
            accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            chosen = accelerator or torch.device("cpu")
            if accelerator is not None and world > 1:
                chosen = torch.device(accelerator.type, local)
            return cls(chosen, bf16, rank, world)
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {device!r} cannot be used here: {str(error).splitlines()[0]} Use cpu or auto."
            ) from error
        return cls(torch.device(device), bf16, rank, world)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connected to the other processes, if there are any."""
        if self.world == 1:
            yield
            return
        dist.init_process_group("gloo" if self.device.type == "cpu" else None, rank=self.rank, world_size=self.world)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def shard(self, start: int, count: int) -> tuple[int, int]:
        """This process's part (start, count) of the images ``start … start + count − 1``.

        Raises:
            InputError: when there are fewer images than processes.
        """
        if count < self.world:
            raise InputError(
                f"{self.world} processes cannot share a batch of {count}: choose train.batch and train.images so that "
                "every batch, the last one too, has an image for each"
            )
        first, last = count * self.rank // self.world, count * (self.rank + 1) // self.world
        return start + first, last - first

    def add_up(
        self, trained: Sequence[Tensor], sums: Mapping[str, Tensor], stop: bool
    ) -> tuple[bool, dict[str, Tensor]]:
        """Add up the gradients of the ``trained`` weights and ``sums``, each (), over the processes, in one message.

        Returns:
            Whether any process wants to stop, and the sums.

        Raises:
            RunError: when another process has gone.
        """
        if self.world == 1:
            return stop, dict(sums)
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients: list[Tensor] = [p.grad for p in trained if p.grad is not None]
        numbers = torch.stack([*sums.values(), torch.tensor(float(stop), device=self.device)]).to(gradients[0])
        message = torch.cat([numbers, *(g.flatten() for g in gradients)])
        try:
            dist.all_reduce(message)
        except RuntimeError as error:
            raise RunError(f"process {self.rank} of {self.world} lost the others: {error}") from error
        head, *parts = message.split([len(numbers), *(g.numel() for g in gradients)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return bool(head[-1] > 0), dict(zip(sums, head[:-1].unbind(), strict=True))

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes in bfloat16 if asked for."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def launched() -> tuple[int, int, int]:
    """(rank, world, local rank) of this process as the launcher's environment says; (0, 1, 0) without a launcher.

    A rank alone would wait for nobody, train all images and save nothing: the variables come together or not at all.

    Raises:
        InputError: when some of ``RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT`` are missing, or they contradict each other.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(os.environ):
        return 0, 1, 0
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"the environment says that a launcher started this process, but lacks {', '.join(missing)}: start it with torchrun, "
            "or unset RANK, WORLD_SIZE and LOCAL_RANK"
        )
    world = _variable("WORLD_SIZE", 1, 2**20)
    rank = _variable("RANK", 0, world - 1)
    _variable("MASTER_PORT", 0, 65_535)
    return rank, world, _variable("LOCAL_RANK", 0, rank) if "LOCAL_RANK" in os.environ else rank


def _variable(name: str, least: int, most: int) -> int:
    given = os.environ[name]
    if not (given.isascii() and given.isdecimal() and least <= int(given[:20]) <= most):
        raise InputError(
            f"the environment variable {name} is a whole number from {least:,} to {most:,}; got {given!r}. "
            "Start the processes with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK."
        )
    return int(given)
