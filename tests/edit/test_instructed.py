"""InstructPix2Pix on digits whose edits are known: instructions are followed, and the scale of the picture keeps the picture."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Text
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.spelling import spelled
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion.conditioned import InstructConfig
from reverie.diffusion.instructing import Instructing
from reverie.edit import instruct
from reverie.nets.config import TextConfig, UNetConfig

from .closed_form import rms

TOLD = {"invert": lambda x: -x, "shift": lambda x: x.roll(2, -1), "keep": lambda x: x}
"""What becomes of pictures (n, 1, 8, 8)."""
NET = UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4)


def model() -> NetDenoiser:
    return InstructConfig(net=NET, text=TextConfig(width=16, depth=1, heads=2)).build(
        DataSpec((1, 8, 16), {"text": Text(8)}), 0
    )


def digits(split: str) -> Tensor:
    data = rv.data.load("digits8", split)
    return data.batch(range(len(data))).x


@pytest.fixture(scope="module")
def trained() -> NetDenoiser:
    torch.manual_seed(0)
    denoise, x, words, size, steps = model(), digits("train"), list(TOLD), 48, 500
    task, tokens = Instructing(denoise, Uniform(), drop=0.05), spelled(list(TOLD), 8)
    weights = [p for player in task.players.values() for p in player.module.parameters()]
    adam = torch.optim.Adam(weights, 3e-3)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 20, 1.05 - step / steps)
        rng = Draws(0, size * step, size)
        before = x[(rng.uniform("row") * len(x)).long()]
        after = torch.cat([TOLD[words[i % 3]](before[i : i + 1]) for i in range(size)])
        told = Cond(image=before, text=tokens[torch.arange(size) % 3])
        loss = task.loss("denoiser", Batch(after, told), rng, Moment(0, 0, 1))["mse"].mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
    denoise.net.eval().requires_grad_(False)
    return denoise


def edited(denoise: NetDenoiser, x: Tensor, word: str, scale: float = 1.5, image_scale: float = 1.0) -> Tensor:
    told = denoise.conditioner(word)
    with torch.no_grad():
        return instruct(denoise, x, told, scale=scale, image_scale=image_scale, solver="euler", steps=20)


def followed(found: Tensor, x: Tensor, word: str) -> float:
    """The share of edits that are nearer to what was asked than to any other edit, and than to the same edit of the next picture."""
    others = [edit(x) for name, edit in TOLD.items() if name != word] + [TOLD[word](x.roll(1, 0))]
    right, *wrong = ((found - each).square().mean((1, 2, 3)) for each in (TOLD[word](x), *others))
    return float((right < torch.stack(wrong).amin(0)).double().mean())


@pytest.mark.slow
def test_instructions_are_followed(trained):
    x = digits("test")[:60]
    told = {word: edited(trained, x, word) for word in TOLD}
    shares = {word: followed(found, x, word) for word, found in told.items()}
    assert all(share >= 0.9 for share in shares.values()), shares
    assert followed(told["shift"], x, "invert") < 0.1 and followed(told["invert"], x, "shift") < 0.1
    assert followed(edited(model(), x, "invert"), x, "invert") < 0.5  # control: untrained


@pytest.mark.slow
def test_more_of_the_scale_of_the_picture_is_nearer_to_the_picture(trained):
    x = digits("test")[:60]
    off = [rms(edited(trained, x, "keep", image_scale=scale), x) for scale in (0.0, 0.5, 1.0)]
    assert off[1] < 0.6 * off[0] and off[2] < 0.95 * off[1], off
    other = rms(edited(trained, x, "keep"), x.roll(1, 0))
    assert other > 1.5 * off[2]  # control: another picture
