"""A denoiser of made pictures that reads which discs to draw: two of three colours, anywhere on a dark ground, and no word says where.

``python tests/guide/discs.py`` trains it anew and stores it (half precision) for the fast tests; five minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.tensors import combine
from reverie.learn.muon import Muon
from reverie.nets import UNet, UNetConfig

FILE = Path(__file__).with_suffix(".safetensors")
SIZE, RADIUS = 16, 2.5
WORDS = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q[:4] * 8**0.5
"""Embeddings (4, 8) of red, green, blue and the ground."""


def text(first: Tensor, second: Tensor) -> Cond:
    """The words of pictures, (N, 3 tokens, 8): a colour, another, the ground. Colours are 0, 1, 2."""
    return Cond(text=WORDS[torch.stack([first, second, torch.full_like(first, 3)], 1)])


def pictures(n: int, rng: torch.Generator) -> tuple[Tensor, Cond]:
    """Pictures (N, 3, 16, 16) in [−1, 1] of two discs that do not touch, and their words in either order."""
    first = torch.randint(3, (n,), generator=rng)
    second = (first + torch.randint(1, 3, (n,), generator=rng)) % 3
    low, high = RADIUS, SIZE - RADIUS
    tries = low + (high - low) * torch.rand(n, 32, 2, 2, generator=rng)
    apart = (tries[:, :, 0] - tries[:, :, 1]).norm(dim=2) > 2 * RADIUS + 1
    centres = tries[torch.arange(n), apart.int().argmax(1)]  # (n, which disc, (y, x))
    axis = torch.arange(SIZE) + 0.5
    y, x = axis[:, None], axis[None]
    x0 = torch.full((n, 3, SIZE, SIZE), -1.0)
    for disc, colour in enumerate((first, second)):
        away = ((y - centres[:, disc, 0, None, None]) ** 2 + (x - centres[:, disc, 1, None, None]) ** 2).sqrt()
        x0[torch.arange(n), colour] += 2.0 * (RADIUS + 0.5 - away).clamp(0.0, 1.0)
    return x0, text(first, second)


def centre(images: Tensor, colours: Tensor) -> Tensor:
    """Where the disc of each picture's colour is, (N, 2) as (y, x) in [0, 1]: the centre of what is lit in that colour."""
    light = (images[torch.arange(len(images)), colours] > 0.0).float()
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    total = light.sum((1, 2)).clamp_min(1e-6)
    return torch.stack([(light.sum(2) * axis).sum(1), (light.sum(1) * axis).sum(1)], 1) / total[:, None]


def network() -> NetDenoiser:
    torch.manual_seed(0)
    config = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=1, context=8, length=3)
    return NetDenoiser(UNet(config, channels=3, size=SIZE), Flow(), "flow", shape=(3, SIZE, SIZE))


def train(steps: int = 1200, batch: int = 64) -> NetDenoiser:
    """Flow matching with Muon, without dropping the words."""
    torch.set_num_threads(1)
    denoise, rng = network(), torch.Generator().manual_seed(0)
    net = denoise.net.train()
    solver = Muon(net, lr=0.02, adam_lr=3e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: min(1.0, (step + 1) / 10, 1.02 - step / steps))
    for _ in range(steps):
        x0, words = pictures(batch, rng)
        noise = torch.randn(x0.shape, generator=rng)
        point = denoise.schedule.point(torch.rand(batch, generator=rng)).align(x0)
        loss = (denoise(combine((point.alpha, point.sigma), (x0, noise)), point, words).out - (noise - x0)).square()
        solver.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        solver.step()
        decay.step()
    net.eval().requires_grad_(False)
    return denoise


def save(denoise: NetDenoiser, path: Path) -> None:
    save_file({name: value.half().contiguous() for name, value in denoise.net.state_dict().items()}, path)


def load(path: Path = FILE) -> NetDenoiser:
    """The trained denoiser."""
    denoise = network()
    denoise.net.load_state_dict(load_file(path))
    denoise.net.eval().requires_grad_(False)
    return denoise


if __name__ == "__main__":
    save(train(), FILE)
