"""Two processes that share each batch: the same losses, weights and averages as one, whatever the parts and the workers."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reverie.core.condition import Cond
from reverie.learn import Checkpoints
from reverie.learn.checkpoint import Damaged
from reverie.learn.journal import entries
from reverie.solve import Sampler

from . import sharing
from .conftest import CONFIG, denoising
from .sharing import CASES, HALF

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo is told the name of the interface")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of all trainings: of one process those in ``one``."""
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = [["0", port, str(folder)], ["1", port, str(folder)], ["alone", str(folder)]]
    processes = [subprocess.Popen([sys.executable, str(sharing.__file__), *each]) for each in words]
    try:
        assert [process.wait(500) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


def saved(folder: Path) -> dict[str, Tensor]:
    """Everything that the last checkpoint holds."""
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None
    files = ("model", "ema", "optimizer", "profiles")
    return {f"{file}/{key}": value for file in files for key, value in latest.tensors(file).items()}


def losses(folder: Path) -> list[float]:
    return [value for e in entries(folder / "log.jsonl") for key, value in e.items() if key.endswith("loss")]


def apart(one: Path, other: Path) -> float:
    """How far two runs are from each other: the farthest number of what is saved, or of the losses, and of these there are equally many."""
    a, b = saved(one), saved(other)
    assert set(a) == set(b) and len(losses(one)) == len(losses(other)) > 5
    numbers = (abs(x - y) for x, y in zip(losses(one), losses(other), strict=True))
    return max(*((a[key] - b[key]).abs().max().item() for key in a), *numbers)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(runs, name):
    assert apart(runs / "one" / name, runs / name) < 1e-4


def test_all_go_back_together_where_one_diverges(runs):
    """To the same checkpoint, once; what one process of the two has seen of the batch is kept by each."""
    for folder in (runs, runs / "one"):
        for name in ("back", "back in parts"):
            back = [e for e in entries(folder / name / "log.jsonl") if "rollback" in e]
            assert [(e["images"], e["slower"]) for e in back] == [(80, 0.5)]
    kept = {path.name: load_file(path)["wrong"].sum().item() for path in (runs / "back" / "diverged").iterdir()}
    assert kept == {"step-00000009-0.safetensors": 0, "step-00000009-1.safetensors": 1}
    assert apart(runs / "back", runs / "plain") > 1e-3  # which never went back


def test_so_do_parts_and_workers(runs):
    assert apart(runs / "one" / "plain", runs / "parts") < 1e-4
    assert apart(runs / "one" / "workers", runs / "one" / "plain") > 1e-2  # which read other data


def test_with_another_seed_in_one_process_they_do_not(runs):
    assert apart(runs / "one" / "plain", runs / "plain-apart") > 1e-2


@pytest.mark.parametrize("begun", ["one", "two"])
@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_what_one_number_of_processes_began_another_ends(runs, name, begun):
    first = Checkpoints(runs / f"{name}-{begun}" / "checkpoints").all()[0]
    assert first.state["images"] == HALF and first.state["processes"] == {"one": 1, "two": 2}[begun]
    assert apart(runs / "one" / "plain", runs / f"{name}-{begun}") < 1e-4


def test_weights_in_parts_are_saved_in_parts_and_damage_is_found(runs):
    latest = Checkpoints(runs / "sharded" / "checkpoints").all()[-1]
    files = sorted(path.name for path in (latest.folder / "ema").iterdir())
    assert len(files) == 2 and all(name.endswith(".safetensors") for name in files)
    each = [sum(v.numel() for v in load_file(latest.folder / "ema" / name).values()) for name in files]
    assert sum(each) == latest.parameters("ema") and min(each) > 0.4 * sum(each)
    assert not list(Checkpoints(runs / "one" / "sharded" / "checkpoints").all()[-1].folder.glob("ema/*"))
    path = latest.folder / "ema" / files[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Damaged, match="SHA-256"):
        latest.tensors("ema")
    path.write_bytes(whole)


def test_the_others_wait_for_the_first_one_longer_than_for_each_other(runs):
    """It validates for longer than a message may take; where they do not wait for that, they lose it."""
    validated = [e["images"] for e in entries(runs / "slow" / "log.jsonl") if "validation" in e]
    assert validated == [80, 96]
    assert "lost another" in (runs / "hasty-1.txt").read_text()


def test_why_one_process_fails_is_said_by_all(runs):
    own, other = ((runs / f"torn-{rank}.txt").read_text() for rank in (1, 0))
    assert own.startswith("training stopped at image 96: the tape is torn")
    assert f"process 1 of 2 stopped: {own}" in other and "step-00000005 (80 images) is whole: run the same" in other


def test_a_process_holds_and_sends_what_the_plan_on_paper_says(runs):
    """28 bytes a weight; and 4 bytes a weight each step, however many micro-batches it has, unless each of them sends."""
    weights = sum(value.numel() for key, value in saved(runs / "plain").items() if key.startswith("model/"))
    assert json.loads((runs / "held.json").read_text()) == [28.0] * 3
    for rank in (0, 1):
        once, always = json.loads((runs / f"sent-{rank}.json").read_text())
        assert sum(once) == 10 * 4 * (weights + 1) and sum(always) == 2 * sum(once)
    checkpoint = Checkpoints(runs / "plain" / "checkpoints").latest()
    assert checkpoint is not None
    files = checkpoint.state["files"]
    assert sum(each["bytes"] for each in files.values()) < 24 * weights + 5_000 < 1.2 * 24 * weights


def test_which_process_draws_a_sample_changes_nothing(runs):
    generator = Sampler(denoising(CONFIG).denoise, steps=3)
    alone, other = (generator.sample(7, Cond(label=1), seed=seed) for seed in (5, 6))
    for rank in (0, 1):
        drawn = torch.from_numpy(np.load(runs / f"drawn-{rank}.npy"))
        assert (drawn - alone).abs().max() < 1e-5 < 0.1 < (drawn - other).abs().amax((1, 2, 3)).min()
