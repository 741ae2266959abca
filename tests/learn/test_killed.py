"""Killed at random moments, in the middle of writing a checkpoint too, and begun again: the end is bitwise that of a run left alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.learn import Checkpoints
from reverie.learn.journal import entries

from . import killing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def left(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for clock times: the bytes of its tensors, the names of its files, its log."""
    latest = Checkpoints(folder / "checkpoints").newest_whole()
    assert latest is not None and latest.state["images"] == 400
    tensors = [*latest.folder.glob("*.safetensors"), *folder.glob("averages/*")]
    assert len(tensors) == 9
    log = [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries(folder / "log.jsonl")]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {**{str(path.relative_to(folder)): path.read_bytes() for path in tensors}, "log": log, "names": names}


@pytest.mark.parametrize("runs", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_as_one_left_alone(tmp_path, runs):
    subprocess.run([sys.executable, killing.__file__, str(tmp_path), str(runs)], check=True, timeout=900)
    told = json.loads((tmp_path / "ends.json").read_text())
    assert len(told["ends"]) == runs and told["moments"] > 100
    assert sum(map(len, told["ends"].values())) >= runs  # killed, once each at least
    alone = left(tmp_path / "alone")
    for name in told["ends"]:
        assert left(tmp_path / name) == alone, told["ends"][name]
    careless, killed = left(tmp_path / "careless"), left(tmp_path / "careless-killed")
    assert careless["names"] == killed["names"] and careless["log"] != killed["log"]
