"""Forward derivatives of whole students: through the prior, and in two processes whose gradients must add up."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.flow_map import UNTIL
from reverie.core.jvp import jvp
from reverie.core.schedules import VP, Flow
from reverie.core.task import Moment
from reverie.distill.flow_config import MeanFlowConfig, TVMConfig
from reverie.distill.meanflow import MeanFlow
from reverie.distill.student import Student, hearing
from reverie.distill.tvm import TVM
from reverie.learn.runtime import Runtime
from reverie.learn.side import Move
from reverie.nets.prior import Prior

COND = Cond(label=[0, 1, 2, 1])
KINDS = {"meanflow": (MeanFlow, MeanFlowConfig(apart=1.0)), "tvm": (TVM, TVMConfig())}


def told(path=None, dtype=torch.float64) -> Student:
    """A small network that listens and corrects a prior, as the demo's does, with every weight alive."""
    torch.manual_seed(0)
    config = rv.nets.UNetConfig(width=8, multipliers=(1, 1), blocks=1, heads=2, attention=(2,), groups=4)
    net = rv.nets.build(config, channels=1, size=8, classes=3, image=1)
    net.prior = Prior(3, (1, 8, 8), 4)
    net.prior.fit(torch.randn(90, 1, 8, 8), torch.arange(90) % 3)
    denoise = hearing(NetDenoiser(net, path or Flow(), shape=(1, 8, 8)), UNTIL)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    denoise.to(dtype=dtype)
    return Student(denoise, lambda: copy.deepcopy(denoise))


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: type(p).__name__)
def test_the_tangent_runs_through_the_prior_and_the_path(path):
    model = told(path)
    model.denoise.net.prior.double()
    x, dx = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    t, s = torch.tensor([[0.9, 0.7, 0.5, 0.3], [0.2, 0.6, 0.1, 0.3]], dtype=torch.float64)
    dt, ds = torch.tensor([[1.0, -0.5, 0.7, 0.2], [0.3, 0.1, -1.0, 0.4]], dtype=torch.float64)

    def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return model.estimate(x, t, s, COND).linear(-1.0, 1.0)

    with torch.no_grad():
        h = 1e-6
        expected = (u(x + h * dx, t + h * dt, s + h * ds) - u(x - h * dx, t - h * dt, s - h * ds)) / (2 * h)
        _, slope = jvp(u, (x, t, s), (dx, dt, ds))
        model.denoise.net.prior.log_weights.fill_(-torch.inf)
        model.denoise.net.prior.log_weights[0] = 0.0
        blind = jvp(u, (x, t, s), (dx, dt, ds))[1]
    assert (slope - expected).abs().max() < 1e-6 * expected.abs().max()
    assert blind.isfinite()[0].all()


def gradient(kind, config, runtime: Runtime, whole: bool) -> Tensor:
    """Of one process's share of a batch of 8: shared as the loop does it, the loss as a whole, or as is usual, the network alone."""
    model = told(dtype=torch.float32)
    task = kind(model, config)
    start, count = runtime.shard(0, 8)
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(5))[start : start + count]
    batch = Batch(x, Cond(label=torch.arange(8)[start : start + count] % 3), {})
    weights = [p for p in model.denoise.net.parameters() if p.requires_grad]
    turn = Move(task, "student", [model.denoise.net])
    turn = runtime.shared(turn) if whole else Move(task, "student", [runtime.shared(model.denoise.net)])
    parts = turn(batch, Draws(0, start, count), Moment(5, 50, 100))
    (sum(v.sum() / 8 for v in parts.values()) * runtime.world).backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights])


def share(rank: int, port: str, folder: Path) -> None:
    """What one of two processes finds, kept in a folder."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
    runtime = Runtime(torch.device("cpu"), rank=rank, world=2)
    with runtime.joined():
        for name, (kind, config) in KINDS.items():
            for whole in (True, False):
                np.save(folder / f"{name}-{whole}-{rank}.npy", gradient(kind, config, runtime, whole).numpy())


@pytest.fixture(scope="module")
def shares(tmp_path_factory) -> Path:
    """The folder in which two processes have kept their gradients."""
    folder = tmp_path_factory.mktemp("shares")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, str(port), str(folder)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [process.wait(300) for process in processes] == [0, 0]
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="gloo is told the name of the interface")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_the_gradients_of_two_processes_are_those_of_one(shares, name, whole):
    """Of the tangent too, which TVM differentiates; where the network alone is shared, a forward derivative goes past what shares it."""
    alone = gradient(*KINDS[name], Runtime(torch.device("cpu")), True)
    found = [torch.from_numpy(np.load(shares / f"{name}-{whole}-{rank}.npy")) for rank in (0, 1)]
    errors = [float((each - alone).norm() / alone.norm()) for each in found]
    assert all(e < 1e-4 for e in errors) if whole else all(e > 0.1 for e in errors)


if __name__ == "__main__":
    share(int(sys.argv[3]), sys.argv[1], Path(sys.argv[2]))
