"""``--device`` and ``--dtype``: what every verb that runs a network takes."""

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
        from reverie.recipes.runs import Run

        return Run(folder, devices.choose(self.device), devices.dtype(self.dtype))
