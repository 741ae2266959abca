"""Batches of a data set by position in the run, read ahead by worker processes."""

from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Items

from reverie.core.batch import Batch, Dataset
from reverie.core.errors import InputError
from reverie.data import order


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
        device: where batches are copied to; to an accelerator through pinned memory, without waiting.
    """

    def __init__(
        self,
        data: Dataset,
        seed: int,
        *,
        flip: bool = False,
        workers: int = 0,
        ahead: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        if not len(data):
            raise InputError(f"{data.name} holds no samples to learn from")
        if workers < 0:
            raise InputError(f"workers is a number of processes, at least 0: got {workers}")
        self.data, self.seed, self.flip, self.workers, self.ahead = data, seed, flip, workers, ahead
        self.device = torch.device(device)

    def __call__(self, start: int, count: int) -> Batch:
        return self._place(self._take(start, count))

    def stream(self, pieces: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        """The batches of the given (start, count), in their order; workers read ahead of what is taken."""
        if not self.workers:
            yield from (self(*piece) for piece in pieces)
            return
        batches = DataLoader(
            _Pieces(self),
            batch_size=None,
            sampler=_Once(pieces),
            num_workers=self.workers,
            prefetch_factor=self.ahead,
            pin_memory=self.device.type != "cpu",
        )
        yield from map(self._place, batches)

    def _take(self, start: int, count: int) -> Batch:
        if not self.flip:
            return self.data.batch(order.indices(self.seed, start, count, len(self.data)))
        half = len(self.data) // 2
        rows = order.indices(self.seed, start, count, half)
        return self.data.batch(rows + half * order.flips(self.seed, start, count))

    def _place(self, batch: Batch) -> Batch:
        return batch if self.device.type == "cpu" else batch.to(self.device)


class _Pieces(Items[Batch]):
    """Batches by (start, count), as torch's workers ask for them."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, piece: tuple[int, int]) -> Batch:
        return self.loader._take(*piece)


class _Once:
    """What says which pieces come, as torch asks for it; it has no length and need not end."""

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pieces)
