"""Under torchrun: processes train and draw together; one that dies ends all, and what was saved goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import load_file

from .conftest import TINY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo is told the name of the interface")
LONG = [*TINY, "--train.images", "3200"]
LIMIT = 30.0
"""Seconds after which all have ended when one has."""


def torchrun(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "reverie", *words], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def of_rank(agent: int, rank: int) -> psutil.Process:
    """The process of a rank among the launcher's children."""
    return next(p for p in psutil.Process(agent).children() if p.environ().get("RANK") == str(rank))


def saved(run: Path) -> dict:
    latest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {f"{f}/{k}": v for f in ("model", "ema") for k, v in load_file(latest / f"{f}.safetensors").items()}


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), np.int16) for path in sorted(folder.glob("*.png"))])


def ended(process: "subprocess.Popen[str]") -> int:
    process.communicate(timeout=600)
    return process.returncode


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_and_the_same_command_goes_on(reverie, tmp_path):
    process = torchrun(tmp_path, "train", *LONG, "--out", "two")
    try:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("two/checkpoints/step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        of_rank(process.pid, 1).send_signal(signal.SIGKILL)
        died = time.monotonic()
        _, err = process.communicate(timeout=2 * LIMIT)
    finally:
        process.kill()
    assert process.returncode != 0 and time.monotonic() - died < LIMIT
    assert "process 0 of 2 lost another" in err and "is whole" in err and "the same command" in err
    assert saved(tmp_path / "two")

    again = torchrun(tmp_path, "train", *LONG, "--out", "two")
    assert ended(again) == 0 and reverie("train", *LONG, "--out", "one").code == 0
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert max((one[key] - two[key]).abs().max() for key in one) < 1e-2
    log = [(tmp_path / name / "log.jsonl").read_text().count("validation") for name in ("one", "two")]
    assert log[0] == log[1] > 1

    drawn = torchrun(tmp_path, "sample", "one", "--n", "5", "--out", "shared", "--seed", "3")
    assert ended(drawn) == 0
    for seed, name in ((3, "alone"), (4, "other")):
        assert reverie("sample", "one", "--n", "5", "--out", name, "--seed", str(seed)).code == 0
    assert abs(pixels(tmp_path / "shared") - pixels(tmp_path / "alone")).max() <= 1
    assert abs(pixels(tmp_path / "shared") - pixels(tmp_path / "other")).max() > 50
