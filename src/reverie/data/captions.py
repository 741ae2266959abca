"""Pictures and what they are called: captions from a folder's files, told in several words, as the condition "text".

A folder or archive has a caption for a picture in a text file of its name (``fox.txt`` beside ``fox.png``), a line a caption; or in a JSON
file of its name, under ``text`` or ``caption``, as shards of a WebDataset have; or all in ``metadata.jsonl``, a line
``{"file_name": "fox.png", "text": "a red fox"}`` a picture, or in ``metadata.csv``, as Hugging Face's imagefolder has them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core import spelling
from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Entry, Text
from reverie.core.errors import InputError, unknown
from reverie.core.text import counted

METADATA = ("metadata.jsonl", "metadata.csv")
KEYS = ("text", "caption", "captions", "prompt")
"""What a caption may be called, by JSON and tables."""
MOST = 256
"""Tokens of a caption that are told where nothing else is asked for."""
FEATURES = "text{}"
"""The condition that holds what the encoder of a number has made of a text."""


class Features(NamedTuple):
    """What a text encoder has made of texts.

    Args:
        row: of each text, its number.
        tokens: the features of all tokens, (T, D), text after text.
        ends: where each text ends among them, (N,).
    """

    row: Mapping[str, int]
    tokens: Tensor
    ends: Tensor

    def entry(self, texts: Sequence[str], present: Tensor) -> Entry:
        """The condition of samples of these texts: (B, L, D) with its mask; zeros for a sample that has no text."""
        parts = [self._of(text) if there else self.tokens[:0] for text, there in zip(texts, present, strict=True)]
        longest = max(1, *map(len, parts))
        value = self.tokens.new_zeros(len(parts), longest, self.tokens.shape[1])
        for i, part in enumerate(parts):
            value[i, : len(part)] = part
        lengths = torch.tensor([len(part) for part in parts])
        return Entry(value, torch.arange(longest) < lengths[:, None], present)

    def _of(self, text: str) -> Tensor:
        row = self.row[text]
        return self.tokens[0 if row == 0 else int(self.ends[row - 1]) : int(self.ends[row])]


@dataclass(frozen=True, eq=False)
class Captions:
    """What pictures are called.

    Args:
        texts: of each picture the ways to say it, the plain one first; none for a picture that nobody has described.
        length: the most tokens that are told, see :mod:`reverie.core.spelling`.
    """

    texts: Sequence[tuple[str, ...]]
    length: int

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[str]],
        text: str | None,
        templates: Sequence[str] = ("{}",),
        length: int | None = None,
        name: str = "the data",
    ) -> Captions:
        """The captions of a data set.

        Args:
            columns: of text, a string a picture; a caption's lines are several ways to say it.
            text: the column that holds the captions.
            templates: ways to say a caption, in which ``{}`` stands for it and ``{category}`` for what that column says.
            length: the most tokens that are told; those of the longest caption by default, at most :data:`MOST`.
            name: of the data set.

        Raises:
            InputError: when there are no captions, or a template names a column that there is not.
        """
        if text is None or not any(columns[text]):
            raise InputError(
                f"there are no captions in the data {name}: put NAME.txt beside each picture, or {METADATA[0]} with file_name and text "
                "into the folder, or leave data.captions out"
            )
        if not templates:
            raise InputError('captions are told by at least one template: "{}" tells them as they are')
        told = [
            tuple(
                _filled(template, line, {key: column[i] for key, column in columns.items()})
                for template in templates
                for line in filter(None, map(str.strip, caption.splitlines()))
            )
            for i, caption in enumerate(columns[text])
        ]
        longest = max(spelling.count(each) for several in told for each in several)
        return cls(told, min(longest, MOST) if length is None else length)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def ways(self) -> int:
        """The most ways in which a picture's caption is said."""
        return max(map(len, self.texts))

    def say(self, row: int, way: int = 0) -> str:
        """What a picture is called; of fewer ways than there are, they are taken in turn; "" where there is none."""
        texts = self.texts[row]
        return texts[way % len(texts)] if texts else ""

    def entry(self, texts: Sequence[str]) -> Entry:
        """The condition "text" of samples, present where there is a text."""
        return Entry(spelling.spelled(texts, self.length), None, torch.tensor([bool(text) for text in texts]))

    def plain(self) -> Captions:
        """The same, each said in the plain way alone."""
        return replace(self, texts=[several[:1] for several in self.texts])

    @property
    def notes(self) -> list[str]:
        """What of the captions is not told, in sentences to show the user."""
        notes, all_said = [], [text for several in self.texts for text in several]
        if without := sum(not several for several in self.texts):
            notes.append(f"{counted(without, 'picture')} of {len(self):,} have no caption: they teach what there is.")
        if long := sum(spelling.count(text) > self.length for text in all_said):
            notes.append(
                f"{counted(long, 'caption')} of {len(all_said):,} are longer than {self.length} tokens: the first {self.length} are kept."
            )
        return notes


