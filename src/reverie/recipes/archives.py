"""Archives ``.rvz``: pictures, compressed by what a run has learned, without loss.

After four letters and a checksum of all that follows come the length of a header, the header, JSON and deflated, and the codes of
:mod:`reverie.families.coding`, one a batch. The header says the names, what decodes (the run, and the SHA-256 of its weights), and of each
batch the length of the code and a checksum of the pixels.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core import image_files
from reverie.core.errors import InputError, RunError
from reverie.core.files import inside, write
from reverie.core.progress import Progress
from reverie.core.text import shown
from reverie.families import coding
from reverie.families.autoregressive import Autoregressive, side_by_side
from reverie.learn import grid
from reverie.learn.checkpoint import Damaged
from reverie.measure.pictures import lossless
from reverie.recipes.runs import Run

MAGIC = b"RVZ1"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an archive says of itself.

    Attributes:
        run: absolute folder of the run that compressed.
        weights: SHA-256 of its averaged weights.
        names: of the pictures, in their order, as paths with /.
        batch: pictures coded side by side.
        sizes: bytes of the code of each batch.
        pixels: CRC-32 of the pixels of each batch.
    """

    run: str
    weights: str
    names: tuple[str, ...]
    batch: int
    sizes: tuple[int, ...]
    pixels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What became of pictures.

    Attributes:
        pictures: how many.
        total: bytes of the archive.
        payload: bytes of it that code the pictures and their classes; the rest are names and where the weights are.
        ideal: what the model says that they cost, in bytes: −log₂ p / 8, with log₂ of the classes for each.
        others: bytes of the same pictures by the name of a format.
    """

    pictures: int
    total: int
    payload: int
    ideal: float
    others: dict[str, int]


def compress(run: Run, source: Path, out: Path) -> Compressed:
    """Write the pictures of a folder, or one, to an archive.

    Args:
        run: of an autoregressive model with exact likelihood.
        source: a folder of pictures, or a file; all of the size and colours of the model.
        out: the archive.

    Raises:
        InputError: for a run of another kind, and for pictures that would not come back as they are.
    """
    model = _model(run)
    exact = coding.coder(model)
    batch = side_by_side(exact.net)
    names, pixels = read_pictures(source, model)
    tokens = model.net.tokens(_floats(pixels))
    codes, sums, nats = [], [], 0.0
    with Progress("choosing classes", model.classes * len(pixels), "passes") as bar:
        labels = [coding.cheapest(model, part, bar.advance) if model.classes else None for part in tokens.split(batch)]
    with Progress("compressing", len(labels) * model.net.length, "steps") as bar:
        for part, label in zip(tokens.split(batch), labels, strict=True):
            codes.append(coding.encode(exact, part, label, bar.advance))
            sums.append(_sum(model, part))
            nats -= float(model.nats(part, coding.under(label)).sum())
    bits = nats / np.log(2) + len(pixels) * np.log2(max(1, model.classes))
    header = Header(
        run=str(run.folder.absolute()),
        weights=_weights(run),
        names=tuple(names),
        batch=batch,
        sizes=tuple(map(len, codes)),
        pixels=tuple(sums),
    )
    said = zlib.compress(json.dumps(asdict(header)).encode(), 9)
    body = struct.pack("<I", len(said)) + said + b"".join(codes)
    content = MAGIC + struct.pack("<I", zlib.crc32(body)) + body
    write(out, content)
    return Compressed(
        pictures=len(pixels),
        total=len(content),
        payload=sum(map(len, codes)),
        ideal=bits / 8,
        others={name: int(sizes.sum()) for name, sizes in lossless(pixels).items()},
    )


def decompress(archive: Path, out: Path, folder: Path | None = None) -> list[Path]:
    """Write the pictures of an archive to a folder, each as a PNG under its own name.

    Args:
        archive: the file.
        out: the folder; what is there already is not replaced.
        folder: of a run with the weights; the one that compressed, by default.

    Raises:
        InputError: for a file that is no archive, a damaged one, and where the weights are not to be found.
        RunError: when this machine computes other probabilities than the one that compressed.
    """
    header, codes = read(archive)
    paths = [inside(out, name) for name in header.names]
    if there := [path for path in paths if path.exists()]:
        raise InputError(f"{shown(there[0])} is there already: choose another folder")
    run = _find(header, archive, folder)
    model = coding.coder(_model(run))
    with Progress("decompressing", len(codes) * model.net.length, "steps") as bar:
        for number, code in enumerate(codes):
            some = paths[number * header.batch : (number + 1) * header.batch]
            tokens = coding.decode(model, code, len(some), bar.advance)
            if _sum(model, tokens) != header.pixels[number]:
                raise RunError(
                    f"{shown(archive)} is whole, but this machine (or its torch {torch.__version__}) computes other probabilities "
                    "than the one that compressed: decompress it there"
                )
            for path, pixels in zip(some, grid.to_bytes(model.net.picture(tokens)), strict=True):
                grid.save(grid.to_picture(pixels), path)
    return paths


def read(archive: Path) -> tuple[Header, list[bytes]]:
    """The header of an archive, and its codes.

    Raises:
        InputError: when it is none, or damaged.
    """
    if not archive.is_file():
        raise InputError(f"there is no file {shown(archive)}")
    content = archive.read_bytes()
    if not content.startswith(MAGIC):
        raise InputError(f"{shown(archive)} is no archive that reverie compress wrote")
    damaged = InputError(f"{shown(archive)} is damaged: its checksum is not that of its contents. Take another copy.")
    body = content[8:]
    if len(content) < 12 or struct.unpack("<I", content[4:8])[0] != zlib.crc32(body):
        raise damaged
    try:
        end = 4 + struct.unpack("<I", body[:4])[0]
        said: dict[str, Any] = json.loads(zlib.decompress(body[4:end]))
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in said.items()
        }
        header = Header(**fields)
        _check_names(header.names)
        batches = -(-len(header.names) // header.batch)
        if end + sum(header.sizes) != len(body) or not batches == len(header.sizes) == len(header.pixels):
            raise ValueError("its parts are of other lengths")
    except (ArithmeticError, TypeError, ValueError, zlib.error, struct.error) as error:
        raise InputError(f"{shown(archive)} is no archive of this version: {shown(error)}") from error
    codes = []
    for size in header.sizes:
        codes.append(body[end : end + size])
        end += size
    return header, codes


def read_pictures(source: Path, model: Autoregressive) -> tuple[list[str], Tensor]:
    """The names under which pictures come back, and their pixels, uint8 (N, C, H, W).

    Raises:
        InputError: when there are none, two would have one name, or one would not come back as it is.
    """
    root, found = (
        (source, sorted(p for p in source.rglob("*") if p.is_file())) if source.is_dir() else (source.parent, [source])
    )
    files = [path for path in found if path.suffix.lower() in image_files.suffixes()]
    if not files:
        raise InputError(f"there are no pictures in {shown(source)}")
    names = [path.relative_to(root).with_suffix(".png").as_posix() for path in files]
    if twice := [path for path, name in zip(files, names, strict=True) if names.count(name) > 1]:
        raise InputError(f"{shown(twice[0])} and {shown(twice[1])} would come back under one name: rename one")
    pixels = torch.from_numpy(np.stack([_pixels(path, model) for path in files]))
    for path, before, after in zip(
        files, pixels, grid.to_bytes(model.net.picture(model.net.tokens(_floats(pixels)))), strict=True
    ):
        if not before.equal(after):
            raise InputError(
                f"{shown(path)} has levels between the {model.net.layout.levels} of the model, so it would not come back as it is: "
                "use a model of --levels 256"
            )
    return names, pixels


def _pixels(path: Path, model: Autoregressive) -> np.ndarray:
    channels, height, width = model.shape
    picture = image_files.open_image(path)
    if picture.size != (width, height):
        raise InputError(
            f"{shown(path)} is {picture.width}x{picture.height}, the model's pictures are {width}x{height}: nothing is resized here"
        )
    mode = "L" if channels == 1 else "RGB"
    deep = picture.mode == "F" or picture.mode.startswith("I")
    if deep or picture.has_transparency_data or (mode == "L" and _coloured(picture)):
        kind = "more than 8 bits a colour" if deep else "transparency" if picture.has_transparency_data else "colours"
        raise InputError(
            f"{shown(path)} has {kind}, which the model's pictures have not: it would not come back as it is"
        )
    array = np.asarray(picture.convert("RGB").getchannel(0) if mode == "L" else picture.convert("RGB"))
    return array[None] if mode == "L" else array.transpose(2, 0, 1)


def _coloured(picture: Image.Image) -> bool:
    red, green, blue = (np.asarray(channel) for channel in picture.convert("RGB").split())
    return bool((red != green).any() or (red != blue).any())


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float().div(127.5).sub(1.0)


def _sum(model: Autoregressive, tokens: Tensor) -> int:
    return zlib.crc32(grid.to_bytes(model.net.picture(tokens)).numpy().tobytes())


def _weights(run: Run) -> str:
    return run.checkpoint.digest("ema")


def _model(run: Run) -> Autoregressive:
    model = run.open()
    if not isinstance(model, Autoregressive):
        raise InputError(
            f"{run.folder} is a run of the task {run.recipe.task.name}, whose likelihood of levels is not exact: compress with one of "
            "pixelcnn, pixelcnnpp, pixelrnn, subpixel or tile"
        )
    return model


def _find(header: Header, archive: Path, folder: Path | None) -> Run:
    """The checkpoint with the weights of an archive.

    Raises:
        InputError: when there is none.
    """
    run = Run(header.run if folder is None else folder)
    for checkpoint in [run.chosen] if run.chosen else reversed(run.checkpoints.all()):
        try:
            found = checkpoint.digest("ema")
        except (Damaged, KeyError, TypeError):
            continue
        if found == header.weights:
            return Run(checkpoint.folder)
    raise InputError(
        f"{shown(archive)} was compressed by other weights than there are in {run.folder} (SHA-256 {header.weights[:16]}…): "
        "name the run with these as --run"
    )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        parts = PurePosixPath(name).parts
        if (
            not parts
            or PurePosixPath(name).is_absolute()
            or ".." in parts
            or "\\" in name
            or "\0" in name
            or not name.endswith(".png")
        ):
            raise ValueError(f"{name!r} is no name of a picture in a folder")
    if len(set(names)) != len(names):
        raise ValueError("two pictures have one name")
