"""The loader alone: its rate beside that of decoding alone, its memory, and how soon a second start is ready. Wants an idle machine.

python bench/loader.py rate         # JPEG files of three sizes to 256x256, decoded on demand by two workers, beside two bare processes
python bench/loader.py cost         # processor time a picture by one worker, beside decoding alone: also where other programs run
python bench/loader.py memory       # resident memory of all processes over 100,000 records
python bench/loader.py start        # 100,000 small files: the first start, and the second
"""

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from reverie import data
from reverie.core.memory import keep_freed_memory
from reverie.data import Loader, decoding, pixels

SIDE, BATCH, WORKERS = 256, 64, 2
SIZES = {(256, 256): 4_000, (500, 375): 2_000, (1024, 768): 800}
"""Width and height of the files, and how many."""
START = """
import sys, time
from reverie import data
data.ImageSet, data.load
import reverie.data.decoding
begun = time.perf_counter()
for split in ("train", "test"):
    len(data.load(sys.argv[1], split))
print(time.perf_counter() - begun)
"""


def make(folder: Path, count: int, size: tuple[int, int], ending: str) -> None:
    """Pictures of large and small forms, a thousand in a folder."""
    rng = np.random.default_rng(0)
    for i in range(count):
        (folder / f"{i // 1000:03d}").mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size)
        fine = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (*size[::-1], 3), dtype=np.int16)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(folder / f"{i // 1000:03d}" / f"{i:06d}{ending}")


def decode(paths: list[Path]) -> None:
    for path in paths:
        pixels.read(path, SIDE, 3, "crop")


def decode_to_floats(paths: list[Path]) -> None:
    for path in paths:
        torch.from_numpy(pixels.read(path, SIDE, 3, "crop")).float().div_(127.5).sub_(1.0)


def bare(folder: Path, decode: Callable[[list[Path]], None]) -> float:
    """Pictures a second of processes that do nothing else."""
    paths = sorted(folder.rglob("*.jpg"))
    with multiprocessing.Pool(WORKERS) as pool:
        pool.map(decode, [paths[:20]] * WORKERS)
        begun = time.perf_counter()
        pool.map(decode, [paths[k::WORKERS] for k in range(WORKERS)], chunksize=1)
        return len(paths) / (time.perf_counter() - begun)


def loader(folder: Path) -> Loader:
    decoding.ON_DEMAND = 0
    return Loader(data.load(folder, "all", size=SIDE, channels=3), 0, workers=WORKERS)


def rate(root: Path) -> None:
    for size, count in SIZES.items():
        (folder := root / f"{size[0]}x{size[1]}").mkdir()
        make(folder, count, size, ".jpg")
        source = loader(folder)
        for _ in range(3):
            alone, floats = bare(folder, decode), bare(folder, decode_to_floats)
            stream = source.stream((start, BATCH) for start in range(0, count + 10 * BATCH, BATCH))
            for _ in range(10):
                next(stream)
            begun, seen = time.perf_counter(), 0
            for batch in stream:
                seen += len(batch)
            found = seen / (time.perf_counter() - begun)
            said = f"{alone:,.0f} pictures/s decoded, {floats:,.0f} to floats, {found:,.0f} by the loader"
            print(f"{size[0]:4}x{size[1]}: {said}: {found / alone:.3f} and {found / floats:.3f} of them", flush=True)


def processor() -> float:
    """Seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def cost(root: Path) -> None:
    for size in SIZES:
        count = 4 * BATCH
        (folder := root / f"{size[0]}x{size[1]}").mkdir()
        make(folder, count, size, ".jpg")
        source, paths = loader(folder), sorted(folder.rglob("*.jpg"))
        source.workers = 1
        decode(paths)
        for _ in range(3):
            begun = processor()
            decode(paths)
            alone, begun = processor() - begun, processor()
            for _ in source.stream((start, BATCH) for start in range(0, 4 * count, BATCH)):
                pass
            found = (processor() - begun) / 4
            each = [f"{1e6 * seconds / count:,.0f} µs" for seconds in (alone, found)]
            print(f"{size[0]:4}x{size[1]}: {each[0]} decoded, {each[1]} by the loader: {alone / found:.3f}", flush=True)


def memory(folder: Path) -> None:
    make(folder, 4_000, (64, 64), ".jpg")
    source = loader(folder)
    for number, _ in enumerate(source.stream((start, BATCH) for start in range(0, 100_000, BATCH))):
        if number % 150 == 0:
            me = psutil.Process()
            held = sum(each.memory_full_info().uss for each in (me, *me.children(recursive=True)))
            print(f"{number * BATCH:7,} records: {held / 2**20:,.0f} MB", flush=True)


def start(folder: Path) -> None:
    make(folder, 100_000, (8, 8), ".png")
    for which in ("first", "second"):
        done = subprocess.run([sys.executable, "-c", START, str(folder)], capture_output=True, text=True, check=True)
        print(f"the {which} start: {float(done.stdout):.1f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["REVERIE_CACHE"] = f"{temporary}/cache"
        (pictures := Path(temporary) / "pictures").mkdir()
        {"rate": rate, "cost": cost, "memory": memory, "start": start}[sys.argv[1]](pictures)
