"""Label-efficient segmentation: what a diffusion model knows of each pixel, read by an ensemble of small networks.

Baranchuk et al., "Label-Efficient Semantic Segmentation with Diffusion Models", ICLR 2022 (arXiv:2112.03126). A pixel's feature
is what several decoder blocks say at its place at several times, under one noise that all pictures share. Ten perceptrons learn
from the pixels of a few labelled pictures; a pixel gets the class most of them vote for, and their disagreement is the
uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.data import order
from reverie.learn.descend import descend
from reverie.read.extract import features

IGNORE = -1
"""Label of a pixel that nobody has labelled."""
PATIENCE, CHECK, LEAST, TOP = 50, 3, 2000, 0.1
"""A member stops after so many batches without a new lowest loss, but not in its first epochs, nor its first batches: the paper's epochs
have tens of thousands of batches, those of a few small pictures some dozens. The share of pixels that a picture is scored by."""
T = (0.05, 0.15, 0.25)
LEAST_PIXELS = 20
"""Labelled pixels that a class must have in a training picture, of the paper's pictures of 256x256 (Baranchuk et al. 2022, their code)."""


def pixels(
    denoise: Denoiser, images: Tensor, sites: Sequence[str], t: Sequence[float] = T, seed: int = 0, batch_size: int = 64
) -> Tensor:
    """The feature of every pixel: maps of all sites and times, enlarged bilinearly and joined, (N, D, H, W).

    Args:
        denoise: what to read.
        images: (N, C, H, W) in [−1, 1].
        sites: decoder blocks; the paper takes five in the middle of the way up.
        t: times; 50, 150 and 250 of 1000 in the paper.
        seed: of the noise that all pictures share: give training and test pictures the same.

    Raises:
        InputError: for an unknown site or bad images.
    """
    found = features(
        denoise, images, list(sites), t=list(t), noise="shared", pool=None, seed=seed, batch_size=batch_size
    )
    size = images.shape[-2:]
    return torch.cat([F.interpolate(found[c], size, mode="bilinear", align_corners=False) for c in found], dim=1)


def without_specks(masks: Tensor, least: int = LEAST_PIXELS) -> Tensor:
    """Training masks (N, H, W) without small annotations: :data:`IGNORE` where a class has fewer than ``least`` pixels in a picture.

    Every picture is counted for itself, at the size it is read at.
    """
    kept = masks.clone()
    for mask in kept:
        classes, counts = mask.unique(return_counts=True)
        mask[torch.isin(mask, classes[counts < least])] = IGNORE
    return kept


class Segmented(NamedTuple):
    """Segmentation of pictures.

    * ``classes`` (N, H, W) int64: what most members say; the lowest class where two are level.
    * ``uncertainty`` (N, H, W): the Jensen-Shannon divergence of the members in nats.
    * ``score`` (N,): its mean over the tenth of the pixels that is most uncertain: a high one marks a picture to label.
    * ``members`` (M, N, H, W): what each member says.
    """

    classes: Tensor
    uncertainty: Tensor
    score: Tensor
    members: Tensor


class Ensemble(nn.Module):
    """Independent pixel perceptrons d → 128 → 32 → K (twice as wide from 30 classes on), trained side by side.

    Args:
        dim: features of a pixel.
        classes: how many.
        members: how many perceptrons.
        seed: of their weights and the order of the pixels.
    """

    def __init__(self, dim: int, classes: int, members: int = 10, seed: int = 0) -> None:
        super().__init__()
        self.classes, self.seed = classes, seed
        hidden = (128, 32) if classes < 30 else (256, 128)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(_perceptron(dim, hidden, classes) for _ in range(members))

    def fit(self, features: Tensor, masks: Tensor, batch: int = 64, epochs: int = 100, lr: float = 1e-3) -> None:
        """Learn from labelled pictures: cross-entropy on pixels, until a member has not improved for 50 batches (after 2,000).

        Args:
            features: (N, D, H, W).
            masks: (N, H, W) int64 classes, :data:`IGNORE` where unknown.
            batch: pixels a step, 64 in the paper.
            epochs: at most so many passes over the pixels.
            lr: of Adam.

        Raises:
            InputError: for masks of another shape, or with a class the ensemble does not have.
        """
        x, y = self._labelled(features, masks)
        steps = max(1, epochs * len(y) // batch)
        for number, member in enumerate(self.members):
            _train(member, x, y, 1000 * self.seed + number, batch, steps, lr)
        self.eval()

    @torch.no_grad()
    def forward(self, features: Tensor) -> Segmented:
        """Segment pictures by their pixels' features (N, D, H, W)."""
        n, _, h, w = features.shape
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        logs = torch.stack([member(flat).log_softmax(1) for member in self.members])  # (M, pixels, K)
        said = logs.argmax(2)
        votes = F.one_hot(said, self.classes).sum(0)
        mean = logs.exp().mean(0)
        entropy = -(mean * mean.clamp_min(1e-12).log()).sum(1)
        uncertainty = (entropy + (logs.exp() * logs).sum(2).mean(0)).clamp_min(0.0).reshape(n, h, w)
        top = uncertainty.flatten(1).topk(max(1, round(TOP * h * w)), dim=1).values.mean(1)
        return Segmented(votes.argmax(1).reshape(n, h, w), uncertainty, top, said.reshape(-1, n, h, w))

    def _labelled(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        if masks.shape != (len(features), *features.shape[-2:]):
            raise InputError(
                f"masks are (N, H, W), here {(len(features), *features.shape[-2:])}: got {tuple(masks.shape)}"
            )
        known = masks != IGNORE
        y = masks[known]
        if not len(y) or int(y.min()) < 0 or int(y.max()) >= self.classes:
            raise InputError(f"masks hold classes 0 to {self.classes - 1}, or {IGNORE} where nothing is known")
        return features.permute(0, 2, 3, 1)[known], y


def miou(predicted: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over classes of intersection over union, counted over the whole data set; unlabelled pixels and absent classes left out."""
    known = truth != IGNORE
    joint = torch.bincount(truth[known] * classes + predicted[known], minlength=classes**2).reshape(classes, classes)
    both, either = joint.diagonal(), joint.sum(0) + joint.sum(1) - joint.diagonal()
    there = joint.sum(1) > 0
    return (both[there] / either[there]).cpu().double().mean().item()


def _perceptron(dim: int, hidden: tuple[int, int], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((dim, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after)]
    layers.append(nn.Linear(hidden[-1], classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    return nn.Sequential(*layers)


def _train(member: nn.Module, x: Tensor, y: Tensor, seed: int, batch: int, steps: int, lr: float) -> None:
    """Train one member."""
    member.train()
    best, since, epoch = float("inf"), 0, len(y) // batch

    def loss(step: int) -> Tensor:
        rows = order.indices(seed, step * batch, min(batch, len(y)), len(y))
        return F.cross_entropy(member(x[rows]), y[rows])

    def stop(step: int, value: float) -> bool:
        nonlocal best, since
        best, since = (value, 0) if value < best else (best, since + 1)
        return step > max(CHECK * epoch, LEAST) and since > PATIENCE

    optimizer = torch.optim.Adam(member.parameters(), lr=lr)
    descend(optimizer, loss, steps, label="training a pixel classifier", cosine=False, stop=stop)
