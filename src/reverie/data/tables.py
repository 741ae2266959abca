"""The pictures in tables, as Hugging Face's datasets are stored: Parquet files, or the Arrow files of ``save_to_disk``.

A picture is a column of bytes, or of ``{bytes, path}``. The names of classes are those of the column's ``ClassLabel``. Needs pyarrow
(``pip install reverie[parquet]``), and not the library datasets.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from reverie.core.errors import InputError
from reverie.data import captions
from reverie.data.folder import stamp
from reverie.data.records import Records
from reverie.data.split import APART

ENDINGS = (".parquet", ".arrow")
LABELS = ("label", "labels", "class", "cls", "fine_label")
"""Columns that hold the class, where none is declared a ClassLabel."""
_READING = Lock()


class Block(NamedTuple):
    """Rows that are read together: of which file, which of its groups, after how many rows of the file, and how many."""

    file: str
    group: int
    before: int
    count: int


class Rows(Records):
    """Rows of tables, by the name of their file and their number.

    Args:
        root: absolute; one file, or the folder of them.
        files: their paths relative to the folder.

    Raises:
        InputError: when pyarrow is missing, or no column holds pictures.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = root, sorted(files)
        self.folder = root if root.is_dir() else root.parent
        self.key = tuple((path, *stamp(self.folder / path)) for path in self.files)
        self.scattered = not any(path.endswith(".parquet") for path in self.files)
        schema = _opened(self.folder / self.files[0]).schema_arrow
        self.picture, label, names = _columns(schema, root)
        self.told = [name for name in captions.KEYS if name in schema.names and name != label]
        self.blocks = [block for path in self.files for block in _blocks(self.folder / path, path)]
        self.paths = [f"{b.file}/{b.before + i:09d}" for b in self.blocks for i in range(b.count)]
        self.starts = np.cumsum([0, *(block.count for block in self.blocks)])
        self.inner = [path.rpartition("/")[2] for path in self.paths]
        if label is not None:
            values = [value for b in self.blocks for value in _read(self.folder / b.file, b.group, label).to_pylist()]
            self.classes = [names[v] if isinstance(v, int) and 0 <= v < len(names) else str(v) for v in values]
        apart = [Path(path).parts[0].startswith(APART) for path in self.files]
        if any(apart) and not all(apart):
            out = dict(zip(self.files, apart, strict=True))
            self.held_out = np.repeat([out[b.file] for b in self.blocks], [b.count for b in self.blocks])

    def read(self, i: int) -> bytes:
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        block = self.blocks[number]
        value = _read(self.folder / block.file, block.group, self.picture)[i - int(self.starts[number])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise OSError("the table does not hold the picture itself")
        return content

    def captions(self, kept: Sequence[int]) -> tuple[list[str] | None, set[str]]:
        if not self.told:
            return None, set()
        every = [
            captions.given({self.told[0]: value}) or ""
            for b in self.blocks
            for value in _read(self.folder / b.file, b.group, self.told[0]).to_pylist()
        ]
        return [every[i] for i in kept], set()


def _columns(schema: Any, root: Path) -> tuple[str, str | None, list[str]]:
    """The columns of the pictures and of their classes, and the names of the classes."""
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    pictures = [name for name in schema.names if said.get(name, {}).get("_type") == "Image"]
    pictures += [f.name for f in schema if str(f.type).startswith(("struct<bytes: binary", "binary", "large_binary"))]
    if not pictures:
        raise InputError(
            f"no column of {root} holds pictures: it has {', '.join(schema.names)}. A picture is a column of bytes, or of bytes and path"
        )
    declared = [name for name in schema.names if said.get(name, {}).get("_type") == "ClassLabel"]
    label = next(iter([*declared, *(name for name in LABELS if name in schema.names)]), None)
    return pictures[0], label, said.get(label, {}).get("names", []) if label else []


def _blocks(path: Path, called: str) -> list[Block]:
    file = _opened(path)
    if path.suffix == ".arrow":
        return [Block(called, 0, 0, file.num_rows)]
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return [Block(called, group, sum(counts[:group]), count) for group, count in enumerate(counts)]


class _Table(NamedTuple):
    """An Arrow file, mapped into memory."""

    table: Any

    @property
    def schema_arrow(self) -> Any:
        return self.table.schema

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    def read_row_group(self, group: int, columns: list[str]) -> Any:
        return self.table.select(columns)


def _opened(path: Path) -> Any:
    """A file as it is now, of which groups of rows can be read.

    Raises:
        InputError: when pyarrow is missing, or the file is no table.
    """
    return _open(path, stamp(path))


@lru_cache(maxsize=64)
def _open(path: Path, written: tuple[int, int]) -> Any:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{path.name} is read with pyarrow, which is not installed: pip install reverie[parquet]"
        ) from None
    try:
        if path.suffix == ".parquet":
            return pq.ParquetFile(path)
        source = pa.memory_map(str(path))
        try:
            return _Table(pa.ipc.open_stream(source).read_all())
        except pa.ArrowInvalid:
            return _Table(pa.ipc.open_file(source).read_all())
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no table that pyarrow reads: {error}") from error


def _read(path: Path, group: int, column: str) -> Any:
    """A column of a group of rows; a file is read by one thread at a time."""
    with _READING:
        return _column(path, stamp(path), group, column)


@lru_cache(maxsize=4)
def _column(path: Path, written: tuple[int, int], group: int, column: str) -> Any:
    return _opened(path).read_row_group(group, columns=[column]).column(column)
