"""``--device`` and ``--dtype``: what every verb that runs a network takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from reverie.recipes.runs import Run


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where a network runs, and in what.

    Attributes:
        device: cpu, cuda, mps, …; auto takes the first accelerator there is.
        dtype: what the network computes in; as its weights are stored without. The state of sampling stays float32.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def open(self, folder: Path) -> "Run":
        """The run in a folder, whose models go where they were asked to."""
        from reverie.core import devices
        from reverie.learn.runtime import Runtime
        from reverie.recipes.runs import Run

        return Run(folder, Runtime.choose(self.device).device, devices.dtype(self.dtype))

    @contextmanager
    def joined(self) -> Iterator[bool]:
        """Connected to the other processes that a launcher has started; whether this is the one that prints and writes."""
        from reverie.learn.runtime import Runtime

        runtime = Runtime.choose(self.device)
        with runtime.joined():
            yield runtime.main
