"""The noise-conditional classifier of DDAE: one block of a frozen diffusion network, read at every time by one head that is told the time.

Xiang, Yang, Huang & Wang, "Denoising Diffusion Autoencoders are Unified Self-supervised Learners", ICCV 2023, with their code
(``noisy_classifier_DDAE.py``). It says ``log p(c | x_t)``, so that :func:`reverie.guide.classifier` draws classes from a network that was
never told of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.denoiser import Denoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import Point, Schedule
from reverie.core.tensors import combine, onto
from reverie.data import ImageSet, order
from reverie.learn.descend import descend
from reverie.nets.embeddings import TimeEmbedding
from reverie.read.extract import pooled
from reverie.read.maps import maps

TEST_SEED = 2**20
"""Offset of the noise of the test pictures."""
T = (0.02, 0.1, 0.25, 0.5, 0.75)


class Head(nn.Module):
    """``Linear(C → 2C), SiLU, Linear`` on a feature plus an embedding of the time."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(2 * channels, channels)
        self.inner, self.outer = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, classes)

    def forward(self, feature: Tensor, t: Tensor) -> Tensor:
        """Features (B, C) and times (B,) -> logits (B, classes)."""
        return self.outer(F.silu(self.inner(feature + self.time(t))))


class NoiseConditional:
    """``log p(c | x_t)`` of noisy samples; what :func:`reverie.guide.classifier` takes.

    Args:
        denoise: what is read; conditional models with the null condition.
        site: the block.
        classes: how many.
        seed: of the head.

    Raises:
        InputError: for an unknown site.
    """

    def __init__(self, denoise: Denoiser, site: str, classes: int, seed: int = 0) -> None:
        self.denoise, self.site, self.classes = denoise, site, classes
        blank = torch.zeros(1, *denoise.shape, device=denoise.device)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            self.head = Head(self.feature(blank, denoise.schedule.point(0.5)).shape[1], classes).to(denoise.device)

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.denoise.shape)

    def feature(self, x: Tensor, point: Point) -> Tensor:
        """The block's map of x_t, averaged over places: (B, C)."""
        return pooled(maps(self.denoise, x, point, [self.site])[self.site], 1).float()

    def __call__(self, x: Tensor, point: Point) -> Tensor:
        """``log p(c | x_t)`` (B, classes); differentiable in x_t."""
        t = onto(torch.as_tensor(point.t), x).flatten().float().expand(len(x))
        return self.head(self.feature(x, point), t).log_softmax(1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The classifier itself, its network moved and cast, its head moved."""
        self.denoise.to(device, dtype)
        self.head.to(device=device)
        return self


def train(
    denoise: Denoiser, data: ImageSet, site: str, *, epochs: int = 15, batch: int = 128, lr: float = 1e-3, seed: int = 0
) -> NoiseConditional:
    """A classifier whose head has learned at uniform random times: Adam with cosine decay, fresh noise in every pass; the network stays.

    Args:
        denoise: what is read.
        data: labelled pictures.
        site: the block.
        epochs, batch, lr: of the training.
        seed: of head, order, times and noise.

    Raises:
        InputError: for data without labels, or an unknown site.
    """
    judge = NoiseConditional(denoise, site, _classes(data), seed)
    batch = min(batch, len(data))

    def loss(step: int) -> Tensor:
        start = step * batch
        some, rng = data.batch(order.indices(seed, start, batch, len(data))), Draws(seed, start, batch)
        assert some.label is not None
        with torch.no_grad():
            x, point = _noised(denoise, some.x, rng.uniform("time"), rng)
            feature = judge.feature(x, point)
        t = onto(torch.as_tensor(point.t), x).flatten().float()
        return F.cross_entropy(judge.head(feature, t), some.label.to(x.device))

    steps = max(1, epochs * len(data) // batch)
    descend(torch.optim.Adam(judge.head.parameters(), lr=lr), loss, steps, label="training a noise-conditional head")
    judge.head.eval().requires_grad_(False)
    return judge


@torch.no_grad()
def accuracy(
    judge: NoiseConditional, data: ImageSet, t: Sequence[float] = T, *, batch: int = 256, seed: int = 0
) -> dict[float, float]:
    """The share of pictures that are classified rightly, by time.

    Raises:
        InputError: for data without labels.
    """
    _classes(data)
    right = dict.fromkeys(t, 0)
    for start in range(0, len(data), batch):
        some = data.batch(range(start, min(start + batch, len(data))))
        assert some.label is not None
        rng = Draws(seed + TEST_SEED, start, len(some.x))
        for each in t:
            x, point = _noised(judge.denoise, some.x, torch.full((len(some.x),), each), rng)
            right[each] += int((judge(x, point).argmax(1).cpu() == some.label).sum())
    return {each: count / len(data) for each, count in right.items()}


def _noised(denoise: Denoiser, images: Tensor, t: Tensor, rng: Draws) -> tuple[Tensor, Point]:
    x0 = denoise.space.encode(images.to(denoise.device))
    point = denoise.schedule.point(t).align(x0)
    return combine((point.alpha, point.sigma), (x0, onto(rng.normal("noise", x0.shape[1:]), x0))), point


def _classes(data: ImageSet) -> int:
    if data.labels is None:
        raise InputError(f"{data.name} has no labels to classify by: give pictures in one folder a class")
    return len(data.classes) or int(data.labels.max()) + 1
