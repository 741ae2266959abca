"""A run that was downloaded holds links that lead out of it: whatever is done with it, nothing outside changes."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from reverie.recipes import measuring

PLANTED = {
    "train digits": [".lock", "log.jsonl", ".tmp-log.jsonl", "checkpoints", "samples", "samples/step-00000020.png"],
    "evaluate digits --seeds 0": [
        "samples",
        "samples/evaluation.png",
        "samples/closest.png",
        "evaluation.json",
    ],
    "report digits": ["report.html", ".tmp-report.html", "samples", "samples/report", "samples/report/film.png"],
    "calibrate digits --steps 2 --scale 1": ["calibrated-2-1.json"],
    "read segment digits --labels 5 --pictures 5 --members 1 --t 0.1": ["read", "read/segment.png"],
    "read panoptic digits --labels 4 --pictures 4 --steps 1": ["read", "read/panoptic.png"],
}


def state(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(("verb", "planted"), [(verb, name) for verb, names in PLANTED.items() for name in names])
@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_no_verb_writes_through_a_link_in_a_run(reverie, digits, tmp_path, monkeypatch, verb, planted, kind):
    monkeypatch.setattr("reverie.recipes.measuring.measure", partial(measuring.measure, n=20))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis").write_text("mine")
    target = {"folder": outside, "file": outside / "thesis", "nothing": outside / "new"}[kind]
    if verb.startswith("train"):
        shutil.rmtree(digits / "checkpoints" / "step-00000020")
    link = digits / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(target)
    before = state(outside)
    said = reverie(verb)
    assert state(outside) == before
    assert "Traceback" not in said.err and "should not happen" not in said.err
    assert said.code == 0 or (said.code in (1, 2) and str(link.relative_to(tmp_path)) in said.err), said


def test_a_run_may_be_a_link_itself(reverie, digits, tmp_path):
    shutil.rmtree(digits / "checkpoints" / "step-00000020")
    digits.rename(tmp_path / "disk")
    digits.symlink_to(tmp_path / "disk")
    assert reverie("train digits").code == 0 and (tmp_path / "disk" / "checkpoints" / "step-00000020").is_dir()
