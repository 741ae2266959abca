"""`ImageSet`: labelled pictures as uint8, in memory or memory-mapped, handed out as floats in [-1, 1]."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from reverie.core import describe
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Conditions, Entry, Label, Text
from reverie.core.condition import Image as Shown
from reverie.core.errors import InputError
from reverie.data.captions import Captions
from reverie.data.demand import OnDemand
from reverie.data.maps import Layout
from reverie.data.records import Skipped

SHOWN = 12
"""Pictures that a data set shows of itself."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Dataset):
    """Pictures of one split of a data set.

    `store` holds all pictures of the data set (in memory, on disk and memory-mapped, or encoded and decoded on demand), `rows` says which
    belong to this split.
    """

    name: str
    split: str
    store: UInt8[Tensor, "m c h w"] | OnDemand
    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"] | None = None
    classes: list[str] = field(default_factory=list)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Text columns, one string a picture: ``path`` of a folder; ``name``, ``category`` … of the emoji."""
    text: str | None = None
    """The column that describes the pictures in words."""
    captions: Captions | None = None
    """What its batches say of the pictures in words; see :meth:`with_captions`."""
    layout: Layout | None = None
    """What its batches say of what lies where; see :meth:`with_layout`."""
    skipped: list[Skipped] = field(default_factory=list)
    """Files of the folder that were left out (of all splits together)."""
    source: str | None = None
    """A hash of the files that the split was read from and how, which stands for its pixels."""
    notes: list[str] = field(default_factory=list)
    """What was inferred rather than asked for, in sentences to show the user."""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        height, width = self.shape[1:]
        classes = f", {len(self.classes)} classes" if self.labels is not None else ""
        kind = "grey" if self.channels == 1 else "colour"
        return f"ImageSet({self.name} {self.split}: {len(self):,} pictures of {height}x{width} in {kind}{classes})"

    def _repr_html_(self) -> str:
        """What ``repr`` says above the first pictures, those of each class if there are several."""
        rows = torch.arange(min(SHOWN, len(self)))
        if self.labels is not None:
            firsts = [(self.labels == label).nonzero()[0, 0] for label in self.labels.unique()[:SHOWN]]
            rows = torch.stack(firsts) if len(firsts) > 1 else rows
        pictures = (pixels.permute(1, 2, 0).squeeze(2).numpy() for pixels in self.store[self.rows[rows]])
        return f"<p>{escape(repr(self))}</p>" + " ".join(describe.html(Image.fromarray(p), 64) for p in pictures)

    @property
    def spec(self) -> DataSpec:
        """Pictures (C, H, W) in [−1, 1], with a label if there are classes, a text if there are captions and a map if there is a layout."""
        count = 0 if self.labels is None else len(self.classes) or int(self.labels.max()) + 1
        conditions: Conditions = {"label": Label(count)} if count else {}
        if self.captions is not None:
            conditions = {**conditions, "text": Text(self.captions.length)}
        if self.layout is not None:
            conditions = {**conditions, "image": Shown(self.layout.channels)}
        return DataSpec(self.shape, conditions, tuple(self.classes), self.name)

    def without_labels(self) -> "ImageSet":
        """The same pictures of no class."""
        return replace(self, labels=None, classes=[])

    def with_captions(self, templates: Sequence[str] = ("{}",), length: int | None = None) -> "ImageSet":
        """The same pictures, told by their captions in place of a class: see :meth:`reverie.data.captions.Captions.of`.

        Raises:
            InputError: when there are no captions.
        """
        captions = Captions.of(self.columns, self.text, templates, length, self.name)
        notes = [*self.notes, *captions.notes]
        return replace(self, labels=None, classes=[], captions=captions, notes=notes)

    def with_layout(self, layout: Layout) -> "ImageSet":
        """The same pictures, each told its map beside what else it is told, see :func:`reverie.data.layouts.read`.

        Raises:
            InputError: for a layout of another number of pictures.
        """
        if len(layout) != len(self):
            raise InputError(f"there is a map of each of {len(self)} pictures: got {len(layout)}")
        return replace(self, layout=layout)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.store.shape[1]

    @property
    def size(self) -> int | tuple[int, int]:
        """Side of square pictures in pixels, or (height, width)."""
        _, height, width = self.shape
        return height if height == width else (height, width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        channels, height, width = self.store.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the split holds, in its order: names, classes and contents, and the shape they are brought to.

        It is the same for a copy of the data elsewhere, and another when a picture was added, removed, renamed or changed.
        """
        said = hashlib.sha256(json.dumps([self.shape, self.source, self.classes, {**self.columns}]).encode())
        if self.labels is not None:
            said.update(self.labels.numpy().tobytes())
        if self.layout is not None:
            said.update(self.layout.fingerprint.encode())
        if self.source is None:
            for rows in self.rows.split(4096):
                said.update(self.store[rows].numpy().tobytes())
        return said.hexdigest()

    @property
    def texts(self) -> list[str] | None:
        """A description of each picture, "" where it has none, or None."""
        return list(self.columns[self.text]) if self.text else None

    @cached_property
    def images(self) -> UInt8[Tensor, "n c h w"]:
        """All pictures of the split as uint8 in memory; for a set too big for that use `batch`."""
        return self.store[self.rows]

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """The pictures at ``positions`` (0 … len − 1) as float32 (B, C, H, W) in [−1, 1], with their labels, plain captions and maps
        if there are any."""
        return self.finish(self.raw(positions))

    def raw(self, positions: Tensor | Sequence[int]) -> Batch:
        """The same as uint8."""
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        told = {} if self.labels is None else {"label": Entry.of(self.labels[chosen])}
        if self.captions is not None:
            told["text"] = self.captions.entry([self.captions.say(row) for row in chosen.tolist()])
        if self.layout is not None:
            told["image"] = Entry.of(self.layout.maps(chosen))
        return Batch(self.store[self.rows[chosen]], Cond(**told) if told else None)

    def finish(self, raw: Batch) -> Batch:
        """uint8 brought to [−1, 1]; on a processor one after the other, for a picture stays in its cache and a batch does not."""
        x = torch.empty(raw.x.shape, device=raw.x.device)
        for floats, bytes_ in zip(x, raw.x, strict=True) if x.device.type == "cpu" else [(x, raw.x)]:
            floats.copy_(bytes_).div_(127.5).sub_(1.0)
        return replace(raw, x=x)
