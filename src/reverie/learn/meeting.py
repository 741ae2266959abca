"""What the processes of one training tell each other besides tensors: where they stand, and why one of them stopped."""

import os
import time
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import ClassVar

from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from reverie.core.errors import RunError

AWAKE = 0.2
"""Seconds between two looks at what the others have told, at most."""
REACHED = timedelta(minutes=10)
"""How long a process looks for the first one."""


@lru_cache(maxsize=1)
def _store(address: str, port: int, rank: int, world: int) -> TCPStore:
    """The store at a place, which this process serves if it is the first; its port stays taken for the next meeting there."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves it then
    serves = rank == 0 and not agent
    return TCPStore(address, port, world, serves, timeout=REACHED, wait_for_workers=False, multi_tenant=True)


class Lost(RunError):
    """Another process has gone, or failed."""


class Meeting:
    """Texts by key, in the store at ``MASTER_ADDR`` and ``MASTER_PORT``; every process holds the n-th meeting of a purpose there together.

    A process that waits here waits as long as it takes, hears signals meanwhile, and ends when another fails or the store is gone.

    Args:
        purpose: what it is about.
        rank, world: of this process.

    Attributes:
        port: where the store listens; a free one if ``MASTER_PORT`` is 0.
    """

    _held: ClassVar[dict[str, "count[int]"]] = {}

    def __init__(self, purpose: str, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if place[1]:
            store = _store(*place, rank, world)
        else:  # of its own, where nothing was held before
            store = _store.__wrapped__(*place, rank, world)
            self._held.clear()
        self.port = store.port
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = PrefixStore(f"reverie/{again}/{purpose}/{next(self._held.setdefault(purpose, count()))}", store)

    def tell(self, key: str, text: str = "") -> None:
        self.store.set(key, text)

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process stops, as far as they can still hear it."""
        try:
            self.tell("failed", f"process {self.rank} of {self.world} stopped: {error or type(error).__name__}")
        except RuntimeError:  # nobody is there any more
            return

    def failure(self) -> str | None:
        """Why another process has stopped, if one has."""
        try:
            return self.store.get("failed").decode() if self.store.check(["failed"]) else None
        except RuntimeError:
            return f"process {self.rank} of {self.world} lost the first one"

    def told(self, key: str) -> bool:
        """Whether somebody has told this.

        Raises:
            Lost: when another process has stopped.
        """
        if (why := self.failure()) is not None:
            raise Lost(why)
        return self.store.check([key])

    def hear(self, key: str) -> str:
        """What somebody tells, once it is told.

        Raises:
            Lost: when another process has stopped.
        """
        pause = 0.002
        while not self.told(key):
            time.sleep(pause)
            pause = min(2.0 * pause, AWAKE)
        return self.store.get(key).decode()
