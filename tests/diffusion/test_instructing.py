"""InstructPix2Pix: sides of pictures, what is dropped, and a model that is trained and edits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Text
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.times import Uniform
from reverie.diffusion.conditioned import InstructConfig
from reverie.diffusion.instructing import Instructing, Sides
from reverie.nets.config import TextConfig, UNetConfig

NET = UNetConfig(width=8, multipliers=(1, 1), blocks=1, attention=(2,), heads=2, groups=4)
SPEC = DataSpec((3, 8, 16), {"text": Text(10)})
CONFIG = InstructConfig(net=NET, text=TextConfig(width=8, depth=1, heads=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures of 8x8 and what was made of them, the same or darker, side by side."""
    draw, lines = np.random.default_rng(0), []
    (tmp_path / "pairs").mkdir()
    for i in range(20):
        before = draw.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(np.concatenate([before, before // 2 if i % 2 else before], 1)).save(
            tmp_path / "pairs" / f"{i}.png"
        )
        lines.append(json.dumps({"file_name": f"{i}.png", "text": "darker" if i % 2 else "as it is"}))
    (tmp_path / "pairs" / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "pairs"


def test_sides_are_what_is_drawn_and_what_is_shown(folder):
    data = rv.data.load(folder, "all", size=(8, 16)).with_captions()
    sides, whole = Sides(data), data.batch([0, 3]).x
    batch = sides.batch([0, 3])
    assert sides.spec.shape == (3, 8, 8) and sides.spec.conditions["image"].channels == 3
    assert torch.equal(batch.cond["image"].value, whole[..., :8]) and torch.equal(batch.x, whole[..., 8:])
    assert not torch.equal(batch.x, whole[..., :8])
    with pytest.raises(InputError, match="add --data"):
        Sides(rv.data.load(folder, "all", size=(8, 16)))
    for size in (None, (8, 7)):
        with pytest.raises(InputError, match="such as 32 64"):
            Sides(rv.data.load(folder, "all", size=size).with_captions())


def test_a_part_of_what_is_told_is_dropped_each_as_often():
    model = CONFIG.build(SPEC, 0)
    n, drop = 6000, 0.2
    batch = Batch(torch.zeros(n, 3, 8, 8), Cond(image=torch.zeros(n, 3, 8, 8), text=torch.ones(n, 4, dtype=torch.long)))
    told = Instructing(model, Uniform(), drop=drop).condition(batch, Draws(0, 0, n))
    image, text = (told[name].present for name in ("image", "text"))
    error = 4 * (drop * (1 - drop) / n) ** 0.5
    for alone in (image & ~text, ~image & text, ~image & ~text):
        assert abs(alone.double().mean() - drop) < error
        assert abs(alone.double().mean() - 1.5 * drop) > error


def test_the_network_hears_the_picture_and_the_words():
    model = CONFIG.build(SPEC, 0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    said = {text: model.conditioner(text) for text in ("red", "blue")}

    def out(picture: torch.Tensor, text: str) -> torch.Tensor:
        return model(x, 0.5, Cond(**{k: said[text][k] for k in said[text]}, image=picture)).out

    one, other = x.flip(-1), x.flip(-2)
    assert (out(one, "red") - out(other, "red")).abs().max() > 1e-3
    assert (out(one, "red") - out(one, "blue")).abs().max() > 1e-5
    assert torch.equal(out(one, "red"), out(one, "red"))


def test_it_trains_and_edits_from_the_command_line(folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = f"train instruct --data {folder} --data.captions --data.size 8 16 --out {run} --train.images 32 --train.batch 16"
    words += (
        " --net unet --net.width 8 --net.multipliers 1 --net.blocks 1 --net.attention 1 --net.heads 2 --net.groups 4"
    )
    words += " --text.width 8 --text.depth 1 --text.heads 2 --train.warmup 16 --train.processes 1 --train.device cpu"
    assert main(words.split()) in (0, None)
    picture = tmp_path / "x.png"
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(picture)
    out = tmp_path / "edited.png"
    Image.fromarray(np.repeat(np.uint8([0, 255]), 32).reshape(8, 8)).save(tmp_path / "m.png")
    edit = [
        "edit",
        str(run),
        str(picture),
        "--to",
        "darker",
        "--steps",
        "2",
        "--out",
        str(out),
        "--mask",
        str(tmp_path / "m.png"),
    ]
    assert main(edit) in (0, None)
    edited = np.asarray(Image.open(out))
    assert edited.shape == (8, 8, 3) and (edited[:4] == 90).all() and (edited[4:] != 90).any()
    assert "6 evaluations" in capsys.readouterr().out
    assert main(["sample", str(run)]) not in (0, None)
