"""What training sees: batches, and data sets that are addressed by position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reverie.core.condition import Cond, Conditions


@dataclass(frozen=True)
class Batch:
    """Samples with what they are conditioned on and what else belongs to them.

    Args:
        x: (B, …); pictures are float (B, C, H, W) in [−1, 1].
        cond: of B samples, or None.
        extra: tensors (B, …) by name that are no conditions: masks, second pictures, codes.
    """

    x: Tensor
    cond: Cond | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def label(self) -> Tensor | None:
        """The condition "label", (B,), if there is one."""
        return None if self.cond is None or "label" not in self.cond else self.cond["label"].value

    def index(self, rows: Any) -> Batch:
        """Some of the samples: a slice or an index tensor."""
        cond = None if self.cond is None else self.cond.index(rows)
        return Batch(self.x[rows], cond, {name: value[rows] for name, value in self.extra.items()})

    def map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        """The same with another tensor in place of each."""
        cond = None if self.cond is None else self.cond.map(f)
        return replace(self, x=f(self.x), cond=cond, extra={name: f(value) for name, value in self.extra.items()})

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device; copies of pinned memory to an accelerator do not wait."""
        ahead = not str(device).startswith("cpu")
        return self.map(lambda value: value.to(device, non_blocking=ahead))

    def pin_memory(self) -> Batch:
        """The same in memory that an accelerator copies from by itself."""
        return self.map(lambda value: value.pin_memory())


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know of its data.

    Args:
        shape: of one sample; (C, H, W) for pictures.
        conditions: what its batches hold, by name, such as ``{"label": Label(10)}``.
        classes: names of the classes, if it has any.
        name: of the data set.
        range: least and greatest value.
    """

    shape: tuple[int, ...]
    conditions: Conditions = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    name: str = ""
    range: tuple[float, float] = (-1.0, 1.0)


class Dataset(ABC):
    """Samples by position. Only positions say what is drawn, so any order, batch size, worker or resume point sees the same."""

    name: str

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """Shape, conditions, classes and range."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """The samples at ``positions`` (0 … len − 1), on the CPU, in memory that is not the data set's."""

    def raw(self, positions: Tensor | Sequence[int]) -> Batch:
        """The same as they are stored, where that is smaller: what goes between processes and to a device, for :meth:`finish`."""
        return self.batch(positions)

    def finish(self, raw: Batch) -> Batch:
        """What :meth:`batch` gives, of what :meth:`raw` gives, on any device."""
        return raw


class Around(Dataset):
    """The samples of another data set, shown or told otherwise; a subclass says what is other about its batches.

    Args:
        data: the other.
    """

    def __init__(self, data: Dataset) -> None:
        self.data, self.name = data, data.name

    @property
    def spec(self) -> DataSpec:
        return self.data.spec

    @property
    def fingerprint(self) -> str:
        """That of the data, which this is made of alone."""
        return self.data.fingerprint  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.data)
