"""Polar digits: scikit-learn's 8x8 digits with random sign, contrast and brightness, so that pixels say little of the class.

``python tests/read/polar.py`` trains the network of the bed anew and stores it (half precision, 0.8 MB) for the fast tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Cosine
from reverie.core.space import Identity
from reverie.core.tensors import combine
from reverie.learn.muon import Muon
from reverie.nets import UNet, UNetConfig

FILE = Path(__file__).with_suffix(".safetensors")
SCALE = 3.2
TRAIN = 1297


class Stretch(Identity):
    """Pictures in [−1, 1] are diffused at the contrast they were made with."""

    def encode(self, x: Tensor) -> Tensor:
        return SCALE * x

    def decode(self, z: Tensor) -> Tensor:
        return z / SCALE


class Polar(NamedTuple):
    """Pictures (N, 1, 8, 8) in [−1, 1], their digits, and where the strokes are."""

    images: Tensor
    labels: Tensor
    strokes: Tensor


def digits() -> tuple[Tensor, Tensor]:
    """Plain digits in [0, 1] in a fixed random order."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images).float()[order, None] / 16, torch.tensor(data.target)[order]


def polar(x: Tensor, rng: torch.Generator) -> Tensor:
    """``2·(±g·(x − 0.3) + o)`` with a random sign, g in [0.5, 1.5], o in [−0.5, 0.5]; divided by SCALE."""
    u = torch.rand(3, len(x), 1, 1, 1, generator=rng)
    sign = torch.where(u[0] < 0.5, -1.0, 1.0)
    return 2.0 * (sign * (0.5 + u[1]) * (x - 0.3) + u[2] - 0.5) / SCALE


def bed() -> tuple[Polar, Polar]:
    """Training and test part."""
    x, labels = digits()
    images = polar(x, torch.Generator().manual_seed(1))
    strokes = x[:, 0] > 0.5
    return tuple(Polar(images[s], labels[s], strokes[s]) for s in (slice(None, TRAIN), slice(TRAIN, None)))  # pyright: ignore[reportReturnType]


def network() -> NetDenoiser:
    """The untrained denoiser of the bed, a U-Net of 0.4 million parameters."""
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=24, multipliers=(1, 2), blocks=1, attention=(2,)), channels=1, size=8)
    return NetDenoiser(net, Cosine(), "v", shape=(1, 8, 8), space=Stretch())


def train(steps: int = 600, batch: int = 96) -> NetDenoiser:
    """v-prediction, Muon with linear decay, average of the weights over about 25 steps; a minute or two on one core."""
    torch.set_num_threads(1)
    denoise, (x, _), rng = network(), digits(), torch.Generator().manual_seed(2)
    net, x = denoise.net.train(), x[:TRAIN]
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.96))
    solver = Muon(net, lr=0.02, adam_lr=3e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: min(1.0, (step + 1) / 10, 1.05 - step / steps))
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=rng)
        x0 = denoise.space.encode(polar(x[rows], rng))
        noise = torch.randn(x0.shape, generator=rng)
        point = denoise.schedule.point(torch.rand(batch, generator=rng)).align(x0)
        target = combine((-point.sigma, point.alpha), (x0, noise))
        loss = (denoise(combine((point.alpha, point.sigma), (x0, noise)), point).out - target).square().mean()
        solver.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        solver.step()
        decay.step()
        average.update_parameters(net)
    net.load_state_dict(average.module.state_dict())
    net.eval().requires_grad_(False)
    return denoise


def save(denoise: NetDenoiser, path: Path) -> None:
    save_file({name: value.half().contiguous() for name, value in denoise.net.state_dict().items()}, path)


def load(path: Path = FILE) -> NetDenoiser:
    """The trained network of the bed."""
    denoise = network()
    denoise.net.load_state_dict(load_file(path))
    denoise.net.eval().requires_grad_(False)
    return denoise


if __name__ == "__main__":
    save(train(), FILE)
