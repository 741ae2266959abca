"""A closed-form first estimate told by a caption: a Gaussian around what Gaussian process regression expects of a picture so called.

Pictures that are called alike look alike. With the cosine c between n-grams of two captions and the kernel k = exp(p·(c − 1)), the mean of
a picture given its caption y is that of a Gaussian process (Rasmussen & Williams 2006, eq. 2.25),

    μ(y) = m + k(y)ᵀ·A,    A = (K + λI)⁻¹·(X − m),

and the picture lies around it as training pictures lie around what the others say of them, which has a closed form (eq. 5.12): the
exact denoiser is that of ``N(μ(y), Σ)``. Beside its estimate the network may be shown the pictures of the nearest captions themselves, as
a retrieval-augmented generator is (Chen et al., "Re-Imagen: retrieval-augmented text-to-image generator", ICLR 2023): a mean is blurred,
and a picture is not. While the network learns, each picture's own caption is left out, so that it corrects the same errors, and sees the
same neighbours, for captions that it knows as for new ones. n-grams are a string kernel (Lodhi et al. 2002) in hashed coordinates
(Weinberger et al. 2009): no text encoder is needed, and none is in the way.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from reverie.core.condition import Cond, Conditions, Vector
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.spelling import GRAMS, WIDTH
from reverie.nets.precision import KeepsPrecision
from reverie.nets.prior import Prior

POWERS, RIDGES = (2.0, 4.0, 6.0), (0.03, 0.1, 0.3, 1.0)
"""Of the kernel and of the noise, among which the least error of pictures left out decides."""
FARTHEST = -2.0
"""Below every cosine."""


class CaptionPrior(KeepsPrecision, nn.Module):
    """A low-rank Gaussian around the mean that a caption says, and one around the mean of all where there is none.

    Buffers only, filled by :meth:`fit` and stored with the weights.

    Args:
        captions: as many as are remembered, each with what it adds to the mean.
        shape: of a sample, (C, H, W).
        rank: principal axes of each Gaussian.
        neighbours: pictures of nearest captions that the network is shown; these are remembered too.

    Raises:
        InputError: for fewer captions than neighbours.
    """

    conditions: ClassVar[Conditions] = {GRAMS: Vector(WIDTH)}
    known: Tensor
    pictures: Tensor
    added: Tensor
    mean: Tensor
    power: Tensor
    inverse: Tensor
    share = staticmethod(Prior.share)

    def __init__(self, captions: int, shape: tuple[int, ...], rank: int, neighbours: int = 0) -> None:
        super().__init__()
        if neighbours > captions:
            raise InputError(
                f"{neighbours} neighbours among {captions} captions: remember more captions, or show fewer"
            )
        d, self.neighbours = math.prod(shape), neighbours
        self.untold, self.around = Prior(1, shape, rank), Prior(1, shape, rank)
        self.register_buffer("known", torch.zeros(captions, WIDTH))
        self.register_buffer("pictures", torch.zeros(captions if neighbours else 0, *shape))
        self.register_buffer("added", torch.zeros(captions, d))
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("power", torch.ones(()))
        self.register_buffer("inverse", torch.zeros(0, 0), persistent=False)

    @torch.no_grad()
    def fit(self, x: Tensor, grams: Tensor) -> None:
        """The regression with the kernel and the noise that err least on pictures left out, and the spread of these errors.

        Of more pictures than are remembered, every so-many-th.

        Args:
            x: clean samples, (N, C, H, W).
            grams: of the caption of each, (N, WIDTH).
        """
        self.untold.fit(x)
        step = -(-len(x) // len(self.known))
        x, grams = x[::step].cpu(), normalize(grams[::step].cpu().double(), dim=1)
        centred = x.flatten(1).double()
        mean = centred.mean(0)
        centred -= mean
        least = math.inf
        for power in POWERS:
            values, axes = torch.linalg.eigh((power * (grams @ grams.T - 1)).exp())
            inside = axes.T @ centred
            for ridge in RIDGES:
                gain = 1 / (values + ridge)
                added = axes @ (gain[:, None] * inside)
                left = added / (axes.square() @ gain)[:, None]
                if (error := float(left.square().mean())) < least:
                    least, errors, kept, inverse = error, left, added, (axes * gain) @ axes.T
                    self.power.fill_(power)
        self.around.fit(errors.view(x.shape))
        self.known.zero_()[: len(x)] = grams
        self.added.zero_()[: len(x)] = kept
        if self.neighbours:
            self.pictures.zero_()[: len(x)] = x
        self.mean.copy_(mean)
        self.inverse = inverse.to(self.mean)

    def expected(self, grams: Tensor) -> Tensor:
        """What the mean picture of a caption is, (B, WIDTH) -> (B, d); in training without what its own picture said."""
        likeness = (self.power * (self._cosine(grams) - 1)).exp()
        n = len(self.inverse)
        if self.training and n:  # k(y)ᵀ·A of the others: A − G_j·A_j/G_jj, with G = (K + λI)⁻¹ and its row j
            own = likeness[:, :n].argmax(1, keepdim=True)
            row = self.inverse[own[:, 0]]
            likeness = likeness.scatter_add(1, own, -(likeness[:, :n] * row).sum(1, keepdim=True) / row.gather(1, own))
        return self.mean + likeness @ self.added

    def nearest(self, grams: Tensor) -> Tensor:
        """The pictures of the nearest captions, (B, WIDTH) -> (B, neighbours·C, H, W); in training without its own."""
        cosine = self._cosine(grams).masked_fill(~self.known.any(1), FARTHEST)
        if self.training:
            cosine = cosine.scatter(1, cosine.argmax(1, keepdim=True), FARTHEST)
        return self.pictures[cosine.topk(self.neighbours, dim=1).indices].flatten(1, 2)

    def shown(self, first: Estimate, cond: Cond | None) -> Tensor:
        """What the network is shown: the estimate of clean data and behind it the neighbours, zeros where no caption is told."""
        x0 = first.x0
        if not self.neighbours:
            return x0
        near = x0.new_zeros(len(x0), self.neighbours * x0.shape[1], *x0.shape[2:])
        if cond is not None and GRAMS in cond:
            entry = cond[GRAMS]
            away = near if entry.null is None else self.nearest(entry.null).to(near)
            near = torch.where(entry.present.reshape(-1, 1, 1, 1), self.nearest(entry.value).to(near), away)
        return torch.cat([x0, near], dim=1)

    def forward(self, x: Tensor, point: Point, cond: Cond | None = None) -> Estimate:
        """The exact denoiser of the Gaussian that the captions say.

        Args:
            x: noisy samples, (B, C, H, W).
            point: where on the path they lie.
            cond: may hold the n-grams of captions.
        """
        untold = self.untold(x, point)
        if cond is None or GRAMS not in cond:
            return untold
        entry = cond[GRAMS]
        away = untold.out if entry.null is None else self._told(x, point, entry.null).out
        told = self._told(x, point, entry.value)
        present = entry.present.reshape(-1, *(1,) * (x.ndim - 1))
        return Estimate(x, torch.where(present, told.out, away), told.pair, point)

    def _cosine(self, grams: Tensor) -> Tensor:
        return normalize(grams.to(self.known.dtype), dim=1) @ self.known.T

    def _told(self, x: Tensor, point: Point, grams: Tensor) -> Estimate:
        mean = self.expected(grams).view(-1, *x.shape[1:]).to(x.dtype)
        around = self.around(x - point.alpha * mean, point)
        return Estimate(x, around.out - mean, around.pair, point)  # E[ε − x0] = E[ε − (x0 − μ)] − μ
