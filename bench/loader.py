"""The loader alone: its rate beside that of decoding alone, its memory, and how soon a second start is ready.

python bench/loader.py rate FOLDER    # JPEG files of three sizes to 256x256 by two workers, beside two bare processes; wants idle cores
python bench/loader.py cost FOLDER    # processor time a picture, beside decoding alone: also where other programs run
python bench/loader.py memory FOLDER  # resident memory of all processes over 100,000 records of shards
python bench/loader.py start FOLDER   # 100,000 small files: the first start, and the second

FOLDER keeps the pictures that are made, and the cache; remove it afterwards. The bare processes are Pillow in the fewest lines and make
what the loader makes: bytes, which an accelerator is given, or batches of floats, which a processor is given.
"""

import io
import multiprocessing
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from reverie import data
from reverie.core.batch import Around, Batch
from reverie.core.memory import keep_freed_memory
from reverie.data import Loader, decoding

SIDE, BATCH, WORKERS = 256, 64, 2
SIZES = {(256, 256): 2_400, (500, 375): 1_200, (1024, 768): 400}
"""Width and height of the files, and how many."""
WARM = 6
"""Batches before a measurement begins."""
START = """
import sys, time
from reverie import data
data.ImageSet, data.load
import reverie.data.decoding
begun, used = time.perf_counter(), time.process_time()
for split in ("train", "test"):
    len(data.load(sys.argv[1], split))
print(time.perf_counter() - begun, time.process_time() - used)
"""


def picture(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Large and small forms."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size)
    fine = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (*size[::-1], 3), dtype=np.int16)
    return Image.fromarray(fine.clip(0, 255).astype(np.uint8))


def made(folder: Path, number: int, size: tuple[int, int], ending: str) -> Path:
    """A folder of files, a thousand in each of its folders."""
    if not folder.exists():
        rng, partial = np.random.default_rng(0), folder.with_suffix(".partial")
        for i in range(number):
            (inner := partial / f"{i // 1000:03d}").mkdir(parents=True, exist_ok=True)
            picture(rng, size).save(inner / f"{i:06d}{ending}")
        partial.rename(folder)
    return folder


class Bytes(Around):
    """Pictures as they are stored."""

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        return self.data.raw(positions)


def decoded(path: Path) -> np.ndarray:
    image = Image.open(io.BytesIO(path.read_bytes()))
    if image.size != (SIDE, SIDE):
        left, top = ((length - min(image.size)) / 2 for length in image.size)
        box = (left, top, image.width - left, image.height - top)
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
    return np.asarray(image)


def to_bytes(paths: list[Path]) -> None:
    for path in paths:
        decoded(path)


def to_floats(paths: list[Path]) -> None:
    batch = torch.empty(BATCH, 3, SIDE, SIDE)
    for i, path in enumerate(paths):
        planes = np.ascontiguousarray(decoded(path).transpose(2, 0, 1))  # faster than to transpose floats
        batch[i % BATCH].copy_(torch.from_numpy(planes)).div_(127.5).sub_(1.0)


def bare(folder: Path, decode: Callable[[list[Path]], None]) -> float:
    """Pictures a second of processes that do nothing else."""
    paths = sorted(folder.rglob("*.jpg"))
    with multiprocessing.Pool(WORKERS) as pool:
        pool.map(decode, [paths[:BATCH]] * WORKERS)
        begun = time.perf_counter()
        pool.map(decode, [paths[k::WORKERS] for k in range(WORKERS)], chunksize=1)
        return len(paths) / (time.perf_counter() - begun)


def loaders(folder: Path, workers: int = WORKERS) -> tuple[Loader, Loader]:
    """Of bytes and of floats."""
    decoding.ON_DEMAND = 0
    images = data.load(folder, "all", size=SIDE, channels=3)
    return Loader(Bytes(images), 0, workers=workers), Loader(images, 0, workers=workers)


def pieces(batches: int | None = None) -> Iterator[tuple[int, int]]:
    return ((BATCH * i, BATCH) for i in (count() if batches is None else range(batches)))


