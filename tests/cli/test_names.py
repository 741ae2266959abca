"""Names of files, classes and runs that are not UTF-8, hold commas, control characters or markup."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie.cli import main
from reverie.cli.sample import choose
from reverie.core.errors import InputError
from reverie.recipes.recipe import DataConfig, Recipe

LATIN = os.fsdecode(b"caf\xe9")
CLASSES = ("x,y", "x", "a,b,c", "3", LATIN, " edge", "none of them")


def chosen(label: str) -> list[int] | None:
    return choose(label, Recipe(data=DataConfig(classes=CLASSES)))


@pytest.mark.parametrize(
    ("label", "right"),
    [("x,y", [0]), ("x", [1]), ("x,x,y,x", [1, 0, 1]), ("a,b,c,x,y", [2, 0]), ("x, x,y", [1, 0]), ("0,5", [0, 5]), ("3", [3]),
     (LATIN, [4]), (" edge", [5]), ("x, edge", [1, 5]), ("none of them", [6]), ("all", list(range(7)))],
)  # fmt: skip
def test_classes_are_chosen_by_their_names(label, right):
    assert chosen(label) == right


def test_an_unknown_class_is_named():
    for label in ("x,z", "a,b", "y"):
        with pytest.raises(InputError, match=r"unknown label .*'x,y'"):
            chosen(label)


def test_names_that_are_not_utf8_and_control_characters(tmp_path, monkeypatch, capsys):
    """Train, list, sample and report in a folder, from classes, of such names; nothing of them reaches the terminal raw."""
    monkeypatch.chdir(tmp_path)
    run = os.fsdecode(b"dir\xe9") + "\x1b[31m[red]"
    for name in (LATIN, "b\x1b[2J"):
        os.makedirs(f"set/{name}")
        for index in range(8):
            with open(f"set/{name}/{index}.png", "wb") as file:
                Image.fromarray(np.full((16, 16, 3), 9 * index, np.uint8)).save(file, "PNG")
    (tmp_path / "set" / "\x1b[5m.txt").write_text("")
    net = ["--net.width", "16", "--net.depth", "1", "--net.heads", "2", "--net.patch", "8", "--sample.steps", "2"]
    train = ["train", "--data", "set", *net, "--train.images", "64", "--train.batch", "32", "--out", f"runs/{run}"]
    said = []
    for words in (
        train,
        train,
        ["runs"],
        ["sample", f"runs/{run}", "--label", LATIN, "--n", "1", "--steps", "2", "--out", f"{LATIN}.png"],
        ["report", f"runs/{run}"],
    ):
        assert main(words) == 0, capsys.readouterr()
        said.append("".join(capsys.readouterr()))
    assert main(["sample", f"runs/{run}", "--label", "c"]) == 2
    said.append("".join(capsys.readouterr()))
    for text in said:
        assert "\x1b" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)
    assert r"dir\udce9\x1b[31m[red]" in said[0] and r"\x1b[5m.txt" in said[0]
    assert r"dir\udce9\x1b[31m[red]" in said[2] and r"caf\udce9" in said[-1]
    assert r"caf\udce9" in Path(f"runs/{run}/report.html").read_text(encoding="utf-8")
    assert os.path.exists(f"{LATIN}.png")
