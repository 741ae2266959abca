"""How a batch crosses from a worker of a loader to the process that reads it: in shared memory that is used again and again.

Memory that is new to a process costs it a page fault every 4 KB, and a tensor that is sent a file of its own: together more than a small
picture costs to decode. So a batch lies where another one lay that has been read, and what is small goes in the message, by the buffers of
pickle's protocol 5.
"""

import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from reverie.core.batch import Batch

SMALL = 2**14
"""Bytes up to which a tensor goes in the message."""


@dataclass(frozen=True)
class Message:
    """A batch without its large tensors.

    Args:
        worker, turn: whose it is, and in which of its slots.
        head: the batch, pickled.
        large: of each large tensor, in the order of the head, its block of the slot and its bytes.
        fresh: the blocks that the reader has not seen yet.
    """

    worker: int
    turn: int
    head: bytes
    large: Sequence[tuple[int, int]]
    fresh: Mapping[int, Tensor]


class Sender:
    """What a worker has: slots of shared memory, which take turns.

    Args:
        slots: one more than the worker's batches that wait or are being read, so that it writes into none of these.
    """

    def __init__(self, slots: int) -> None:
        self.slots: list[list[Tensor]] = [[] for _ in range(slots)]
        self.turn, self.taken, self.fresh = 0, 0, dict[int, Tensor]()

    def send(self, read: Callable[[], Batch]) -> Message:
        """What ``read`` gives; of it what was written into :func:`room` is not copied."""
        global _sender
        worker = get_worker_info()
        assert worker is not None
        self.turn, self.taken, self.fresh = (self.turn + 1) % len(self.slots), 0, {}
        _sender = self
        try:
            batch = read()
        finally:
            _sender = None
        head, large = self._pickled(batch)
        return Message(worker.id, self.turn, head, large, self.fresh)

    def block(self, size: int) -> tuple[int, Tensor]:
        """The next block of the slot: its number, and uint8 (size,)."""
        blocks, k = self.slots[self.turn], self.taken
        if k == len(blocks) or len(blocks[k]) < size:
            shared = torch.UntypedStorage._new_shared(size)
            self.fresh[k] = torch.empty(0, dtype=torch.uint8).set_(shared)  # pyright: ignore[reportArgumentType, reportCallIssue]
            blocks[k : k + 1] = [self.fresh[k]]
        self.taken += 1
        return k, blocks[k][:size]

    def _pickled(self, batch: Batch) -> tuple[bytes, list[tuple[int, int]]]:
        written = {block.data_ptr(): k for k, block in enumerate(self.slots[self.turn][: self.taken])}
        large: list[tuple[int, int]] = []

        def place(buffer: pickle.PickleBuffer) -> bool:
            """Whether it goes with the head."""
            content = np.frombuffer(buffer.raw(), np.uint8)
            if content.nbytes <= SMALL:
                return True
            k = written.get(content.ctypes.data)
            if k is None:
                k, block = self.block(content.nbytes)
                block.numpy()[:] = content
            large.append((k, content.nbytes))
            return False

        head = io.BytesIO()
        _Pickler(head, protocol=5, buffer_callback=place).dump(batch)
        return head.getvalue(), large


_sender: Sender | None = None
"""That of this process, while it reads."""


def room(shape: tuple[int, ...]) -> Tensor:
    """Bytes to be filled; in a worker of a loader those that the process which reads them sees."""
    if _sender is None:
        return torch.empty(shape, dtype=torch.uint8)
    return _sender.block(math.prod(shape))[1].view(shape)


class Receiver:
    """What reads the messages of all workers, in their order."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int, int], Tensor] = {}

    def open(self, message: Message) -> Batch:
        """The batch; its large tensors stay until the next message is asked for, see :meth:`own`."""
        slot = message.worker, message.turn
        self.blocks.update({(*slot, k): block for k, block in message.fresh.items()})
        return pickle.loads(message.head, buffers=[self.blocks[*slot, k][:size].numpy() for k, size in message.large])

    def own(self, value: Tensor) -> Tensor:
        """A tensor that stays: itself, or a copy of what lies in a block."""
        at = value.untyped_storage().data_ptr()
        return value.clone() if any(at == block.data_ptr() for block in self.blocks.values()) else value


class _Pickler(pickle.Pickler):
    """Tensors as buffers."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        content: Any = obj.detach().contiguous().flatten().view(torch.uint8).numpy()
        return _tensor, (obj.dtype, tuple(obj.shape), pickle.PickleBuffer(content))


def _tensor(dtype: torch.dtype, shape: tuple[int, ...], content: Any) -> Tensor:
    return torch.frombuffer(content, dtype=dtype).view(shape) if math.prod(shape) else torch.empty(shape, dtype=dtype)
