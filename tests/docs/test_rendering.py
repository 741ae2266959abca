"""Pages and the report as a browser draws them: nothing wider than its window, no word on another, every word readable; on a phone and on a
screen, in the light and in the dark. Needs a Chromium, and ``make docs`` before."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reverie.cli import main

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "docs" / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHECK = (Path(__file__).parent / "rendering.js").read_text(encoding="utf-8")
FRAME = """<!doctype html><body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<script>addEventListener("message", (event) => {{ document.documentElement.dataset.found = JSON.stringify(event.data); }});</script>"""
HEIGHT = 12_000

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


def look(page: Path, tmp_path: Path, width: int, dark: bool) -> dict:
    """What :mod:`rendering.js` finds on a page in a window of a width."""
    text = page.read_text(encoding="utf-8")
    base = f'<base href="{page.parent.absolute().as_uri()}/">'
    done = f"<script>addEventListener('load', () => setTimeout(() => parent.postMessage({CHECK.strip().rstrip(';')}, '*'), 300));</script>"
    text = re.sub(r"(<head[^>]*>)", lambda match: match[1] + base, text, count=1) if "<head" in text else base + text
    copy, frame = tmp_path / "page.html", tmp_path / "frame.html"
    copy.write_text(text + done, encoding="utf-8")
    frame.write_text(FRAME.format(page=copy.as_uri(), width=width, height=HEIGHT), encoding="utf-8")
    assert CHROMIUM is not None
    quiet = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
    command = [CHROMIUM, "--headless", *(f"--{option}" for option in quiet.split())]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 600)},{HEIGHT}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=8000"]
    command += ["--dump-dom", frame.as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', drawn)
    assert found is not None, "the page did not say what it looks like"
    return json.loads(html.unescape(found[1]))


def faults(page: Path, tmp_path: Path, width: int, dark: bool) -> dict:
    found = look(page, tmp_path, width, dark)
    assert (found["width"], found["dark"]) == (width, dark) and found["words"] > 5
    return {"wide": max(0, found["wide"]), "overlaps": found["overlaps"][:10], "faint": found["faint"][:10]}


GOOD = {"wide": 0, "overlaps": [], "faint": []}
SIZES = [(width, dark) for width in (400, 1280) for dark in (False, True)]


@pytest.mark.parametrize(("width", "dark"), SIZES)
@pytest.mark.parametrize("page", ["index.html", "concepts/algebra.html", "guide/training.html"])
def test_a_page(page: str, width: int, dark: bool, tmp_path: Path):
    if not (BUILT / page).exists():
        pytest.skip("make docs comes first")
    assert faults(BUILT / page, tmp_path, width, dark) == GOOD


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "demo"
    words = "train demo --net.width 8 --prior 8 --train.images 960 --train.processes 1 --train.validate-every 320 --train.sample-every 960"
    assert main([*words.split(), "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--n", "60", "--seeds", "0", "--steps", "4"]) == 0
    assert main(["report", str(run)]) == 0
    return run / "report.html"


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_the_report(report: Path, width: int, dark: bool, tmp_path: Path):
    assert faults(report, tmp_path, width, dark) == GOOD


BAD = """<!doctype html><html><head></head><body style="background:#fff;color:#222">
<p>Some words that are quite as they should be, of which there are more than five.</p><p>And more of them.</p><p>a</p><p>b</p><p>c</p>
<p style="{faint}">These are faint.</p><div style="width:{wide}px;height:3px"></div>
<p style="position:relative;height:20px"><span style="position:absolute;left:0">Some words</span>
<span style="position:absolute;left:{left}px">Other words</span></p>
<svg width="100" height="40"><rect width="100" height="40" fill="#204060"></rect>
<text x="5" y="20" fill="{ink}">cell</text></svg></body></html>"""
RIGHT = {"faint": "", "wide": 10, "left": 200, "ink": "#fff"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"faint": "color:#ccc"}, "faint"),
        ({"ink": "#123"}, "faint"),
        ({"wide": 2000}, "wide"),
        ({"left": 20}, "overlaps"),
    ],
)
def test_faults_are_seen(change: dict, fault: str | None, tmp_path: Path):
    page = tmp_path / "bad.html"
    page.write_text(BAD.format(**RIGHT | change), encoding="utf-8")
    found = faults(page, tmp_path, 400, False)
    assert [name for name, value in found.items() if value] == ([] if fault is None else [fault])
