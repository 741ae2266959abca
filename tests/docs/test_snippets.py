"""Every python block of every page runs as pasted: those of a page from top to bottom, in one namespace, beside the runs that it names.

A block under the line ``% not run: why`` (which no reader sees) needs what no test has, such as a folder of Stable Diffusion.
"""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from reverie.cli import main
from reverie.recipes import tasks

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^% not run: (?P<why>[^\n]+)\n)?^```(?P<language>[^`\n]*)\n(?P<code>.*?)^```$", re.M | re.S)
DEMO = "train demo --net.width 8 --prior 8 --train.images 320 --train.processes 1 --train.validate-every 320 --train.sample-every 320"
CLASSIFIER = "train classifier --data mnist5k --train.images 320 --train.save-every 320 --train.warmup 32"


def blocks(text: str) -> list[tuple[int, str]]:
    """The python blocks that run, each with the number of its first line."""
    found = []
    for match in BLOCK.finditer(text):
        if match["language"] == "python" and match["why"] is None:
            found.append((text.count("\n", 0, match.start("code")) + 1, match["code"]))
    return found


PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if blocks(page.read_text())]


def run(text: str, name: str) -> None:
    """All blocks of a page in one namespace; an error is one of the page's line."""
    namespace = {"__name__": "__main__"}
    for line, code in blocks(text):
        exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the names in the pages, hardly trained."""
    folder = tmp_path_factory.mktemp("pages") / "runs"
    assert main([*DEMO.split(), "--out", str(folder / "demo")]) == 0
    assert main([*CLASSIFIER.split(), "--out", str(folder / "classifier")]) == 0
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working folder with runs and a folder of pictures; what a page registers is forgotten afterwards."""
    shutil.copytree(runs, tmp_path / "runs")
    for name, colour in (("daisy", "white"), ("rose", "red")):
        folder = tmp_path / "path" / "to" / "images" / name
        folder.mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (40, 32 + i), colour).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    known = dict(tasks.TASKS)
    yield
    for name in tasks.TASKS.keys() - known:
        del tasks.TASKS[name]


def test_the_names_of_one_block_are_known_to_the_next_and_only_marked_blocks_are_left_out():
    page = (
        "```bash\nno\n```\n\n```python\na = 1\n```\n\n% not run: needs b\n```python\nb\n```\n\n```python\na += c\n```\n"
    )
    assert blocks(page) == [(6, "a = 1\n"), (15, "a += c\n")]
    with pytest.raises(NameError, match="'c'") as error:
        run(page, "page")
    assert error.traceback[-1].lineno + 1 == 15
    run(page.replace("+= c", "+= 1"), "page")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page: Path, here):
    run(page.read_text(), str(page))


def test_the_script_of_the_page_on_composing_runs(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["composing.py", "runs/demo", "composed.png"])
    runpy.run_path(str(ROOT / "docs" / "guides" / "composing.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if "rms from the measurement" in line]
    assert len(rows) == 4 and Image.open("composed.png").height > 5 * 28