def found(source: Loader, batches: int) -> float:
    """Pictures a second of the loader, from one batch to another that comes as far after a worker's last."""
    stream = source.stream(pieces())
    for _ in range(WARM):
        next(stream)
    begun = time.perf_counter()
    seen = sum(len(next(stream)) for _ in range(WORKERS * (batches // WORKERS)))
    return seen / (time.perf_counter() - begun)


def rate(root: Path) -> None:
    for size, number in SIZES.items():
        folder = made(root / f"{size[0]}x{size[1]}", number, size, ".jpg")
        sources = loaders(folder)
        for _ in range(3):
            for what, source, decode in zip(("bytes", "floats"), sources, (to_bytes, to_floats), strict=True):
                alone, by = bare(folder, decode), found(source, number // BATCH)
                print(
                    f"{size[0]:4}x{size[1]} to {what:6}: {alone:,.0f} pictures/s alone, {by:,.0f} by the loader: {by / alone:.3f}",
                    flush=True,
                )


def processor() -> float:
    """Seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def spent(work: Callable[..., object], *given: object) -> float:
    begun = processor()
    work(*given)
    return processor() - begun


def read(source: Loader, batches: int) -> None:
    for _ in source.stream(pieces(batches)):
        pass


def cost(root: Path) -> None:
    for size, number in SIZES.items():
        folder = made(root / f"{size[0]}x{size[1]}", number, size, ".jpg")
        paths, sources = sorted(folder.rglob("*.jpg")), loaders(folder, workers=1)
        batches = number // BATCH // 3
        for _ in range(3):
            for what, source, decode in zip(("bytes", "floats"), sources, (to_bytes, to_floats), strict=True):
                decode(paths[:BATCH])
                alone = spent(decode, paths[: batches * BATCH])
                by = spent(read, source, WARM + batches) - spent(read, source, WARM)  # in which no start counts
                each = [f"{1e6 * seconds / (batches * BATCH):,.0f} µs" for seconds in (alone, by)]
                print(
                    f"{size[0]:4}x{size[1]} to {what:6}: {each[0]} alone, {each[1]} by the loader: {alone / by:.3f}",
                    flush=True,
                )


def shards(folder: Path, number: int) -> Path:
    """Shards of 10,000 pictures of 16x16."""
    if not folder.exists():
        rng, partial = np.random.default_rng(0), folder.with_suffix(".partial")
        partial.mkdir()
        for first in range(0, number, 10_000):
            with tarfile.open(partial / f"{first // 10_000:03d}.tar", "w") as shard:
                for i in range(first, first + 10_000):
                    picture(rng, (16, 16)).save(file := io.BytesIO(), "JPEG")
                    (info := tarfile.TarInfo(f"{i:06d}.jpg")).size = file.tell()
                    shard.addfile(info, io.BytesIO(file.getvalue()))
        partial.rename(folder)
    return folder


def memory(root: Path) -> None:
    decoding.ON_DEMAND = 0
    source = Loader(data.load(shards(root / "shards", 100_000), "all", size=16, channels=3), 0, workers=WORKERS)
    for batch, _ in enumerate(source.stream(pieces(100_000 // BATCH))):
        if batch % 100 == 10:
            me = psutil.Process()
            held = sum(each.memory_full_info().uss for each in (me, *me.children(recursive=True)))
            print(f"{batch * BATCH:7,} records: {held / 2**20:,.1f} MB", flush=True)


def start(root: Path) -> None:
    folder = made(root / "small", 100_000, (8, 8), ".png")
    for which in ("first", "second"):
        done = subprocess.run([sys.executable, "-c", START, str(folder)], capture_output=True, text=True, check=True)
        wall, used = map(float, done.stdout.split())
        print(f"the {which} start: {wall:.1f} s, {used:.1f} s of processor time", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    (given := Path(sys.argv[2])).mkdir(exist_ok=True)
    os.environ["REVERIE_CACHE"] = f"{given}/cache"
    {"rate": rate, "cost": cost, "memory": memory, "start": start}[sys.argv[1]](given)
