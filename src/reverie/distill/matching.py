"""What the methods share that train a generator by its samples: points of its grid, samples with a gradient, critics of features.

A student of N steps is given pure noise, or what N − k of its own leaps made of it, as when it is drawn from ("backward simulation", Yin et
al. 2024, DMD2, section 4.5): then it sees in training what it will see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.schedules import HostPoint, Point
from reverie.core.task import Moment, Player
from reverie.core.tensors import combine, onto
from reverie.distill.student import Distilling, Student
from reverie.families.gan import Verdict
from reverie.nets import taps
from reverie.solve import grids

EARLIEST, LATEST = 0.02, 0.98
"""Times at which samples are noised to be compared (Yin et al. 2024)."""


class Matching(Distilling):
    """A student that leaps to clean data from each point of a grid.

    Args:
        model: the student.
        steps: that it is made for.
        grid: of its leaps.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, steps: int = 1, grid: str = "time", *, held_out: Dataset | None = None) -> None:
        super().__init__(model, held_out)
        self.points = grids.named(grid)(model.schedule, steps)[:-1]
        self.clean = model.schedule.clean()
        if isinstance(model.teacher, NetDenoiser):
            teacher = Player(model.teacher.net, optim=None, average=False, train=False, saved="none")
            self.players["teacher"] = teacher

    def made(self, batch: Batch, rng: Draws, progress: Moment) -> Tensor:
        """Samples (B, …) of the student, through as many leaps as the step of training has its turn for; the last has a gradient."""
        shape, last = self.model.shape, progress.step % len(self.points)
        like = next(self.model.denoise.net.parameters())
        x = self.points[0].sigma * onto(rng.normal("init", shape), like)
        with torch.no_grad():
            for i in range(last):
                x0, to = self.leap(x, self.points[i], batch), self.points[i + 1]
                x = combine((to.alpha, to.sigma), (x0, onto(rng.normal(f"renoise {i}", shape), x0)))
        return self.leap(x, self.points[last], batch)

    def leap(self, x: Tensor, at: Point, batch: Batch) -> Tensor:
        """Where the student thinks that the flow from a state (B, …) ends."""
        return self.model.estimate(x, at, self.clean, batch.cond).x0

    def noise(self, x: Tensor, t: Tensor, rng: Draws) -> tuple[Tensor, Tensor]:
        """x_t and the ε that is in it, both (B, …), of samples at float64 t (B,)."""
        noise = onto(rng.normal("noise", x.shape[1:]), x)
        return self.noised(x, noise, t), noise

    def even(self, rng: Draws) -> Tensor:
        """Times (B,) uniform between :data:`EARLIEST` and :data:`LATEST`."""
        return EARLIEST + (LATEST - EARLIEST) * rng.even("time")

    def codes(self, batch: Batch) -> Tensor:
        """The data of a batch in the diffused space."""
        return self.model.space.to(batch.x.device).encode(batch.x)


def picked(points: Sequence[HostPoint], index: Tensor, like: Tensor) -> Point:
    """The points of these indices (B,), broadcast over a state (B, …)."""
    columns = (torch.tensor(column, dtype=torch.float64)[index.cpu()] for column in zip(*points, strict=True))
    return Point(*columns).align(like)


class Head(nn.Module):
    """Features (B, C), (B, N, C) or (B, C, H, W) become ratings (B,), which look at each place by itself and at the class."""

    def __init__(self, shape: Sequence[int], classes: int = 0, width: int = 64) -> None:
        super().__init__()
        channels = shape[0] if len(shape) == 3 else shape[-1]
        self.norm, self.inner = nn.LayerNorm(channels), nn.Linear(channels, width)
        self.verdict = Verdict(width, classes)

    def forward(self, features: Tensor, label: Tensor | None) -> Tensor:
        x = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        h = F.silu(self.inner(self.norm(x)))
        return self.verdict(h.mean(1) if h.ndim == 3 else h, label)


class Critic(nn.Module):
    """A head on each of several features, by name.

    Args:
        shapes: of the features, without the batch.
        classes: 0 for none.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], classes: int = 0) -> None:
        super().__init__()
        self.names = list(shapes)
        self.heads = nn.ModuleList(Head(shape, classes) for shape in shapes.values())

    def forward(self, features: Mapping[str, Tensor], label: Tensor | None = None) -> Tensor:
        """Ratings, (B, heads), high for real."""
        each = (head(features[name], label) for name, head in zip(self.names, self.heads, strict=True))
        return torch.stack(list(each), 1)


def classes_of(model: Denoiser) -> int:
    """How many classes a model is told; 0 for none."""
    return getattr(model.conditions.get("label"), "classes", 0)


def bottleneck(model: NetDenoiser) -> str:
    """The site in the middle of a network."""
    sites = blocks(model)
    middle = [site for site in sites if site.startswith("middle")]
    return middle[-1] if middle else sites[len(sites) // 2]


def blocks(model: NetDenoiser) -> list[str]:
    """The sites after the blocks of a network. Of a U-Net few have attention, and none of these where the picture is fine."""
    known = taps.sites(model)
    return [site for site in known if f"{site}.in" in known]


@torch.no_grad()
def shapes(model: NetDenoiser, sites: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the features at sites, without the batch."""
    like = next(model.net.parameters())
    found = taps.record(model, sites, stop=True)(like.new_zeros(1, *model.shape), 0.5).features or {}
    return {site: tuple(found[site].shape[1:]) for site in sites}
