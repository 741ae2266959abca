"""Data sets of tensors of any rank: waves, videos, tokens, codes; and the mirror images of another data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Image, Label
from reverie.core.errors import InputError
from reverie.data.maps import BOXES


@dataclass(frozen=True, eq=False)
class TensorSet(Dataset):
    """Samples that are tensors, in memory or memory-mapped.

    Args:
        x: (N, …), handed out as it is, of any rank and dtype.
        labels: class indices (N,), if there are any.
        extra: tensors (N, …) that belong to the samples and are no conditions: masks, second pictures.
        classes: names of the classes.
        name: of the set.
        range: least and greatest value of ``x``.

    Raises:
        InputError: for lengths that differ, or labels that are no class indices.
    """

    x: Tensor
    labels: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    classes: Sequence[str] = ()
    name: str = "tensors"
    range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self._parts().items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the tensors of a data set are of one length: got {lengths}")
        if self.labels is not None:
            Label(self._count()).check("label", Cond(label=self.labels)["label"])

    @property
    def spec(self) -> DataSpec:
        conditions = {} if self.labels is None else {"label": Label(self._count())}
        return DataSpec(tuple(self.x.shape[1:]), conditions, tuple(self.classes), self.name, self.range)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        cond = None if self.labels is None else Cond(label=self.labels[rows].long())
        return Batch(self.x[rows], cond, {name: value[rows] for name, value in self.extra.items()})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything the set holds, in its order."""
        said = hashlib.sha256(json.dumps([*self.classes]).encode())
        for name, value in self._parts().items():
            said.update(json.dumps([name, str(value.dtype), [*value.shape]]).encode())
            for rows in value.split(4096):
                said.update(rows.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return said.hexdigest()

    def _parts(self) -> dict[str, Tensor]:
        return {"x": self.x, **({} if self.labels is None else {"labels": self.labels}), **self.extra}

    def _count(self) -> int:
        assert self.labels is not None
        return len(self.classes) or (int(self.labels.max()) + 1 if len(self.labels) else 1)


class Mirrored(Around):
    """A data set of pictures, followed by their mirror images: position ``len(data) + i`` is picture i mirrored.

    What else of a sample lies on the same pixels is mirrored with it: masks and second pictures in ``extra``, and a picture that is told.

    Raises:
        InputError: for data that is no pictures.
    """

    def __init__(self, data: Dataset) -> None:
        if len(data.spec.shape) < 2:
            raise InputError(
                f"pictures have mirror images, samples of shape {data.spec.shape} have none: leave --data.flip out"
            )
        super().__init__(data)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"mirrored {self.data.fingerprint}".encode()).hexdigest()  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return 2 * len(self.data)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        return self.finish(self.raw(positions))

    def finish(self, raw: Batch) -> Batch:
        return self.data.finish(raw)

    def raw(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch, turned = self.data.raw(rows % len(self.data)), rows >= len(self.data)
        height, width = batch.x.shape[-2:]
        for i in turned.nonzero().flatten().tolist():  # where it lies: it may be what another process sees
            batch.x[i] = batch.x[i].flip(-1)

        def mirror(value: Tensor) -> Tensor:
            if value.ndim < 3 or value.shape[-2:] != (height, width):
                return value
            return torch.where(turned.reshape(-1, *(1,) * (value.ndim - 1)), value.flip(-1), value)

        cond, told = batch.cond, self.data.spec.conditions
        if cond is not None:
            pictures = {name: isinstance(told.get(name), Image) for name in cond}
            entries = {name: cond[name].map(mirror) if of else cond[name] for name, of in pictures.items()}
            cond = Cond(**entries)
        extra = {name: mirror(value) for name, value in batch.extra.items() if name != BOXES}
        if (boxes := batch.extra.get(BOXES)) is not None:
            kind, top, left, bottom, right = boxes.unbind(-1)
            other = torch.stack([kind, top, 1.0 - right, bottom, 1.0 - left], -1)
            extra[BOXES] = torch.where(turned[:, None, None], other, boxes)
        return Batch(batch.x, cond, extra)
