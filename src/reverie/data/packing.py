"""Pictures as shards of a WebDataset (Aizman, Maltby & Breuel 2019): tar files of a bounded size, read from their place by any process.

A sample is the members of one key: the picture, ``.cls``, the number of its class, and ``.txt``, its caption; ``classes.txt`` beside the
shards has the names. Files stay as they are, byte by byte, and keep their paths, so that those are held out that were before.
"""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from reverie.core import image_files
from reverie.core.batch import Dataset
from reverie.core.errors import InputError
from reverie.core.files import appearing_folder
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.data import items, prefetch, stored
from reverie.data.archives import CLASSES
from reverie.data.decoding import ahead
from reverie.data.folder import is_picture
from reverie.data.items import Sample
from reverie.data.records import Records, Skipped
from reverie.data.split import APART, TRAINING, by_split

WINDOW = 64
"""Pictures that are held at a time."""
Source = str | Path | Dataset | Iterable[Any] | Mapping[str, Iterable[Any]]
"""What is packed, see :func:`pack`."""


class Packed(NamedTuple):
    """Shards that were written, the pictures in them, what was left out, and a hash of the samples and their classes."""

    shards: int
    pictures: int
    skipped: list[Skipped]
    digest: str


def pack(source: Source, out: str | Path, most: int = 10_000, name: str = "the data") -> Packed:
    """Write pictures as shards, with their classes and captions.

    Args:
        source: a folder, archive or table; a data set of pictures, such as :class:`reverie.data.Wrapped`; anything that yields items, as
            :func:`reverie.data.items.samples` takes them (torch's data sets, Hugging Face's, streamed ones too); or several of these by
            the name of their split, ``train`` and ``test``.
        out: a new folder.
        most: pictures a shard.
        name: of ``source``, for messages.

    Raises:
        InputError: when ``out`` is there, no picture can be read, ``source`` holds no pictures, or a split has another name.
        RunError: when ``out`` cannot be written.
    """
    folder = Path(out)
    if folder.exists():
        raise InputError(f"{out} is there already: name a new folder for the shards, or remove it")
    skipped: list[Skipped] = []
    if isinstance(source, str | Path):
        records = stored.find(Path(source))
        labels, classes = records.labels(range(len(records)))
        skipped += records.skipped
        numbers = None if labels is None else labels.tolist()
        samples, count = _of_records(records, numbers, skipped), len(records)
    else:
        samples, classes, count = _of_python(source, name)
    with appearing_folder(folder) as partial:
        done, keys, said = 0, set[str](), hashlib.sha256(repr(classes).encode())
        shard: tarfile.TarFile | None = None
        for sample in track(samples, "packing pictures", count, "pictures"):
            if done % most == 0:
                if shard is not None:
                    shard.close()
                shard = tarfile.open(partial / f"shard-{done // most:06d}.tar", "w")  # noqa: SIM115 - closed when it is full
            assert shard is not None
            key, ending = _key(sample.path, keys)
            _add(shard, f"{key}{ending or _ending(sample)}", _file(sample.content))
            if sample.label is not None:
                _add(shard, f"{key}.cls", sample.label.encode(errors="surrogateescape"))
            if sample.caption:
                _add(shard, f"{key}.txt", sample.caption.encode())
            said.update(_said(sample))
            done += 1
        if shard is None:
            raise InputError(
                f"none of the pictures in {source if isinstance(source, str | Path) else name} could be read"
            )
        shard.close()
        if classes:
            (partial / CLASSES).write_text("".join(f"{each}\n" for each in classes), encoding="utf-8")
    return Packed(-(-done // most), done, sorted(skipped), said.hexdigest())


def kept(source: Source, name: str) -> Path:
    """Shards of a data set of Python's in the cache, named after what they hold: written once, and the same for the same items.

    Raises:
        InputError: as :func:`pack`; for items that are others each time they are read, which no run could go on with.
    """
    first = [_said(sample) for sample in _of_python(source, name, first=True)[0]]
    if first != [_said(sample) for sample in _of_python(source, name, first=True)[0]]:
        raise InputError(
            f"the first item of {name} is another each time it is read: leave random changes to training, which knows them by the seed "
            "(data.flip, task.augment), and take them out of the data set"
        )
    parent = prefetch.cache() / "packed"
    partial = parent / f".tmp-{os.getpid()}"
    try:
        packed = pack(source, partial / name, name=name)
        place = parent / packed.digest[:32] / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            (partial / name).rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def _key(path: str, known: set[str]) -> tuple[str, str]:
    """A key of its own for a picture, its path without dots where no other has that, and the ending of its name."""
    folder, slash, file = path.rpartition("/")
    stem, ending = os.path.splitext(file)
    stem, ending = (stem, ending) if is_picture(file) else (file, "")
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


def _file(content: bytes | Image.Image) -> bytes:
    """What is written: a file as it was, or a picture as PNG."""
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    content.save(file, "PNG")
    return file.getvalue()


def _said(sample: Sample) -> bytes:
    """A digest of a sample."""
    content = sample.content
    pixels = content if isinstance(content, bytes) else content.tobytes()
    kind = () if isinstance(content, bytes) else (content.mode, content.size)
    return hashlib.sha256(repr((sample.path, sample.label, sample.caption, kind)).encode() + pixels).digest()


def _of_records(records: Records, labels: list[int] | None, skipped: list[Skipped]) -> Iterator[Sample]:
    """Those that can be decoded; the others go to ``skipped``."""
    texts, holding = records.captions(range(len(records)))
    skipped[:] = [item for item in skipped if item.path not in holding]
    apart = records.held_out if by_split(records.paths)[1] is None else None

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
                continue
            folder = "" if apart is None else f"{(TRAINING, APART)[int(apart[i])][0]}/"
            label = None if labels is None else str(labels[i])
            yield Sample(f"{folder}{records.paths[i]}", found, label, texts[i] if texts else None)


def _of_python(source: Any, name: str, first: bool = False) -> tuple[Iterable[Sample], list[str], int]:
    """The samples of a data set or of its splits, the names of their classes, and how many there are, 0 where nobody knows.

    Args:
        first: of each the first alone.
    """
    splits = source if isinstance(source, Mapping) else {"": source}
    if unknown := [split for split in splits if split not in ("", *TRAINING, *APART)]:
        raise InputError(f"the splits of {name} are called train and test: got {', '.join(map(str, unknown))}")
    each: list[Iterable[Sample]] = []
    for split, part in splits.items():
        folder = f"{split}/" if split else ""
        found = _of_data(part, folder) if isinstance(part, Dataset) else items.samples(part, name, folder)
        each.append(islice(found, 1) if first else found)
    classes = next((said for part in splits.values() if (said := _names(part))), [])
    lengths = [len(part) if hasattr(part, "__len__") else None for part in splits.values()]
    return chain.from_iterable(each), classes, 0 if None in lengths else sum(filter(None, lengths))


def _names(part: Any) -> list[str]:
    return list(part.spec.classes) if isinstance(part, Dataset) else items.names(part)


def _of_data(data: Dataset, folder: str) -> Iterator[Sample]:
    if len(data.spec.shape) != 3 or data.spec.shape[0] not in (1, 3):
        raise InputError(
            f"{data.name} holds samples of shape {data.spec.shape}: shards are of pictures, (1 or 3, H, W)"
        )
    for start in range(0, len(data), WINDOW):
        batch = data.batch(range(start, min(start + WINDOW, len(data))))
        shades = batch.x.add(1.0).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).squeeze(3).numpy()
        for i, picture in enumerate(shades):
            label = None if batch.label is None else str(int(batch.label[i]))
            yield Sample(f"{folder}{start + i:09d}", Image.fromarray(picture), label)


def _ending(sample: Sample) -> str:
    """The ending of a picture whose path has none."""
    if not isinstance(sample.content, bytes):
        return ".png"
    with image_files.opened(Path(sample.path), sample.content) as image:
        return f".{(image.format or 'png').lower()}"
