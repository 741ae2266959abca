"""`load`: a bundled set by name or pictures on the disk by path, as an `ImageSet`."""

import hashlib
import json
from pathlib import Path
from shlex import quote
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from reverie.core import files
from reverie.core.errors import InputError, RunError, nearest, unknown
from reverie.data import catalog, hub, pixels, prefetch, scenes, stored
from reverie.data.images import ImageSet
from reverie.data.remote import REMOTE
from reverie.data.split import held_out

Split = Literal["train", "test", "all"]


def load(
    name_or_path: str | Path,
    split: Split = "train",
    *,
    size: pixels.Size | None = None,
    channels: int | None = None,
    fit: pixels.Fit = "crop",
    largest: int | None = None,
) -> ImageSet:
    """Load a data set.

    Args:
        name_or_path: a name from `reverie.data.names()`; a folder of pictures or a zip file of one, where sub-folders are
            classes; one picture; a tar file or a folder of them (a WebDataset, where ``.cls`` members are classes); a Parquet or Arrow
            file or a folder of them (of Hugging Face's datasets); ``hf://OWNER/NAME`` of their hub, once it is fetched.
            A folder in the current directory that has the name of a bundled set is reached as ``./name``.
        split: ``train``, ``test`` (held out) or ``all``. Bundled sets store their split; others may, by folders that are called
            ``train``, ``test`` or ``validation``, tables by the names of their files; of those that do not a tenth is held out, by
            the hash of each picture's relative path.
        size: height and width in pixels, or the side of a square; without it the bundled size, or for a folder a
            square inferred from its pictures (and said in `ImageSet.notes`).
        channels: 1 (grey) or 3 (RGB); without it 1 if every picture is grey and 3 otherwise.
        fit: how a picture becomes one of that size, see `reverie.data.pixels.fit_to`: ``crop``, ``pad`` or ``stretch``.
        largest: the largest side that is inferred; without it that of squares which are all alike, or 256.

    Raises:
        InputError: for an unknown name, a missing or empty folder, one without a readable picture, or arguments out of
            range.
    """
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    pixels.check_options(size, channels, fit)
    if not str(name_or_path):
        raise InputError(
            f"the name of the data is empty: give a folder of pictures or one of {', '.join(catalog.names())}."
        )
    if isinstance(name_or_path, str) and name_or_path in catalog.names():
        parts = _named(name_or_path, size)
        parts["store"] = torch.from_numpy(_convert(parts["store"], size, channels, fit))
        name = name_or_path
    else:
        path = existing(name_or_path)
        parts = stored.load_stored(path, size, channels, fit, largest)
        name = stored.title(path.resolve())
    test = parts.pop("held_out")
    rows = np.flatnonzero({"train": ~test, "test": test, "all": np.ones_like(test)}[split])
    labels = parts.pop("labels")
    columns = {key: [column[row] for row in rows] for key, column in parts.pop("columns").items()}
    if (digests := parts.pop("digests", None)) is not None:
        which = [digests[row] for row in rows] if len(digests) == len(test) else [*digests, split]
        parts["source"] = hashlib.sha256(" ".join([fit, *which]).encode()).hexdigest()
    chosen = None if labels is None else torch.from_numpy(labels[rows].astype(np.int64))
    return ImageSet(name=name, split=split, rows=torch.from_numpy(rows), labels=chosen, columns=columns, **parts)


def existing(given: str | Path) -> Path:
    """Where pictures lie on the disk.

    Raises:
        InputError: when there is no such folder, nor a file that holds pictures.
    """
    spelt = str(given).replace("hf:/", hub.SCHEME, 1) if isinstance(given, Path) else given  # a path keeps one slash
    if spelt.startswith(hub.SCHEME):
        if not (place := hub.folder(spelt)).is_dir():
            raise InputError(f"{spelt} is not here yet: `reverie prefetch {quote(spelt)}` streams it into the cache")
        return place
    path = Path(given).expanduser()
    if not path.is_dir() and not (
        path.is_file() and (stored.is_picture(path.name) or path.suffix.lower() in stored.ENDINGS)
    ):
        raise _missing(str(given), path)
    return path


def _named(name: str, size: pixels.Size | None) -> dict[str, Any]:
    if name == catalog.DIGITS8:
        return _digits8()
    if name == catalog.SCENES:
        return dict(scenes.stored(pixels.sides(size or scenes.SIZE)))
    return _fetched(there) if name in REMOTE and (there := prefetch.folder(name)) else _bundled(name)


def _fetched(folder: Path) -> dict[str, Any]:
    """A data set in the cache, its pictures memory-mapped.

    Raises:
        RunError: when it is damaged.
    """
    try:
        with files.opened(folder / prefetch.DATA) as file:
            images, labels, test = (file.get_tensor(key).numpy() for key in ("images", "labels", "held_out"))
        about = json.loads((folder / prefetch.ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RunError) as error:
        raise RunError(
            f"{folder} is damaged: {error}. Remove it and fetch it again: reverie prefetch {folder.name}"
        ) from error
    described = {"classes": about["classes"], "columns": about["columns"], "text": about.get("text")}
    digests = [REMOTE[folder.name].sha256]
    return {"store": images, "labels": labels, "held_out": test, "digests": digests, **described}


def _bundled(name: str) -> dict[str, Any]:
    with np.load(catalog.FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        images, labels, test = arrays["images"], arrays["labels"], arrays["held_out"]
    about = catalog.metadata(name)
    described = {"classes": about["classes"], "columns": about["columns"], "text": about.get("text")}
    return {"store": images, "labels": labels, "held_out": test, **described}


def _digits8() -> dict[str, Any]:
    """The 1,797 digits of scikit-learn, 8x8, 17 grey levels; a tenth is held out by index."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits8 comes with scikit-learn, which is not installed: pip install scikit-learn.") from None
    digits: Any = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    test = np.array([held_out(f"digits8/{index}") for index in range(len(images))])
    classes = [str(digit) for digit in range(10)]
    return {"store": images, "labels": digits.target, "held_out": test, "classes": classes, "columns": {}}


def _convert(images: np.ndarray, size: pixels.Size | None, channels: int | None, fit: pixels.Fit) -> np.ndarray:
    """Bundled pictures in another size or number of channels."""
    channels, size = channels or int(images.shape[1]), pixels.sides(size or images.shape[2:])
    if images.shape[1:] == (channels, *size):
        return images
    pictures = (Image.fromarray(image.squeeze(0) if len(image) == 1 else image.transpose(1, 2, 0)) for image in images)
    return np.stack([pixels.to_array(picture, size, channels, fit) for picture in pictures])


def _missing(given: str, path: Path) -> InputError:
    if given in catalog.fetchable():
        return InputError(
            f"{given} is not here yet: fetch it with `reverie prefetch {given}`, or give a folder of pictures."
        )
    if path.exists():
        packed = "unpack it to a .tar first, whose members are found one by one" if ".tar." in path.name else ""
        return InputError(
            f"{given} is a file; a data set is a folder of pictures, a file of them ({', '.join(stored.ENDINGS)}) or one of "
            f"{', '.join(catalog.names())}{packed and f': {packed}'}."
        )
    parent = path.absolute().parent
    beside = [str(path.parent / child.name) for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []
    return InputError(
        f"no data set or folder {given!r}: the bundled sets are {', '.join(catalog.names())}, "
        f"and there is no folder {path.absolute()}.{nearest(given, [*catalog.names(), *beside])}"
    )
