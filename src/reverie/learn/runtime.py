"""Where training runs: the device, the precision of the forward passes, and the processes that share each batch."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from reverie.core import devices
from reverie.core.errors import InputError
from reverie.learn import shards
from reverie.learn.meeting import Lost, Meeting

GONE = re.compile(r"gloo|NCCL|pair closure|connection (closed|reset|refused)|timed out", re.IGNORECASE)
"""What PyTorch's messages say when another process has gone, which is all that tells them from other errors."""


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
        """A device by name; ``auto`` is the accelerator if there is one, of several processes each its own.

        Raises:
            InputError: for a device that this machine does not have, or as :func:`launched`.
        """
        rank, world, local = launched()
        chosen = devices.choose(device)
        if device == "auto" and world > 1 and chosen.type != "cpu":
            chosen = torch.device(chosen.type, local)
        return cls(chosen, bf16, rank, world)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[Meeting | None]:
        """Connected to the other processes, if there are any.

        Raises:
            Lost: when another process has gone or failed.
        """
        if self.world == 1:
            yield None
            return
        meeting = Meeting("loop", self.rank, self.world)
        group = PrefixStore("group", meeting.store)
        backend = "gloo" if self.device.type == "cpu" else None  # None: gloo for the CPU and what suits the accelerator
        dist.init_process_group(backend, store=group, rank=self.rank, world_size=self.world)
        try:
            yield meeting
        except Lost:
            raise
        except Exception as error:
            if isinstance(error, dist.DistError) or (type(error) is RuntimeError and GONE.search(str(error))):
                lost = f"process {self.rank} of {self.world} lost another, which has ended or cannot be reached"
                raise Lost(meeting.failure() or lost) from error
            meeting.fail(error)
            raise
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

    def shared(self, turn: nn.Module, shard: bool = False) -> nn.Module:
        """A module with the gradients of all processes: each backward pass through what it returns leaves their mean.

        Which weights a pass uses is looked up each time, for losses come and go; so buckets, and the order of sums, are the same at every
        step, those after a resume too. Buffers are each process's own; checkpoints hold those of the first.

        Args:
            turn: computes a loss.
            shard: its weights lie in parts on the processes, see :mod:`reverie.learn.shards`.
        """
        if self.world == 1:
            return turn
        if shard:
            return shards.share_out(turn, self.device, self.world)
        turn.register_parameter(
            "unused", nn.Parameter(torch.zeros(1, device=self.device))
        )  # or PyTorch warns that all are used
        warnings.filterwarnings(
            "ignore", "Grad strides do not match bucket view strides"
        )  # of 1x1 kernels, the same in memory
        return DistributedDataParallel(
            turn, forward_sync_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    @contextmanager
    def kept_apart(self, turn: Any) -> Iterator[None]:
        """Passes of a :meth:`shared` module in here leave its gradients in this process, for the next pass to share."""
        if isinstance(turn, DistributedDataParallel):
            with turn.no_sync():
                yield
        elif shards.parted(turn):
            turn.set_requires_gradient_sync(False)
            yield
            turn.set_requires_gradient_sync(True)
        else:
            yield

    def add_up(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Figures, each (), added up over the processes; an accelerator is not waited for."""
        if self.world == 1:
            return dict(sums)
        numbers = torch.stack(list(sums.values()))
        dist.all_reduce(numbers)
        return dict(zip(sums, numbers.unbind(), strict=True))

    def any(self, *wishes: bool) -> list[bool]:
        """Whether any process wishes it, of each wish; told over the CPU, so that an accelerator is not waited for."""
        if self.world == 1:
            return list(wishes)
        told = torch.tensor(wishes, dtype=torch.float32, device="cpu")
        dist.all_reduce(told)
        return (told > 0).tolist()

    def seed(self, number: int) -> None:
        """The generators that layers draw from, such as dropout. ``torch.manual_seed`` asks besides for every kind of accelerator, which
        takes a millisecond where there is none."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(number)
        else:
            torch.manual_seed(number)

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
