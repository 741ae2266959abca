"""What one of two processes runs for ``test_sharing.py``: trainings in folders, one after the other."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from reverie.core.condition import Cond
from reverie.core.errors import RunError
from reverie.core.processes import Shared
from reverie.core.task import Optim, Player, Task
from reverie.data import Loader, TensorSet
from reverie.learn import train
from reverie.learn.loop import _Trainer
from reverie.learn.observer import Observer
from reverie.learn.runtime import Runtime, launched
from reverie.solve import Sampler

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import CONFIG, denoising, pictures  # pyright: ignore[reportMissingImports]
else:
    from .conftest import CONFIG, denoising, pictures

SHORT = replace(CONFIG, images=168, save_every=80, validate_every=80, sample_every=80, log_every=16, keep=9)
HALF = 80


class Halfway(Observer):
    """Ends training in the middle, with a checkpoint; other processes hear of it after one more step."""

    def stepped(self, now):
        return now.images >= HALF - 16 * (launched()[1] - 1)


class Rivals(Task):
    """A generator and a critic with a penalty on its slope, each stepped by its own loss; a projection that goes along; a weight unused."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator, self.critic = nn.Linear(4, 16), nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
        self.head, self.generator.unused = nn.Linear(16, 1), nn.Parameter(torch.ones(3))
        self.players = {
            "critic": Player(self.critic, optim=Optim(lr=0.01), average=False),
            "generator": Player(self.generator),
            "head": Player(self.head, along="generator", average=False),
        }

    def turns(self, progress):
        return ["critic", "critic", "generator"] if progress.step % 2 else ["critic", "generator"]

    def loss(self, player, batch, rng, progress) -> dict[str, Tensor]:
        fake = self.generator(rng.normal("z", (4,)))
        if player == "generator":
            return {"fool": -self.critic(fake)[:, 0], "head": self.head(fake)[:, 0].square().mean()}
        real = batch.x.flatten(1).requires_grad_()
        rated = self.critic(real)
        (slope,) = torch.autograd.grad(rated.sum(), real, create_graph=True)
        return {"rate": (self.critic(fake.detach()) - rated)[:, 0], "slope": slope.square().sum(1)}


def by_workers() -> Loader:
    """The pictures by a loader whose two workers read ahead."""
    batch = pictures(0, 48)
    return Loader(TensorSet(batch.x, batch.label, classes=["a", "b", "c"]), seed=3, workers=2)


def slow():
    """A task whose first validation takes longer than a message between the processes may."""
    task, seconds = denoising(SHORT), [5.0, 0.0]

    def validate():
        time.sleep(seconds.pop(0))
        return {"loss": 1.0}

    task.validate = validate
    return task


def poisoned():
    """Pictures of which one, in the second half of its batch, is no number the first two times: when it is read, and when that is kept."""
    left = [2]

    def feed(start: int, count: int):
        batch = pictures(start, count)
        if start <= 155 < start + count and left[0] > 0:
            left[0] -= 1
            batch.x[155 - start] = float("nan")
        return batch

    return feed


CASES = {
    "plain": (denoising, SHORT, lambda: pictures),
    "parts": (denoising, replace(SHORT, micro_batch=4), lambda: pictures),
    "uneven": (denoising, replace(SHORT, batch=15, micro_batch=4), lambda: pictures),
    "workers": (denoising, SHORT, by_workers),
    "muon": (denoising, replace(SHORT, optimizer="muon"), lambda: pictures),
    "sharded": (denoising, replace(SHORT, micro_batch=4, shard=True), lambda: pictures),
    "back": (denoising, replace(SHORT, on_nan="rollback"), poisoned),
    "back in parts": (denoising, replace(SHORT, micro_batch=4, shard=True, on_nan="rollback"), poisoned),
    "rivals": (lambda config: Rivals(), replace(SHORT, micro_batch=4), lambda: pictures),
}
"""What is trained in both ways: the task by its settings, these, and the data."""


def run(name: str, folder: Path, halves: bool = False, seed: int = 0, suffix: str = "") -> None:
    made, config, feed = CASES[name]
    observers = [Halfway()] if halves else []
    train(made(config), feed(), config, folder / f"{name}{suffix}", seed=seed, observers=observers)


