"""A made world of two things: one on the left, one on the right, each red, green or blue. Words say which are there and which colours, but
not which colour belongs to which."""

from functools import cache

import torch
from torch import Tensor

from reverie.core import spelling
from reverie.core.batch import Batch
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.times import Uniform
from reverie.diffusion.denoising import Denoising
from reverie.nets import DiTConfig, build
from reverie.nets.config import EncoderConfig

from .subjects import trained
from .told_discs import Words

LOOK = EncoderConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2)
SIDES, COLOURS = ("left", "right"), ("red", "green", "blue")
HALVES = torch.zeros(2, 8, 8)
HALVES[0, :, :4] = HALVES[1, :, 4:] = 1.0
ROWS = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q * 4.0
"""Embeddings (16, 16) of the words."""


def painted(colours: Tensor, seed: int) -> Tensor:
    """Pictures (B, 3, 8, 8) whose halves have colours (B, 2) of 0 to 2, and none where that is −1."""
    light = (torch.arange(3) == colours[..., None]).float()  # (B, 2, 3)
    x = 1.6 * torch.einsum("bsc,shw->bchw", light, HALVES) - 0.8
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def drawn(n: int, seed: int) -> Tensor:
    """Colours (n, 2), of both sides, or in one case of two of one alone."""
    rng = torch.Generator().manual_seed(seed)
    colours = torch.randint(3, (n, 2), generator=rng)
    alone = torch.randint(4, (n,), generator=rng)
    return torch.where(alone[:, None] == torch.arange(2), -1, colours)


def said(colours: Tensor) -> list[str]:
    """The sides that are painted, then the colours in the order of their names."""
    told = []
    for row in colours.tolist():
        sides = [side for side, c in zip(SIDES, row, strict=True) if c >= 0]
        told.append(" ".join([*sides, *(COLOURS[c] for c in sorted(c for c in row if c >= 0))]))
    return told


def sides(text: str) -> str:
    """The same without its colours."""
    return " ".join(text.split()[: len(text.split()) // 2])


def batch(rows: Tensor) -> Batch:
    """Pictures told what is there, with maps of the sides, as FastComposer learns from them."""
    colours = drawn(len(rows), 100_000 + int(rows[0]))
    maps = HALVES * (colours >= 0).float()[..., None, None]
    texts = spelling.spelled([sides(text) for text in said(colours)], 64)
    return Batch(painted(colours, 1 + int(rows[0])), None, {"maps": maps, "text": texts})


@cache
def base(steps: int = 200) -> NetDenoiser:
    """A model of such pictures, told what is there and in two cases of three which colours."""
    torch.manual_seed(0)
    config = DiTConfig(patch=2, width=48, depth=2, heads=2, context=16, length=12)
    denoise = NetDenoiser(build(config, channels=3, size=8), Flow(), "flow", shape=(3, 8, 8))
    denoise.conditioner = Conditioner(denoise.conditions, (), Words(dict(zip([*SIDES, *COLOURS], ROWS, strict=False))))

    def feed(rows: Tensor) -> Batch:
        colours = drawn(len(rows), int(rows[0]))
        texts = [text if i % 3 else sides(text) for i, text in enumerate(said(colours))]
        return Batch(painted(colours, int(rows[0])), denoise.conditioner(texts))

    trained(Denoising(denoise, Uniform(), drop=0.0), feed, steps, 4e-3, 64)
    denoise.net.eval().requires_grad_(False)
    return denoise


def seen(images: Tensor) -> Tensor:
    """The colours of the halves of pictures (B, 3, 8, 8), (B, 2)."""
    return torch.einsum("bchw,shw->bsc", images, HALVES).argmax(-1)
