"""The figure of docs/distill/flow_maps.md: one evaluation of small networks on a mixture in the plane, two minutes on one core.

python bench/flow_maps.py
"""

import math
import time
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.condition import Cond, Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.exact import GaussianMixture
from reverie.core.flow_map import UNTIL
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.distill import flow_config as settings
from reverie.distill.consistency import CD
from reverie.distill.imm import IMM
from reverie.distill.mapping import Mapping
from reverie.distill.meanflow import MeanFlow
from reverie.distill.scm import SCM
from reverie.distill.shortcut import Shortcut
from reverie.distill.student import Student, hearing
from reverie.distill.tvm import TVM
from reverie.nets.network import Network

STATIC = Path(__file__).parent.parent / "docs" / "_static"
STEPS, BATCH, DRAWN = 2500, 256, 4000
BEFORE = "velocity only"
METHODS: dict[str, tuple[type[Mapping], settings.FlowMapConfig]] = {
    BEFORE: (Shortcut, settings.ShortcutConfig(bootstrapped=0.0)),
    "consistency (cd)": (CD, settings.ConsistencyConfig(scales=8)),
    "scm": (SCM, settings.SCMConfig()),
    "meanflow": (MeanFlow, settings.MeanFlowConfig(power=0.0)),
    "shortcut": (Shortcut, settings.ShortcutConfig(bootstrapped=0.5, decay=0.95)),
    "imm": (IMM, settings.IMMConfig(halvings=11, group=16)),
    "tvm": (TVM, settings.TVMConfig(gap_mean=0.0)),
}


class Perceptron(Network):
    """Told the time, and the length of a leap once it listens."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.conditions = {}
        sizes = [16, width, width, width]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def listen(self, *names: str) -> None:
        self.conditions = {**self.conditions, **{name: Vector(1) for name in names}}

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        t = time.expand(len(x))[:, None]
        gap = cond[UNTIL].value if cond is not None and UNTIL in cond else torch.zeros_like(t)
        told = torch.cat([t, gap], 1)
        angle = (told[:, :, None] * told.new_tensor([0.5 * math.pi, math.pi, 2 * math.pi])).flatten(1)
        return self.layers(torch.cat([x, told, angle.sin(), angle.cos()], 1))


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.4], [-0.9, 0.9], [0.2, -1.1], [-0.3, 0.1]])
    return GaussianMixture(torch.tensor([0.3, 0.3, 0.2, 0.2]), means, 0.01 * torch.eye(2).repeat(4, 1, 1))


def fit(
    data: GaussianMixture, known: Tensor, net: Perceptron, kind: type[Mapping], config: settings.FlowMapConfig
) -> Student:
    """Train the network on."""
    torch.manual_seed(0)
    denoise = NetDenoiser(net, Flow(), shape=(2,))
    model = Student(hearing(denoise, UNTIL) if config.second_time else denoise, lambda: data.denoiser(Flow()))
    task = kind(model, config)
    weights = [p for player in task.players.values() if player.optim is not None for p in player.module.parameters()]
    optimizer = torch.optim.Adam(weights, 2e-3, (0.9, 0.99))
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        start = step * BATCH
        rows = torch.arange(start, start + BATCH) % len(known)
        now = Moment(step, start, STEPS * BATCH)
        parts = task.loss("student", Batch(known[rows]), Draws(0, start, BATCH), now)
        optimizer.zero_grad()
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
        optimizer.step()
        task.after_step(now._replace(step=step + 1, images=start + BATCH))
        rate.step()
    denoise.net.eval().requires_grad_(False)
    return model


def sliced_w2(a: Tensor, b: Tensor) -> float:
    angle = torch.linspace(0, math.pi, 65)[:-1]
    ways = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).square().mean().sqrt())


def main() -> None:
    data = mixture()
    known, fresh = (data.sample(n, torch.Generator().manual_seed(seed)) for n, seed in ((40_000, 0), (DRAWN, 1)))
    noise = torch.randn(DRAWN, 2, generator=torch.Generator().manual_seed(7))
    exact = rv.sample(data.denoiser(Flow()), x=noise, solver="heun", steps=60, grid="time")
    drawn = {"the flow, 60 steps": exact}
    torch.manual_seed(0)
    velocity = Perceptron()
    for name, (kind, config) in METHODS.items():
        begun = time.process_time()
        net = velocity if name == BEFORE else deepcopy(velocity).requires_grad_()
        drawn[name] = rv.sample(fit(data, known, net, kind, config), x=noise, steps=1)
        error = float((drawn[name] - exact).square().sum(1).mean().sqrt())
        seconds = time.process_time() - begun
        print(f"{name:18} W2 {sliced_w2(drawn[name], fresh):.3f}  to the flow {error:.3f}  {seconds:.0f} s", flush=True)
    print(f"{'fresh samples':18} W2 {sliced_w2(data.sample(DRAWN, torch.Generator().manual_seed(2)), fresh):.3f}")
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), sharex=True, sharey=True)
    colour = torch.atan2(noise[:, 1], noise[:, 0])
    for axis, (name, x) in zip(axes.flat, drawn.items(), strict=True):
        axis.scatter(*x[:1500].T, c=colour[:1500], cmap="twilight", s=2, linewidths=0)
        axis.set(xlim=(-1.6, 1.6), ylim=(-1.7, 1.5), xticks=[], yticks=[], aspect="equal")
        axis.set_title(name, fontsize=10)
    figure.tight_layout()
    figure.savefig(STATIC / "flow_maps.png", dpi=110)


if __name__ == "__main__":
    main()
