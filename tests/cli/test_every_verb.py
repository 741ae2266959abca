"""Every network under every verb, on labelled pictures without captions: what was trained is drawn, measured, read and shown."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.learn import grid
from reverie.nets.config import CONFIGS

SMALL = {
    "unet": "--net.width 8 --net.multipliers 1 2 --net.blocks 1 --net.attention 2 --net.heads 1 --net.groups 4",
}
TOKENS = "--net.patch 7 --net.width 16 --net.depth 3 --net.heads 2"
VERBS = {
    "sample": "sample RUN --label 1,2 --n 2 --steps 2 --out drawn.png",
    "evaluate": "evaluate RUN --n 40 --seeds 0 --steps 2",
    "report": "report RUN",
    "runs": "runs .",
    "calibrate": "calibrate RUN --steps 2 --label 1 --scale 1",
    "restore": "restore RUN --image small.png --task superres --factor 2 --steps 4 --label 3 --out restored.png",
    "edit": "edit RUN one.png --from 3 --to 8 --steps 3 --out edited.png",
    "invert": "invert RUN one.png --from 3 --steps 3 --out one.safetensors",
    "read probe": "read probe RUN --labels 40 --seeds 1 --logsnr 0 --pictures 50",
    "read classify": "read classify RUN --epochs 1 --batch 1000 --t 0.1",
    "read segment": "read segment RUN --labels 4 --members 1 --pictures 4 --t 0.2",
    "read panoptic": "read panoptic RUN --labels 4 --pictures 4 --steps 1 --batch 2",
    "read match": "read match one.png other.png --run RUN --noises 1 --points 3",
    "convert": "convert RUN written",
}


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory) -> Path:
    """A network that has seen 64 digits: it need not be good."""
    folder = tmp_path_factory.mktemp(request.param) / "RUN"
    net = f"--net {request.param} {SMALL.get(request.param, TOKENS)}"
    words = f"train --data mnist5k {net} --train.images 64 --train.batch 32 --sample.steps 2 --out"
    assert main([*words.split(), str(folder)]) == 0
    return folder


@pytest.fixture
def pictures() -> None:
    images = rv.data.load("mnist5k", "test").batch([3, 4]).x
    for name, image in zip(("one", "other"), images, strict=True):
        grid.to_picture(grid.to_bytes(image[None])[0]).save(f"{name}.png")
    Image.open("one.png").resize((14, 14)).save("small.png")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb(run: Path, verb: str, reverie, pictures):
    shutil.copytree(run, "RUN")
    said = reverie(VERBS[verb])
    net = rv.load("RUN").net
    if verb == "convert" and type(net).__name__ in ("UViT", "JiT", "MMDiT"):
        assert said.code == 2 and said.err.count("\n") == 1, said.err
        assert "diffusers" in said.err and "train a net unet" in said.err
        return
    assert said.code == 0, said.err
    files = {path.name for path in Path().iterdir()} | {path.name for path in Path("RUN").rglob("*")}
    if verb == "runs":
        assert "RUN" in said.out
    elif verb == "evaluate":
        figures = json.loads(Path("RUN/evaluation.json").read_text())
        assert json.dumps(figures).count("NaN") == 0
    elif verb == "convert":
        x, time = torch.zeros(2, 1, 28, 28), torch.tensor(0.5)
        again = rv.load("written")
        cond = rv.Cond(label=[3, 7])
        assert torch.allclose(again(x, time, cond).x0, rv.load("RUN")(x, time, cond).x0, atol=1e-4)
    else:
        made = {
            "sample": "drawn.png",
            "report": "report.html",
            "calibrate": None,
            "restore": "restored.png",
            "edit": "edited-before-after.png",
            "invert": "one.safetensors",
            "read probe": "probe.json",
            "read classify": None,
            "read segment": "segment.png",
            "read panoptic": "panoptic.png",
            "read match": "matches.png",
        }[verb]
        assert made is None or made in files
    if verb == "report":
        page = Path("RUN/report.html").read_text()
        assert "From noise to picture" in page and "Likelihood" in page
