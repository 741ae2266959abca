"""A made world of subjects that look different in each place: eight cells on the left, light or dark, on a ground whose grey differs by
picture. A model of words has learned to draw them, told which cells are light, of which it is told only some."""

from functools import cache

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Image, Label
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
MASK = torch.zeros(1, 8, 8)
MASK[..., :4] = 1.0
CELLS = [f"c{i}" for i in range(8)]
WORDS = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q * 4.0
"""Embeddings (16, 16), of which a cell has one each, and "thing" and "ground"."""
PROMPT = "{} ground"


def patterns(n: int, seed: int) -> Tensor:
    """The cells of n subjects, (n, 1, 4, 2), −1 or 1."""
    return 2.0 * torch.randint(2, (n, 1, 4, 2), generator=torch.Generator().manual_seed(seed)).float() - 1.0


def painted(pattern: Tensor, seed: int) -> Tensor:
    """Pictures (B, 1, 8, 8) of subjects (B, 1, 4, 2), each on a ground of its own."""
    rng = torch.Generator().manual_seed(seed)
    ground = (2.0 * torch.rand(len(pattern), 1, 1, 1, generator=rng) - 1.0).expand(-1, 1, 8, 4)
    cells = pattern.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.cat([0.8 * cells, ground], 3) + 0.05 * torch.randn(len(pattern), 1, 8, 8, generator=rng)


class Patterned(Dataset):
    """Four pictures of each of n subjects, labelled by subject, with masks."""

    name = "patterned"

    def __init__(self, n: int, seed: int) -> None:
        self.patterns = patterns(n, seed)
        self.labels = torch.arange(n).repeat_interleave(4)
        self.x = painted(self.patterns[self.labels], seed)

    @property
    def spec(self) -> DataSpec:
        count = len(self.patterns)
        return DataSpec((1, 8, 8), {"label": Label(count), "image": Image(1)}, tuple(map(str, range(count))))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions) -> Batch:
        rows = torch.as_tensor(positions)
        return Batch(self.x[rows], Cond(label=self.labels[rows], image=MASK.expand(len(rows), -1, -1, -1)))


def words(pattern: Tensor, seed: int) -> list[str]:
    """What is told of subjects (B, 1, 4, 2): each light cell in two cases of three."""
    heard = torch.rand(len(pattern), 8, generator=torch.Generator().manual_seed(seed + 1)) < 2 / 3
    light = (pattern.flatten(1) > 0) & heard
    return [" ".join(["thing", *(c for c, on in zip(CELLS, row, strict=True) if on), "ground"]) for row in light]


@cache
def base(steps: int = 200) -> NetDenoiser:
    """A model of such pictures."""
    torch.manual_seed(0)
    config = DiTConfig(patch=2, width=48, depth=2, heads=2, context=16, length=12)
    denoise = NetDenoiser(build(config, channels=1, size=8), Flow(), "flow", shape=(1, 8, 8))
    said = Words(dict(zip([*CELLS, "thing", "ground"], WORDS, strict=False)))
    denoise.conditioner = Conditioner(denoise.conditions, (), said)

    def feed(rows: Tensor) -> Batch:
        some, seed = patterns(len(rows), int(rows[0])), int(rows[0])
        return Batch(painted(some, seed), denoise.conditioner(words(some, seed)))

    trained(Denoising(denoise, Uniform(), drop=0.0), feed, steps, 4e-3, 64)
    denoise.net.eval().requires_grad_(False)
    return denoise


def alike(images: Tensor, pattern: Tensor) -> float:
    """The mean correlation of pictures (B, 1, 8, 8) with subjects (B or 1, 1, 4, 2) where these are."""
    seen = images[..., :4].unflatten(2, (4, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(1)
    known = pattern.flatten(1).expand_as(seen)
    seen, known = seen - seen.mean(1, keepdim=True), known - known.mean(1, keepdim=True)
    return float((torch.cosine_similarity(seen, known)).mean())
