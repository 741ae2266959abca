"""Where features are kept: in memory, or in a folder of safetensors shards, one cell of which is read at a time.

A folder holds ``features.json``, which says what was read from what, and ``part-00000000.safetensors`` … with the rows from that number on.
Each file appears complete or not at all, so a reading that was broken off goes on with the files that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.errors import InputError, RunError

Cell = tuple[str, float]
"""A site and a noise level."""

ABOUT = "features.json"


class Features(Mapping[Cell, Tensor]):
    """Features by (site, level), each (N, …) float32; ``features["middle.0"]`` when there is one level."""

    def __init__(self, cells: Sequence[Cell], n: int) -> None:
        self.cells, self.n = list(cells), n

    @property
    def sites(self) -> list[str]:
        return list(dict.fromkeys(site for site, _ in self.cells))

    @property
    def levels(self) -> list[float]:
        return list(dict.fromkeys(level for _, level in self.cells))

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __getitem__(self, cell: Cell | str) -> Tensor:
        return self.rows(cell, range(self.n))

    def rows(self, cell: Cell | str, rows: range) -> Tensor:
        """Some consecutive rows of a cell, without reading the others."""
        raise NotImplementedError

    def missing(self, size: int) -> Iterator[range]:
        """The parts of at most ``size`` rows that have not been written."""
        raise NotImplementedError

    def write(self, part: range, batches: Iterable[tuple[range, Mapping[Cell, Tensor]]]) -> None:
        """Keep the features of a part, which come batch by batch."""
        raise NotImplementedError

    def find(self, cell: Cell | str) -> Cell:
        """A cell by name.

        Raises:
            InputError: when there is none, or a site alone is ambiguous.
        """
        if isinstance(cell, str):
            if len(self.levels) != 1:
                raise InputError(f"{cell!r} was read at {len(self.levels)} noise levels: ask for one of {self.levels}")
            cell = (cell, self.levels[0])
        found = (cell[0], float(cell[1]))
        if found not in self.cells:
            raise InputError(f"no features of {found}: the sites are {self.sites}, the levels {self.levels}")
        return found


class Kept(Features):
    """Features in memory."""

    def __init__(self, cells: Sequence[Cell], n: int) -> None:
        super().__init__(cells, n)
        self._values: dict[Cell, Tensor] = {}

    def rows(self, cell: Cell | str, rows: range) -> Tensor:
        return self._values[self.find(cell)][rows.start : rows.stop]

    def missing(self, size: int) -> Iterator[range]:
        yield range(self.n)

    def write(self, part: range, batches: Iterable[tuple[range, Mapping[Cell, Tensor]]]) -> None:
        for rows, found in batches:
            for cell, value in found.items():
                if cell not in self._values:
                    self._values[cell] = torch.empty(self.n, *value.shape[1:])
                self._values[cell][rows.start : rows.stop] = value


class Stored(Features):
    """Features in a folder; :meth:`open` reads one that was written earlier."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        super().__init__([(site, level) for level in about["levels"] for site in about["sites"]], about["images"])
        self.folder, self.about, self.shard = folder, about, int(about["shard"])

    @classmethod
    def create(cls, folder: Path, about: Mapping[str, Any]) -> Stored:
        """A folder for these features, new or begun earlier.

        Raises:
            InputError: when it holds other features; the message says what differs.
        """
        path = folder / ABOUT
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            other = [f"{key} {there.get(key)} (now {value})" for key, value in about.items() if there.get(key) != value]
            if other:
                raise InputError(f"{folder} holds other features: {'; '.join(other)}. Choose another folder.")
        else:
            files.write(path, json.dumps(about))
        return cls(folder, about)

    @classmethod
    def open(cls, folder: str | Path) -> Stored:
        """Features that were streamed to a folder.

        Raises:
            InputError: when there are none.
            RunError: when the reading was broken off, or a file is damaged.
        """
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise InputError(f"no features in {folder}: there is no {ABOUT}")
        stored = cls(folder, json.loads((folder / ABOUT).read_text(encoding="utf-8")))
        if left := sum(len(part) for part in stored.missing(stored.shard)):
            raise RunError(f"{folder} lacks the features of {left} of {stored.n} pictures: read them again to go on")
        return stored

    def missing(self, size: int) -> Iterator[range]:
        for start in range(0, self.n, size):
            if not self._file(start).exists():
                yield range(start, min(start + size, self.n))

    def write(self, part: range, batches: Iterable[tuple[range, Mapping[Cell, Tensor]]]) -> None:
        values: dict[Cell, Tensor] = {}
        for rows, found in batches:
            for cell, value in found.items():
                if cell not in values:
                    values[cell] = torch.empty(len(part), *value.shape[1:])
                values[cell][rows.start - part.start : rows.stop - part.start] = value
        tensors = {_key(cell): value for cell, value in values.items()}
        files.write_tensors(self._file(part.start), tensors, {"what": "features", "rows": [part.start, part.stop]})

    def rows(self, cell: Cell | str, rows: range) -> Tensor:
        key, parts = _key(self.find(cell)), []
        for start in range(rows.start // self.shard * self.shard, rows.stop, self.shard):
            try:
                with files.opened(self._file(start)) as file:
                    parts.append(
                        file.get_slice(key)[
                            max(rows.start - start, 0) : min(rows.stop - start, self.shard, self.n - start)
                        ]
                    )
            except RunError as error:
                raise RunError(f"{error}. Remove it and read the features again.") from error
        return torch.cat(parts)

    def _file(self, start: int) -> Path:
        return self.folder / f"part-{start:08d}.safetensors"


def _key(cell: Cell) -> str:
    return f"{cell[0]}@{cell[1]:g}"
