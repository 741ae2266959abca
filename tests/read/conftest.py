"""A small U-Net and a small transformer that nobody has trained, every branch of which takes part."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Cosine, Flow
from reverie.nets import DiT, DiTConfig, UNet, UNetConfig
from reverie.read import untrained

sys.path.append(str(Path(__file__).parent))  # for polar.py


@pytest.fixture(scope="session")
def unet() -> NetDenoiser:
    net = UNet(UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2), channels=1, size=8)
    return untrained(NetDenoiser(net.eval().requires_grad_(False), Cosine(), "v", shape=(1, 8, 8)))


@pytest.fixture(scope="session")
def dit() -> NetDenoiser:
    net = DiT(DiTConfig(patch=2, width=16, depth=3, heads=2), channels=3, size=8, classes=4)
    return untrained(NetDenoiser(net.eval().requires_grad_(False), Flow(), "flow", shape=(3, 8, 8)))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
