"""Pictures as shards of a WebDataset (Aizman, Maltby & Breuel 2019): tar files of a bounded size, read from their place by any process.

A sample is two members of one key: the picture, and ``.cls``, the number of its class; ``classes.txt`` beside the shards has the names.
Files stay as they are, byte by byte, and keep their paths, so that those are held out that were before.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from reverie.core import image_files
from reverie.core.batch import Dataset
from reverie.core.errors import InputError
from reverie.core.files import appearing_folder
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.data import stored
from reverie.data.archives import CLASSES
from reverie.data.decoding import ahead
from reverie.data.records import Records, Skipped

WINDOW = 64
"""Pictures that are held at a time."""


class Sample(NamedTuple):
    """A picture to be packed: its path, what its file holds, and its class."""

    path: str
    content: bytes
    label: int | None


class Packed(NamedTuple):
    """Shards that were written, the pictures in them, and what was left out."""

    shards: int
    pictures: int
    skipped: list[Skipped]


def pack(source: str | Path | Dataset, out: str | Path, most: int = 10_000) -> Packed:
    """Write pictures as shards.

    Args:
        source: a folder, archive or table; or a data set of pictures, such as :class:`reverie.data.Wrapped`, which are written as PNG.
        out: a new folder.
        most: pictures a shard.

    Raises:
        InputError: when ``out`` is there, no picture can be read, or ``source`` holds no pictures.
        RunError: when ``out`` cannot be written.
    """
    folder = Path(out)
    if folder.exists():
        raise InputError(f"{out} is there already: name a new folder for the shards, or remove it")
    if isinstance(source, Dataset):
        samples, skipped, classes, count = _of_data(source), [], list(source.spec.classes), len(source)
    else:
        records = stored.find(Path(source))
        labels, classes = records.labels(range(len(records)))
        skipped, count = list(records.skipped), len(records)
        samples = _of_records(records, labels, skipped)
    with appearing_folder(folder) as partial:
        done, keys = 0, set[str]()
        shard: tarfile.TarFile | None = None
        for sample in track(samples, "packing pictures", count, "pictures"):
            if done % most == 0:
                if shard is not None:
                    shard.close()
                shard = tarfile.open(partial / f"shard-{done // most:06d}.tar", "w")  # noqa: SIM115 - closed when it is full
            assert shard is not None
            key, ending = _key(sample.path, keys)
            _add(shard, f"{key}{ending}", sample.content)
            if sample.label is not None:
                _add(shard, f"{key}.cls", str(sample.label).encode())
            done += 1
        if shard is None:
            raise InputError(f"none of the {count} pictures in {source} could be read")
        shard.close()
        if classes:
            (partial / CLASSES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return Packed(-(-done // most), done, sorted(skipped))


def _key(path: str, known: set[str]) -> tuple[str, str]:
    """A key of its own for a picture, its path without dots where no other has that, and the ending of its name."""
    folder, slash, file = path.rpartition("/")
    stem, ending = os.path.splitext(file)
    key = plain = folder + slash + stem.replace(".", "_")
    number = 1
    while key in known:
        number += 1
        key = f"{plain}_{number}"
    known.add(key)
    return key, ending.lower()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    shard.addfile(info, io.BytesIO(content))


def _of_records(records: Records, labels: np.ndarray | None, skipped: list[Skipped]) -> Iterator[Sample]:
    """Those that can be decoded; the others go to ``skipped``."""

    def read(i: int) -> tuple[int, bytes | Skipped]:
        path = records.paths[i]
        try:
            content = records.read(i)
            image_files.open_image(path, "RGB", content)
        except (Unreadable, OSError) as error:
            return i, Skipped(path, error.reason if isinstance(error, Unreadable) else str(error))
        return i, content

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, found in ahead(pool, read, len(records), WINDOW):
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                yield Sample(_named(records.paths[i], found), found, None if labels is None else int(labels[i]))


def _of_data(data: Dataset) -> Iterator[Sample]:
    if len(data.spec.shape) != 3 or data.spec.shape[0] not in (1, 3):
        raise InputError(
            f"{data.name} holds samples of shape {data.spec.shape}: shards are of pictures, (1 or 3, H, W)"
        )
    for start in range(0, len(data), WINDOW):
        batch = data.batch(range(start, min(start + WINDOW, len(data))))
        shades = batch.x.add(1.0).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).squeeze(3).numpy()
        for i, picture in enumerate(shades):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            yield Sample(f"{start + i:09d}.png", file.getvalue(), None if batch.label is None else int(batch.label[i]))


def _named(path: str, content: bytes) -> str:
    """The path, with the ending of what a picture is where it has none, as rows of tables."""
    if os.path.splitext(path)[1].lower() in image_files.suffixes():
        return path
    with image_files.opened(Path(path), content) as image:
        return f"{path}.{(image.format or 'png').lower()}"
