"""``--device`` and ``--dtype`` of every verb that runs a network."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.cli.placing import Placing

from .emulated import NAME, waiting

TINY = (
    "--data mnist5k --net.patch 14 --net.width 16 --net.depth 2 --net.heads 2 --train.images 640 --train.batch 64 --train.lr 0.01 "
    "--train.save-every 640 --train.validate-every 640 --train.sample-every 640 --sample.steps 2"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "digits"
    assert main(["train", *TINY.split(), "--out", str(folder)]) == 0
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(folder.parent / "a.png")
    return folder


VERBS = {
    "sample": "sample {run} --label 3 --n 2 --out {to}/drawn.png",
    "sample in half precision": "sample {run} --label 3 --n 2 --dtype bfloat16 --out {to}/half.png",
    "restore": "restore {run} --image {run}/../a.png --task deblur --steps 2 --out {to}/restored.png",
    "edit": "edit {run} {run}/../a.png --from 3 --to 5 --method plug_and_play --steps 2 --out {to}/edited.png",
    "invert": "invert {run} {run}/../a.png --from 3 --method null_text --steps 2 --out {to}/a.safetensors",
    "evaluate": "evaluate {run} --n 12 --seeds 0 --steps 2",
    "report": "report {run}",
    "probe": "read probe {run} --labels 10 --seeds 1 --pictures 20 --logsnr 2.0 --sites blocks.1",
    "classify": "read classify {run} --epochs 1 --batch 1000 --t 0.1",
    "panoptic": "read panoptic {run} --labels 4 --pictures 4 --steps 1 --batch 2",
    "match": "read match {run}/../a.png {run}/../a.png --run {run} --noises 1 --out {to}/lines.png",
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_runs_where_it_is_told(run, tmp_path, capsys, verb):
    words = VERBS[verb].format(run=run, to=tmp_path).split()
    with waiting() as device:
        assert main([*words, "--device", f"{NAME}:0"]) == 0, capsys.readouterr().err
        assert device.waits > 0
    if verb == "sample":
        there = np.array(Image.open(tmp_path / "drawn.png"), dtype=int)
        with waiting() as device:
            assert main([*words, "--device", "cpu"]) == 0 and device.waits == 0
        assert np.abs(there - np.array(Image.open(tmp_path / "drawn.png"), dtype=int)).max() <= 1


def test_every_verb_that_runs_a_network_takes_the_flags():
    for verb in (
        "sample",
        "calibrate",
        "restore",
        "edit",
        "invert",
        "evaluate",
        "report",
        "read_probe",
        "read_match",
        "read_segment",
        "read_classify",
        "read_panoptic",
    ):
        assert issubclass(import_module(f"reverie.cli.{verb}").Arguments, Placing), verb


def test_a_device_or_dtype_that_is_not_there_is_said(run, capsys):
    assert main(["sample", str(run), "--label", "3", "--device", "warp"]) == 2
    assert "'warp'" in (said := capsys.readouterr().err) and "Use cpu or auto" in said
    assert main(["sample", str(run), "--label", "3", "--dtype", "float13"]) == 2


def test_loading_places_and_casts(run):
    there = rv.load(run, device=f"{NAME}:0", dtype=torch.bfloat16)
    assert there.device.type == NAME and there.weight.dtype == torch.bfloat16
    assert rv.load(run).weight.dtype == torch.float32
    assert rv.sample(there, 2, rv.Cond(label=1), steps=2).dtype == torch.float32
