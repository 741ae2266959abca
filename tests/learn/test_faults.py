"""What goes wrong around a training: it says so, keeps what was saved, and goes on from there to bitwise the end of a run left alone."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie.core.errors import RunError
from reverie.data import Loader, Wrapped
from reverie.learn import Batch, Checkpoints, train

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import CONFIG, denoising, pictures  # pyright: ignore[reportMissingImports]
else:
    from .conftest import CONFIG, denoising, pictures

SHORT = replace(CONFIG, images=160, save_every=32, sample_every=10**6)


class Files:
    """Pictures that are opened when they are asked for; a worker that meets the file ``poison`` is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for i, level in enumerate(np.random.default_rng(0).integers(0, 256, (48, 4, 4), np.uint8)):
            Image.fromarray(level).save(folder / f"{i}.png")

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int):
        if index == 7 and (self.folder / "poison").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        with Image.open(self.folder / f"{index}.png") as picture:
            return picture.copy(), index % 3


def loader(folder: Path, workers: int) -> Loader:
    return Loader(Wrapped(Files(folder), ["a", "b", "c"]), seed=0, workers=workers)


def stopped(name: str, folder: Path, feed, harm) -> str:
    """What a run says that is harmed after its first 64 images."""

    class Harmed:
        def __call__(self, start: int, count: int) -> Batch:
            if start == 64:
                harm()
            return feed(start, count)

    with pytest.raises(RunError) as raised:
        train(denoising(SHORT), Harmed(), SHORT, folder / name)
    return str(raised.value)


def weights(folder: Path) -> bytes:
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None and latest.state["images"] == 160
    return (latest.folder / "ema.safetensors").read_bytes()


def test_a_data_file_that_vanishes(tmp_path):
    feed = loader(tmp_path / "data", 0)
    train(denoising(SHORT), feed, SHORT, tmp_path / "alone")
    path = tmp_path / "data" / "20.png"
    said = stopped("run", tmp_path, feed, path.unlink)
    assert "training stopped at image" in said and "No such file" in said and "20.png" in said and "is whole" in said
    Files(tmp_path / "data")
    train(denoising(SHORT), feed, SHORT, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")


def test_a_folder_that_cannot_be_written_any_more(tmp_path, monkeypatch):
    train(denoising(SHORT), pictures, SHORT, tmp_path / "alone")

    def harm() -> None:
        def touch(self, *args, **kwargs):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Path, "touch", touch)

    said = stopped("run", tmp_path, pictures, harm)
    assert "step-00000006 could not be saved" in said and "Read-only" in said and "step-00000004 (64 images)" in said
    monkeypatch.undo()
    train(denoising(SHORT), pictures, SHORT, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")


@pytest.fixture
def interrupts():
    """As in a terminal, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_twice_ends_at_once(tmp_path, interrupts):
    train(denoising(SHORT), pictures, SHORT, tmp_path / "alone")

    def feed(start: int, count: int) -> Batch:
        if start == 80:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one was not heard")
        return pictures(start, count)

    with pytest.raises(KeyboardInterrupt):
        train(denoising(SHORT), feed, SHORT, tmp_path / "run")
    latest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert latest is not None and latest.state["images"] == 64
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(denoising(SHORT), pictures, SHORT, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_worker_that_dies_and_one_that_misses_a_file(tmp_path):
    """In a process of its own, which forks its workers before anything is differentiated."""
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=300)
    killed, missed = ((tmp_path / name).read_text() for name in ("killed.txt", "missed.txt"))
    assert "a process that reads pictures has ended" in killed and "--train.workers" in killed
    assert "training stopped at image" in missed and "No such file" in missed and "\n" not in missed
    assert weights(tmp_path / "killed") == weights(tmp_path / "missed") == weights(tmp_path / "alone")


def meet(folder: Path) -> None:
    """Runs whose worker is killed, or misses a file, and which go on when that is mended; and one that is left alone."""
    for name, harmed in (("killed", "poison"), ("missed", "7.png"), ("alone", None)):
        data = folder / f"{name}-data"
        feed = loader(data, 1)
        if harmed == "poison":
            (data / harmed).touch()
        elif harmed is not None:
            (data / harmed).unlink()
        if harmed is not None:
            with pytest.raises(RunError) as raised:
                train(denoising(SHORT), feed, SHORT, folder / name)
            (folder / f"{name}.txt").write_text(str(raised.value))
            (data / "poison").unlink(missing_ok=True)
        train(denoising(SHORT), loader(data, 1), SHORT, folder / name)


if __name__ == "__main__":
    meet(Path(sys.argv[1]))
