"""Trainings that SIGKILL ends at a moment, and that begin again: run by ``test_killed.py`` as a process of its own.

Every life of a run is forked from here, where nothing has been differentiated yet; so torch is imported once for all of them.
"""

import json
import os
import random
import signal
import sys
from itertools import count
from pathlib import Path

import torch

from reverie.learn import train

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import CONFIG, denoising, pictures  # pyright: ignore[reportMissingImports]
else:
    from .conftest import CONFIG, denoising, pictures

TOUCHING = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
"""What Python says before it does it to a file or folder."""


def cut(folder: Path, rng: random.Random) -> None:
    """What was being written is half there."""
    for path in folder.rglob("*"):
        if path.is_file() and any(part.startswith(".tmp-") for part in path.relative_to(folder).parts):
            os.truncate(path, rng.randrange(path.stat().st_size + 1))
    if (folder / "log.jsonl").exists() and rng.random() < 0.5:
        with (folder / "log.jsonl").open("a") as log:
            log.write('{"images": 16, "lo')


def live(folder: Path, at: int, careless: bool) -> int:
    """One life of a run, killed at its moment number ``at``, a step or a touch of a file; returns how many there were if it was not.

    ``careless``: its data comes from a generator that begins anew with each life, and not from positions.
    """
    told, out = os.pipe()
    if not os.fork():
        moments, rng, order = count(), random.Random(f"{folder.name}/{at}"), random.Random(0)

        def moment() -> None:
            if next(moments) == at:
                cut(folder, rng)
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event: str, what: tuple) -> None:
            if event in TOUCHING and str(what[0]).startswith(str(folder)):
                moment()

        def feed(start: int, n: int):
            moment()
            return pictures(order.randrange(3) if careless else start, n)

        sys.addaudithook(hook)
        train(denoising(CONFIG), feed, CONFIG, folder)
        os.write(out, str(next(moments)).encode())
        os._exit(0)
    os.close(out)
    with os.fdopen(told) as said:
        number = said.read()
    os.wait()
    return int(number or 0)


def main(folder: Path, runs: int) -> None:
    torch.set_num_threads(1)
    rng, ends = random.Random(runs), {}
    moments = live(folder / "alone", -1, careless=False)
    for i in range(runs):
        name, lives = f"killed-{i}", []
        while live(folder / name, at := rng.randrange(moments) if len(lives) < 2 else -1, careless=False) == 0:
            lives.append(at)
        ends[name] = lives
    for name, at in (("careless", -1), ("careless-killed", moments // 2), ("careless-killed", -1)):
        live(folder / name, at, careless=True)
    (folder / "ends.json").write_text(json.dumps({"moments": moments, "ends": ends}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
