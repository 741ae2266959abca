"""A denoiser of made scenes (:mod:`reverie.read.odise.scenes`), trained on things of every kind without a label.

``python tests/read/scenery.py`` trains it anew and stores it (half precision, 0.6 MB) for the fast tests; two minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.tensors import combine
from reverie.learn.muon import Muon
from reverie.nets import UNet, UNetConfig
from reverie.read.odise import scenes

FILE = Path(__file__).with_suffix(".safetensors")
AWAY = 1_000_000
"""Where in the endless set the pictures of training begin: no test comes there."""


def network() -> NetDenoiser:
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=16, multipliers=(1, 2, 2), blocks=1, attention=(4,), heads=2), channels=3, size=16)
    return NetDenoiser(net, Flow(), "flow", shape=(3, 16, 16))


def train(steps: int = 250, batch: int = 64) -> NetDenoiser:
    """Flow matching with Muon; a sixth of the scenes shows the things that no name is learned for, as a large data set does."""
    torch.set_num_threads(1)
    denoise, rng, new = network(), torch.Generator().manual_seed(0), batch // 6
    net = denoise.net.train()
    solver = Muon(net, lr=0.02, adam_lr=3e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: min(1.0, (step + 1) / 10, 1.05 - step / steps))
    for step in range(steps):
        start = AWAY + batch * step
        x0 = torch.cat([scenes.scenes(start, batch - new).x, scenes.scenes(start, new, new=True).x])
        noise = torch.randn(x0.shape, generator=rng)
        point = denoise.schedule.point(torch.rand(batch, generator=rng)).align(x0)
        out = denoise(combine((point.alpha, point.sigma), (x0, noise)), point).out
        solver.zero_grad()
        (out - (noise - x0)).square().mean().backward()
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
