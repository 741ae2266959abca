"""A data set, a network and a run small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.times import LogitNormal
from reverie.diffusion import Denoising
from reverie.learn import Batch, Checkpoints, TrainConfig, train


class Net(nn.Module):
    """A perceptron on 4x4 pictures that hears the time and one of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions = {"label": Label(classes=3)}
        self.table = nn.Embedding(4, 16)
        self.inner = nn.Linear(17, 32)
        self.out = nn.Linear(48, 16)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        entry = (cond or Cond(label=0).null())["label"]
        label = self.table(torch.where(entry.present, entry.value, 3)).expand(len(x), -1)
        h = torch.cat([x.flatten(1), time.expand(len(x))[:, None]], dim=1)
        return self.out(torch.cat([self.inner(h).tanh(), label], dim=1)).view_as(x)


def pictures(start: int, count: int) -> Batch:
    """Three constant pictures, one a class."""
    label = torch.arange(start, start + count) % 3
    return Batch((label - 1.0)[:, None, None, None].expand(-1, 1, 4, 4).clone(), Cond(label=label))


def denoising(config: TrainConfig, seed: int = 0, held_out: int = 48) -> Denoising:
    torch.manual_seed(seed)
    net = Net()
    denoise = NetDenoiser(net, Flow(), shape=(1, 4, 4))
    return Denoising(denoise, LogitNormal(), held_out=pictures(0, held_out))


CONFIG = TrainConfig(
    images=400,
    batch=16,
    lr=1e-2,
    warmup=32,
    log_every=64,
    save_every=96,
    validate_every=96,
    sample_every=96,
    ema_half_life=100,
)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Train in a folder and return all weights and optimizer state, by name."""

    def run(name: str, config: TrainConfig = CONFIG, seed: int = 0, task=None, feed=pictures) -> dict[str, Tensor]:
        train(task or denoising(config, seed), feed, config, tmp_path / name, seed=seed)
        latest = Checkpoints(tmp_path / name / "checkpoints").latest()
        assert latest is not None
        return {f"{file}/{k}": v for file in ("model", "ema", "optimizer") for k, v in latest.tensors(file).items()}

    return run
