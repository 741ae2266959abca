"""Batches of a data set by position in the run, read ahead by worker processes."""

import signal
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Items

from reverie.core.batch import Batch, Dataset
from reverie.core.errors import InputError, RunError
from reverie.data import crossing, order


class Loader:
    """``loader(start, count)``: the samples at training positions ``start … start + count − 1``, epoch after epoch in fresh order.

    What a position holds depends on the seed alone, so a run may begin anywhere, with any batch size and any number of workers.

    Args:
        data: the samples.
        seed: of the order and the flips.
        flip: mirror at random; ``data`` then holds each sample twice, the mirror images in its second half, as
            :class:`reverie.data.Mirrored` and codes of it do.
        workers: processes that read ahead in :meth:`stream`; 0 reads in this one.
        ahead: batches that each worker reads ahead.

    Raises:
        InputError: for data without samples, or fewer workers than none.
    """

    def __init__(
        self,
        data: Dataset,
        seed: int,
        *,
        flip: bool = False,
        workers: int = 0,
        ahead: int = 2,
    ) -> None:
        if not len(data):
            raise InputError(f"{data.name} holds no samples to learn from")
        if workers < 0:
            raise InputError(f"workers is a number of processes, at least 0: got {workers}")
        self.data, self.seed, self.flip, self.workers, self.ahead = data, seed, flip, workers, ahead

    def __call__(self, start: int, count: int) -> Batch:
        return self.data.finish(self.raw(start, count))

    def raw(self, start: int, count: int) -> Batch:
        """The same as the data stores it."""
        if not self.flip:
            return self.data.raw(order.indices(self.seed, start, count, len(self.data)))
        half = len(self.data) // 2
        rows = order.indices(self.seed, start, count, half)
        return self.data.raw(rows + half * order.flips(self.seed, start, count))

    def stream(self, pieces: Iterable[tuple[int, int]], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The batches of the given (start, count) in their order, on a device; workers read ahead of what is taken.

        Pictures travel as bytes, in memory that workers use again. Where there are workers, copies to CUDA come from pinned memory and
        do not wait.

        Raises:
            RunError: when a worker was killed.
            OSError: when a file cannot be read.
        """
        device = torch.device(device)
        if not self.workers:
            yield from (self.data.finish(self.raw(*piece).to(device)) for piece in pieces)
            return
        messages = DataLoader(
            _Pieces(self),
            batch_size=None,
            sampler=_Once(pieces),
            num_workers=self.workers,
            prefetch_factor=self.ahead,
            worker_init_fn=_leave_interrupts,
        )
        reader = crossing.Receiver()
        try:
            for message in messages:
                batch = reader.open(message)
                if device.type != "cpu":
                    batch = (batch.pin_memory() if device.type == "cuda" else batch.map(reader.own)).to(device)
                yield self.data.finish(batch).map(reader.own)
        except OSError as error:  # of a worker: its traceback, the error last
            raise type(error)(str(error).strip().splitlines()[-1]) from error
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise RunError(
                f"a process that reads pictures has ended, perhaps for want of memory: {error} Choose fewer --train.workers, or 0."
            ) from error


class _Pieces(Items[crossing.Message]):
    """Batches by (start, count), as torch's workers ask for them."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.sender = loader, crossing.Sender(loader.ahead + 1)

    def __getitem__(self, piece: tuple[int, int]) -> crossing.Message:
        return self.sender.send(lambda: self.loader.raw(*piece))


class _Once:
    """What says which pieces come, as torch asks for it; it has no length and need not end."""

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pieces)


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: what to do about it is for the one that reads, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
