"""Sketch guidance: a model that stays as it is, led along the lines of a sketch by what its own features say of edges.

Voynov, Aberman & Cohen-Or, "Sketch-Guided Text-to-Image Diffusion Models", SIGGRAPH 2023 (arXiv:2211.13752). A perceptron P looks at each
place by itself: at the features F of all blocks there, brought to one size, and the time; it learns to tell the edges e of the clean
picture, ‖P(F(x_t), t) − e‖². In drawing, each move is followed by a step along −∇ of the same, of the sketch's edges, of β times the
length of the move: here its direction joins the score at β times the length of that, and any solver takes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.task import Player
from reverie.core.tensors import Scalar, combine, onto
from reverie.diffusion.beside import Beside
from reverie.diffusion.building import times, unseen
from reverie.diffusion.conditioned import SketchConfig
from reverie.diffusion.control import check_base, check_hint
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.hints import edges
from reverie.guide.attention import as_grid, conditional
from reverie.guide.energy import Gradient
from reverie.guide.gradient import add_score, fit, trace
from reverie.nets import taps
from reverie.nets.controlnet import fingerprint
from reverie.nets.embeddings import TimeEmbedding

BETA = 0.25
"""The length of the guidance in that of the score, which follows lines best on made pictures (`bench/told_discs.py`)."""
EARLY = (-math.inf, 0.0)
"""The logsnr between which lines are drawn: the noisy half of the path."""


class EdgePredictor(nn.Module):
    """Features of a denoiser at its ``sites`` and the time to edges (B, 1, H, W), of the size of what is diffused; place by place.

    Args:
        denoise: whose features they are.
        sites: names of blocks; all by default.
        width: of the perceptron's two layers.
    """

    channels = 1

    def __init__(self, denoise: NetDenoiser, sites: Sequence[str] = (), width: int = 64) -> None:
        super().__init__()
        known = taps.find(denoise, taps.sites(denoise))
        blocks = [name for name, place in known.items() if f"{name}.in" in known and not place.attention]
        self.base, self.shape, self.sites = fingerprint(denoise.net), denoise.shape, list(sites) or blocks
        with torch.no_grad():
            blank = torch.zeros(1, *denoise.shape, device=denoise.device, dtype=denoise.dtype)
            features = taps.features(denoise, self.sites, blank, 0.5)
        self.time = TimeEmbedding(32, width)
        self.inner = nn.Conv2d(sum(self._map(value).shape[1] for value in features.values()), width, 1)
        self.middle, self.outer = nn.Conv2d(width, width, 1), nn.Conv2d(width, 1, 1)

    def forward(self, features: Mapping[str, Tensor], t: Scalar) -> Tensor:
        """Values at the sites, (B, C, h, w) or (B, places, C), at t, a number or one a sample."""
        maps = [F.interpolate(self._map(features[site]), self.shape[1:], mode="bilinear") for site in self.sites]
        x = torch.cat(maps, 1)
        told = self.time(onto(torch.as_tensor(t).flatten(), x).expand(len(x)))[:, :, None, None]
        return self.outer(F.relu(self.middle(F.relu(self.inner(x) + told))))

    def _map(self, value: Tensor) -> Tensor:
        return value if value.ndim == 4 else as_grid(value, self.shape)


class Sketched(Gradient):
    """See :func:`sketch`."""

    def __init__(
        self, base: Denoiser, net: EdgePredictor, lines: Tensor, scale: float, interval: tuple[float, float]
    ) -> None:
        super().__init__(base)
        self.edges, self.lines, self.scale, self.interval = net, lines, scale, interval
        self.places = taps.find(base, net.sites)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point, seen = self.point(t, x), {}
        low, high = self.interval
        if isinstance(point.alpha, float) and (point.alpha == 0.0 or not low <= 2.0 * point.lam <= high):
            return self.base(x, point, cond, call)

        def take(value: Tensor, at: taps.At) -> None:
            seen[at.site] = conditional(value, len(x), at)

        told = (call or Call()).changed(taps.Edit(self.places, dict.fromkeys(self.places, take)))
        estimate = trace(lambda x: self.base(x, point, cond, told), x)
        rest = self.edges(seen, point.t) - fit("the sketch", self.lines, x, call)
        slope = F.normalize(estimate.vjp(rest.square().flatten(1).sum(1)).flatten(1), dim=1).view_as(x)
        length = estimate.score.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))
        inside = onto(torch.as_tensor((2.0 * point.lam >= low) & (2.0 * point.lam <= high)), x)
        return add_score(estimate, -self.scale * inside * length * slope)


def sketch(
    denoise: Denoiser,
    net: EdgePredictor,
    lines: Tensor,
    scale: float = BETA,
    interval: tuple[float, float] = EARLY,
) -> Denoiser:
    """The denoiser led along the lines of a sketch. An evaluation costs one of the base and one pass back, where the guidance acts.

    Args:
        denoise: the model that the predictor was trained on, guided or not (then its conditional branch is looked at).
        net: the edge predictor.
        lines: (n or 1, 1, H, W) in [0, 1], white lines on black of the size of the pictures.
        scale: β; 0 is the model as it is.
        interval: the logsnr between which it leads.

    Raises:
        InputError: for a model of other weights, lines of another size or range; (when called) with gradients off.
    """
    check_base(denoise, net.base, "edge predictor")
    check_hint(lines, (1, *denoise.space.data_shape(denoise.shape)[1:]), "a sketch")
    small = F.interpolate(lines, tuple(denoise.shape[1:]), mode="area")
    return Sketched(denoise, net, small, scale, interval)


class Sketcher(Beside[EdgePredictor]):
    """What a run of the task "sketch" gives: ``rv.sample(sketcher(lines), 16, cond)``."""

    def __call__(
        self,
        lines: Tensor,
        scale: float = BETA,
        interval: tuple[float, float] = EARLY,
        on: Denoiser | None = None,
    ) -> Denoiser:
        """:func:`sketch` of the base, or of what is ``on`` it."""
        return sketch(self.base if on is None else on, self.net, lines, scale, interval)


class Sketching(Denoising):
    """Learns the edges of a picture from what a frozen model makes of it with noise.

    Args:
        model: both.
        times: the density of t.
        others: as of :class:`~reverie.diffusion.denoising.Denoising`.
    """

    def __init__(self, model: Sketcher, times: Any, **others: Any) -> None:
        super().__init__(model.base, times, **others)
        self.model = model
        self.recorded = taps.record(model.base, model.net.sites)
        base = Player(model.base.net, optim=None, average=False, train=False, saved="none")
        self.players = {"sketch": Player(model.net), "base": base}

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        x0, noise = self.pair(batch.x, rng)
        point = self.denoise.schedule.point(t).align(x0)
        with torch.no_grad():
            features = self.recorded(combine((point.alpha, point.sigma), (x0, noise)), point, cond).features
        assert features is not None
        lines = F.interpolate(edges(batch.x), x0.shape[2:], mode="area")
        return (self.model.net(features, point.t) - lines).square().flatten(1).mean(1)


def build(config: SketchConfig, spec: DataSpec, seed: int, folder: Path | None) -> Sketcher:
    """The base and a fresh edge predictor of its features."""
    base = config.teaching(spec, seed, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = EdgePredictor(base, config.sites, config.width)
    return Sketcher(base, net)


def task(config: SketchConfig, model: Sketcher, data: Dataset, held_out: Dataset) -> Sketching:
    """What trains it."""
    own = config.denoising
    return Sketching(model, times(own, model.base.schedule), drop=config.drop, held_out=unseen(held_out))