class Captioned(Around):
    """A data set whose pictures are called in several ways: position ``i·ways + j`` is sample i, told the j-th way.

    Args:
        data: pictures or codes of them, perhaps with their mirror images behind them.
        captions: of the pictures.
        features: what text encoders have made of all that is said, each.
    """

    def __init__(self, data: Dataset, captions: Captions, features: Sequence[Features] = ()) -> None:
        super().__init__(data)
        self.captions, self.features = captions, features

    @property
    def spec(self) -> DataSpec:
        spec = self.data.spec
        conditions = {**spec.conditions, "text": Text(self.captions.length)}
        return DataSpec(spec.shape, conditions, spec.classes, spec.name, spec.range)

    @property
    def fingerprint(self) -> str:
        said = json.dumps([self.data.fingerprint, self.captions.length, *self.captions.texts])  # pyright: ignore[reportAttributeAccessIssue]
        return hashlib.sha256(said.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.data) * self.captions.ways

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        samples, ways = rows // self.captions.ways, rows % self.captions.ways
        batch = self.data.batch(samples)
        others = {name: batch.cond[name] for name in batch.cond} if batch.cond is not None else {}
        each = zip((samples % len(self.captions)).tolist(), ways.tolist(), strict=True)
        said = [self.captions.say(row, way) for row, way in each]
        text = self.captions.entry(said)
        made = {FEATURES.format(i): kept.entry(said, text.present) for i, kept in enumerate(self.features)}
        return Batch(batch.x, Cond(**{**others, **made, "text": text}), batch.extra)


def of(data: Dataset) -> Captions | None:
    """The captions of a data set, or of the one whose mirror images it holds."""
    found = getattr(data, "captions", None)
    return found if found is not None or not hasattr(data, "data") else of(data.data)  # pyright: ignore[reportAttributeAccessIssue]


def unheard(train: Sequence[str], held_out: Sequence[str]) -> list[int]:
    """Which held-out captions are none of the training captions, without regard to capitals and spaces."""
    known = {spelling.cut(text, MOST) for text in train}
    return [i for i, text in enumerate(held_out) if spelling.cut(text, MOST) not in known]


def read(
    content: Callable[[str], bytes], root: Path, paths: Sequence[str], files: Sequence[str]
) -> tuple[list[str] | None, set[str]]:
    """The caption of each picture of a folder or archive, "" where it has none, and the files that hold them; None where nothing does.

    Args:
        content: of a file, by its path.
        root: the folder or archive, for messages.
        paths: of the pictures, relative to it with forward slashes.
        files: every file in it.

    Raises:
        InputError: for a file that is not UTF-8, or a line that is no JSON object with a file name and a caption.
    """

    def text(file: str) -> str:
        try:
            return content(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{root / file} is no UTF-8 text: {error}. Save it as UTF-8.") from error

    tables = [file for file in files if PurePosixPath(file).name in METADATA]
    found: dict[str, str] = {}
    for file in tables:
        found |= dict(_metadata(file, text(file), root))
    used, every = set(tables), set(files)
    for path in paths:
        for ending, told in ((".txt", str.strip), (".json", _in_json)):
            beside = str(PurePosixPath(path).with_suffix(ending))
            if beside in every and (said := told(text(beside))):
                found[path] = said
                used.add(beside)
                break
    return [found.get(path, "") for path in paths] if found else None, used


def given(row: Mapping[str, Any]) -> str | None:
    """The caption in a row of a table or a JSON object, a line each way to say it; None where there is none."""
    value = next((row[key] for key in KEYS if row.get(key) is not None), None)
    lines = value if isinstance(value, list) else [value]
    said = [" ".join(each.split()) for each in lines if isinstance(each, str)]
    return "\n".join(said) if len(said) == len(lines) else None


def _in_json(text: str) -> str | None:
    """The caption in a JSON file beside a picture, which may hold anything."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return given(row) if isinstance(row, dict) else None


def _metadata(file: str, text: str, root: Path) -> Iterator[tuple[str, str]]:
    """Paths and captions of a table of pictures."""
    folder = PurePosixPath(file).parent
    if file.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text, newline=""))
        for row in rows:
            said = given(row)
            if not row.get("file_name") or said is None:
                raise InputError(f"line {rows.line_num} of {root / file} has no file_name and text: {row}")
            yield str(folder / row["file_name"]), said
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} of {root / file} is not JSON: {error}") from error
        if isinstance(row, dict) and "file_name" in row and {"boxes", "objects"} & {*row} and not {*KEYS} & {*row}:
            continue  # where things are, and not what they are called
        said = given(row) if isinstance(row, dict) else None
        if not isinstance(row, dict) or "file_name" not in row or said is None:
            raise InputError(
                f'line {number} of {root / file} is not like {{"file_name": "fox.png", "text": "a red fox"}}: got {line[:80]}'
            )
        yield str(folder / str(row["file_name"])), said


def _filled(template: str, caption: str, columns: Mapping[str, str]) -> str:
    def word(match: re.Match[str]) -> str:
        if match[1] and match[1] not in columns:
            raise unknown("column", match[1], columns)
        return columns[match[1]] if match[1] else caption

    return re.sub(r"\{(\w*)\}", word, template)