def refused(call: Callable[[], object], path: Path) -> None:
    """What a training says that fails."""
    try:
        call()
    except RunError as error:
        path.write_text(str(error))


def held(trainer: _Trainer) -> float:
    """Bytes that a process holds for a weight."""
    (side,) = trainer.sides.values()
    assert side.optimizer is not None and side.ema is not None
    moments = [v for state in side.optimizer.state.values() for key, v in state.items() if key != "step"]
    averages = [value for ema in (side.ema, *side.profiles.values()) for value in ema.average.values()]
    tensors = [*side.trained, *(p.grad for p in side.trained if p.grad is not None), *moments, *averages]
    return sum(v.nbytes for v in tensors) / sum(p.numel() for p in side.trained)


def sent(folder: Path, apart: bool) -> list[int]:
    """Bytes of each message of gradients in ten steps of two micro-batches; ``apart``: whether the first one waits for the second."""
    found: list[int] = []

    real = Runtime.shared

    def shared(self: Runtime, turn: nn.Module, shard: bool) -> nn.Module:
        def count(state: None, bucket: dist.GradBucket):
            found.append(bucket.buffer().nbytes)
            return allreduce_hook(dist.group.WORLD, bucket)  # pyright: ignore[reportArgumentType]

        made: Any = real(self, turn, shard)
        made.register_comm_hook(None, count)
        return made

    def never(self: Runtime, turn: nn.Module):
        return nullcontext()

    changes = {"shared": shared} if apart else {"shared": shared, "kept_apart": never}
    with patch.multiple(Runtime, **changes):
        train(denoising(SHORT), pictures, replace(SHORT, images=160, micro_batch=4), folder / f"sent-{apart}")
    return found


def alone(folder: Path) -> None:
    kept: list[float] = []

    def save(self: _Trainer, real=_Trainer.save) -> None:
        kept.append(held(self))
        real(self)

    with patch.object(_Trainer, "save", save):
        run("plain", folder / "one")
    (folder / "held.json").write_text(json.dumps(kept))
    for name in CASES:
        run(name, folder / "one")
    for name in ("plain", "sharded"):
        run(name, folder, halves=True, suffix="-one")
    (folder / "begun").touch()
    while not (folder / "begun two").exists():
        time.sleep(0.1)
    for name in ("plain", "sharded"):
        run(name, folder, suffix="-two")


def share(rank: int, port: str, folder: Path) -> None:
    launcher = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(launcher, GLOO_SOCKET_IFNAME="lo")
    for name in CASES:
        run(name, folder)
    while not (folder / "begun").exists():
        time.sleep(0.1)
    for name in ("plain", "sharded"):
        run(name, folder, suffix="-one")  # goes on where one process stopped
        run(name, folder, halves=True, suffix="-two")
    if rank == 0:
        (folder / "begun two").touch()
    run("plain", folder, seed=rank, suffix="-apart")
    (folder / f"sent-{rank}.json").write_text(json.dumps([sent(folder, apart) for apart in (True, False)]))
    generator = Sampler(denoising(CONFIG).denoise, steps=3)
    with Runtime.choose("cpu").joined():
        np.save(folder / f"drawn-{rank}.npy", Shared(generator).sample(7, Cond(label=1), seed=5).numpy())
    brief = partial(dist.init_process_group, timeout=timedelta(seconds=3))
    config = replace(SHORT, images=96)
    with patch.object(dist, "init_process_group", brief):
        train(slow(), pictures, config, folder / "slow")
        with patch.object(_Trainer, "wait", lambda self: None):
            refused(lambda: train(slow(), pictures, config, folder / "hasty"), folder / f"hasty-{rank}.txt")

    def torn(start: int, count: int):
        if rank == 1 and start >= 96:
            raise OSError("the tape is torn")
        return pictures(start, count)

    refused(lambda: train(denoising(SHORT), torn, SHORT, folder / "torn"), folder / f"torn-{rank}.txt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "alone":
        alone(Path(sys.argv[2]))
    else:
        share(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
