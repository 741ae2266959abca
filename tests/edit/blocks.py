"""A denoiser of made pictures of two squares of one colour on a dark ground: the class says on which side, and nothing says the colour.

``python tests/edit/blocks.py`` trains it anew and stores it (half precision) for the fast tests; a minute on one core.
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
SIZE, SIDE = 8, 3


def pictures(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 8, 8) in [−1, 1], a square in the upper half and one in the lower, and their sides (n,), 0 for left."""
    side = torch.randint(2, (n,), generator=rng)
    colour = torch.rand(n, 3, 1, 1, generator=rng)
    colour = 2.0 * colour / colour.amax(1, keepdim=True) - 1.0
    corner = torch.randint(2, (n, 2, 2), generator=rng)
    axis, where = torch.arange(SIZE), torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    for half in range(2):
        top, left = corner[:, half, 0] + 4 * half, corner[:, half, 1] + 4 * side
        rows, columns = ((axis >= at[:, None]) & (axis < at[:, None] + SIDE) for at in (top, left))
        where |= rows[:, :, None] & columns[:, None]
    return torch.where(where[:, None], colour, torch.tensor(-1.0)), side


def network() -> NetDenoiser:
    torch.manual_seed(0)
    config = UNetConfig(width=12, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, groups=4)
    return NetDenoiser(UNet(config, channels=3, size=SIZE, classes=2), Flow(), "flow", shape=(3, SIZE, SIZE))


def train(steps: int = 700, batch: int = 64) -> NetDenoiser:
    """Flow matching with Muon."""
    torch.set_num_threads(1)
    denoise, rng = network(), torch.Generator().manual_seed(0)
    net = denoise.net.train()
    solver = Muon(net, lr=0.02, adam_lr=3e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: min(1.0, (step + 1) / 10, 1.02 - step / steps))
    for _ in range(steps):
        x0, side = pictures(batch, rng)
        noise = torch.randn(x0.shape, generator=rng)
        point = denoise.schedule.point(torch.rand(batch, generator=rng)).align(x0)
        asked = combine((point.alpha, point.sigma), (x0, noise))
        loss = (denoise(asked, point, Cond(label=side)).out - (noise - x0)).square().mean()
        solver.zero_grad()
        loss.backward()
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
