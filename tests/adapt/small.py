"""Small models with random weights, of classes and of nothing."""

import torch
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.nets import DiTConfig, UNetConfig, build

UNET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, groups=4)
DIT = DiTConfig(patch=2, width=16, depth=2, heads=2)


def model(config=DIT, classes: int | None = 3, seed: int = 0) -> NetDenoiser:
    torch.manual_seed(seed)
    net = build(config, channels=1, size=8, classes=classes)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.1 * parameter[0].numel() ** -0.5)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), "flow", shape=(1, 8, 8))


def images(n: int = 3, seed: int = 3) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def out(denoise: NetDenoiser, cond=None, t: float = 0.6) -> Tensor:
    with torch.no_grad():
        return denoise(images(2, seed=5), t, cond).out
