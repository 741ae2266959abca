"""What is learned from a model that is told texts: told the same captions, read by the same text encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core.flow_map import FlowMap

from ..margin import apart

WORDS = ["red", "green", "blue", "white"]
NET = ["--net", "unet", "--net.width", "8", "--net.multipliers", "1", "2", "--net.groups", "4", "--net.attention", "2"]
SMALL = ["--text.width", "16", "--text.depth", "1", "--text.heads", "2", "--train.images", "64", "--train.batch", "8"]
OFTEN = [
    "--train.save-every",
    "64",
    "--train.sample-every",
    "64",
    "--train.validate-every",
    "64",
    "--sample.steps",
    "2",
]
SHORT = [
    "--train.images",
    "16",
    "--train.save-every",
    "16",
    "--train.sample-every",
    "16",
    "--train.validate-every",
    "16",
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("data") / "patches", np.random.default_rng(0)
    folder.mkdir()
    for i in range(48):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {WORDS[i % 4]} patch number {i // 4}")
    out = tmp_path_factory.mktemp("runs") / "patches"
    told = [
        "--data",
        str(folder),
        "--data.captions",
        "--data.templates",
        "{}",
        "this is {}",
        "--train.lr",
        "2e-2",
        "--train.warmup",
        "8",
    ]
    assert main(["train", *told, *NET, *SMALL, *OFTEN, "--out", str(out)]) == 0
    return out


def reader(model) -> dict[str, torch.Tensor]:
    return getattr(model, "denoise", model).conditioner.text.own.state_dict()


@pytest.mark.parametrize("method", ["progressive", "consistency", "meanflow", "dmd2", "moments"])
def test_a_student_is_told_what_its_teacher_is(teacher, tmp_path, method):
    out = tmp_path / "student"
    assert main(["distill", str(teacher), "--method", method, *SHORT, "--out", str(out)]) == 0
    student = rv.load(out)
    assert isinstance(student, FlowMap)
    assert all(
        torch.equal(a, b) for a, b in zip(reader(student).values(), reader(rv.load(teacher)).values(), strict=True)
    )
    with torch.no_grad():
        for i, parameter in enumerate(student.denoise.net.parameters()):  # pyright: ignore[reportAttributeAccessIssue]
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    drawn = [rv.sample(student, text=text, steps=1, seed=1) for text in ("a red patch", "a blue patch", "a red patch")]
    assert torch.equal(drawn[0], drawn[2]) and apart(drawn[0], drawn[1]) > 1e-4
    assert main(["sample", str(out), "--text", "a red patch", "--n", "1", "--out", str(tmp_path / "one.png")]) == 0


def test_a_flow_is_straightened_on_pairs_that_are_told_captions(teacher, tmp_path):
    out = tmp_path / "straight"
    assert main(["distill", str(teacher), "--method", "reflow", "--pairs", "24", *SHORT, "--out", str(out)]) == 0
    said = json.loads((out / "pairs" / "captions.json").read_text())
    assert len(said) == 48 and set(said[:24]) <= {
        f"{a}a {w} patch number {i}" for a in ("", "this is ") for w in WORDS for i in range(12)
    }
    pairs = rv.core.files.read_tensors(out / "pairs" / "pairs-00000000.safetensors")
    model = rv.load(teacher)

    def carried(texts):
        cond = model.conditioner(texts)
        *_, last = rv.iterate(model, cond=cond, x=pairs["noise"][:4], solver="dpmpp3", steps=50)
        return last.x

    with torch.no_grad():
        assert apart(carried(said[:4]), pairs["x"][:4]) < 1e-4 < apart(carried(said[4:8]), pairs["x"][:4])
    assert rv.sample(rv.load(out), text="a red patch", steps=1).isfinite().all()


def test_without_captions_there_is_nothing_to_tell(teacher, tmp_path, capsys):
    assert main(["distill", str(teacher), "--data.no-captions", *SHORT, "--out", str(tmp_path / "run")]) == 2
    assert "use its captions, --data.captions" in capsys.readouterr().err
    assert main(["convert", str(teacher), str(tmp_path / "out")]) == 2
    assert "train a model of classes to be written, with --data.no-captions" in capsys.readouterr().err
