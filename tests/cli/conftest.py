"""The command line in this process, in an empty folder, and a run that a test may damage."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from reverie import data
from reverie.cli import main

TINY = [
    *["--data", "mnist5k", "--net.patch", "14", "--net.width", "16", "--net.depth", "1", "--net.heads", "2"],
    *[
        "--train.images",
        "640",
        "--train.batch",
        "32",
        "--train.lr",
        "0.01",
        "--train.warmup",
        "64",
        "--train.save-every",
        "128",
    ],
    *["--train.validate-every", "320", "--train.sample-every", "320", "--sample.steps", "2"],
]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def reverie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run ``reverie …`` in ``tmp_path``; words may be given in one string."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("REVERIE_DEBUG", raising=False)

    def reverie(*words: str) -> Said:
        capsys.readouterr()
        code = main([part for word in words for part in word.split()])
        return Said(code, *capsys.readouterr())

    return reverie


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "digits"
    assert main(["train", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def digits(trained: Path, tmp_path: Path) -> Path:
    """A trained run of this test's own, ``digits`` in its folder."""
    shutil.copytree(trained, tmp_path / "digits")
    return tmp_path / "digits"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four digits, black on white: something that no run has learned."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for i, image in enumerate(data.load("mnist5k", "test").images[:4, 0].numpy()):
        Image.fromarray(255 - image).save(folder / f"{i}.png")
    return folder
