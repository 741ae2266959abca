"""Correspondence: which place of one picture is which place of another, by what a diffusion model says of both.

Tang et al., "Emergent Correspondence from Image Diffusion" (DIFT), NeurIPS 2023: a picture meets K noises, the maps of a block
on the way up are averaged, and the place whose feature has the largest cosine is the match. Zhang et al., "A Tale of Two
Features" (SD+DINO), NeurIPS 2023: features of several blocks are projected on the principal directions that both pictures
share, and joined with those of another encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.read.extract import features


def dift(
    denoise: Denoiser, images: Tensor, site: str, *, t: float, noises: int = 8, cond: Cond | None = None, seed: int = 0
) -> Tensor:
    """DIFT features (N, C, h, w): the mean over ``noises`` draws (K = 8, section 4) of one block's map at time ``t``.

    Raises:
        InputError: for an unknown site, images out of range, or no noise.
    """
    return features(denoise, images, site, t=t, noise=noises, cond=cond, pool=None, seed=seed)


def at_points(field: Tensor, points: Tensor, size: Sequence[int]) -> Tensor:
    """A map (C, h, w) read bilinearly at points (P, 2) given as (x, y) in pixels of a picture of ``size``: (P, C).

    The centre of pixel (0, 0) is the point (0, 0).
    """
    high, wide = size
    grid = (points.to(field) + 0.5) / field.new_tensor([wide, high]) * 2.0 - 1.0
    return F.grid_sample(field[None], grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T  # fmt: skip


def match(a: Tensor, b: Tensor, points: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The places in the second picture that match points of the first.

    Args:
        a, b: maps (C, h, w) of both; enlarged bilinearly to the pictures' size.
        points: (P, 2), (x, y) in pixels.
        size: (H, W) of the pictures.

    Returns:
        (P, 2) points, and the cosines (P,).
    """
    dense = F.normalize(F.interpolate(b[None], tuple(size), mode="bilinear", align_corners=False)[0].flatten(1), dim=0)
    cosine, place = (F.normalize(at_points(a, points, size), dim=1) @ dense).max(1)
    return torch.stack([place % size[1], place // size[1]], dim=1), cosine


class Dense(NamedTuple):
    """Matches of every place of the first map: (h, w, 2) as (x, y) in places of the second, cosines, and whether mutual."""

    place: Tensor
    cosine: Tensor
    mutual: Tensor


def dense(a: Tensor, b: Tensor) -> Dense:
    """The nearest place of a map (C, h, w) for each of another; mutual where each is the other's nearest."""
    u, v = (F.normalize(m.flatten(1), dim=0) for m in (a, b))
    similar = u.T @ v
    cosine, there = similar.max(1)
    back = similar.argmax(0)
    (h, w), width = a.shape[1:], b.shape[2]
    mutual = back[there] == torch.arange(h * w, device=back.device)
    return Dense(
        torch.stack([there % width, there // width], 1).reshape(h, w, 2), cosine.reshape(h, w), mutual.reshape(h, w)
    )


def co_pca(a: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Both maps (C, h, w) on the ``dim`` principal directions of the two together, so that they stay comparable.

    At full rank distances between places are kept, within and between the pictures.
    """
    both = torch.cat([a.flatten(1), b.flatten(1)], dim=1).T
    both = both - both.mean(0)
    directions = torch.linalg.svd(both, full_matrices=False).Vh[:dim]
    n, p = a[0].numel(), both @ directions.T
    return p[:n].T.reshape(-1, *a.shape[1:]), p[n:].T.reshape(-1, *b.shape[1:])


def fuse(
    pairs: Sequence[tuple[Tensor, Tensor]], other: tuple[Tensor, Tensor] | None = None, dim: int = 256, weight: float = 0.5
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Diffusion maps of several blocks, and those of a second encoder, as one pair of maps (section 3.3 of SD+DINO).

    Args:
        pairs: (map of the first picture, of the second) a block, each (C, h, w); all are enlarged to the largest size.
        other: the same of any other extractor, taken as it is.
        dim: directions kept a block.
        weight: share of the second encoder in the squared distance; half is the paper's.

    Returns:
        The fused maps (D, h, w); each half has unit length at every place, times the root of its share.
    """
    if not pairs:
        raise InputError("fuse joins the maps of at least one block: got none")
    size = max((a.shape[1:] for a, _ in pairs), key=lambda s: s[0] * s[1])
    reduced = [co_pca(a, b, min(dim, a.shape[0])) for a, b in pairs]
    ours = [F.normalize(torch.cat([_resized(pair[i], size) for pair in reduced]), dim=0) for i in (0, 1)]
    if other is None:
        return ours[0], ours[1]
    theirs = [F.normalize(_resized(m, size), dim=0) for m in other]
    joined = [torch.cat([(1.0 - weight) ** 0.5 * o, weight**0.5 * d]) for o, d in zip(ours, theirs, strict=True)]
    return joined[0], joined[1]


class PCK(NamedTuple):
    """Percentage of correct keypoints: over all points together, and the mean of each picture's own."""

    per_point: float
    per_image: float


def pck(found: Sequence[Tensor], truth: Sequence[Tensor], boxes: Sequence[float], alpha: float = 0.1) -> PCK:
    """The share of points within ``alpha`` times the longer side of the object's box.

    Args:
        found, truth: one tensor (P, 2) a picture, in pixels of the target picture.
        boxes: the longer side of each picture's object.

    Raises:
        InputError: when the numbers of pictures or points differ.
    """
    if not len(found) == len(truth) == len(boxes) or any(f.shape != g.shape for f, g in zip(found, truth, strict=True)):
        raise InputError("found, truth and boxes have one entry a picture, with equally many points")
    right = [
        (f.cpu().double() - g.cpu().double()).norm(dim=1) <= alpha * box
        for f, g, box in zip(found, truth, boxes, strict=True)
    ]
    return PCK(
        torch.cat(right).double().mean().item(), sum(r.double().mean().item() for r in right if len(r)) / len(right)
    )


Extractor = Callable[[Tensor], Tensor]
"""Pictures (N, C, H, W) to maps (N, D, h, w): any second encoder."""


def propagate(
    fields: Tensor, first: Tensor, *, context: int = 28, radius: int | None = 15, top: int = 15, temperature: float = 0.2
) -> Tensor:  # fmt: skip
    """Carry labels of the first frame of a video to the others (DIFT, section 5.3).

    Each place of a frame takes the labels of the ``top`` most similar places of the first frame and the last ``context`` ones, at most
    ``radius`` places away, weighted by ``softmax(cosine/temperature)``.

    Args:
        fields: maps (T, C, h, w) of the frames.
        first: (K, h, w), what to carry: masks, one channel a class, or heat maps, one a keypoint.
        context: frames before, besides the first.
        radius: in places; None is everywhere.
        top: neighbours.
        temperature: of their weights.

    Returns:
        (T, K, h, w); for masks take argmax over K, for keypoints its largest place.

    Raises:
        InputError: when the labels have another size than the maps.
    """
    frames, _, h, w = fields.shape
    if first.shape[1:] != (h, w):
        raise InputError(f"labels have the size of the maps, {h}x{w}: got {tuple(first.shape[1:])}")
    unit = F.normalize(fields.flatten(2), dim=1)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1).to(fields.device)
    far = (
        None if radius is None else (place[:, None] - place[None]).abs().amax(-1) > radius
    )  # (h·w, h·w), a square window
    labels = [first.flatten(1)]
    for now in range(1, frames):
        before = [0, *range(max(1, now - context), now)]
        similar = torch.cat([_near(unit[now].T @ unit[k], far) for k in before], dim=1)  # (places, before·places)
        value, where = similar.topk(min(top, similar.shape[1]), dim=1)
        weight = (value / temperature).softmax(1)
        known = torch.cat([labels[k] for k in before], dim=1)  # (K, before·places)
        labels.append((known[:, where] * weight).sum(-1))
    return torch.stack(labels).unflatten(2, (h, w))


def keypoints(points: Tensor, size: Sequence[int], spread: float = 0.5) -> Tensor:
    """Points (P, 2), (x, y) in places, as heat maps (P, h, w) to propagate; :func:`peaks` turns back."""
    y, x = (
        axis.to(points.device) for axis in torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    )
    square = (x - points[:, :1, None]).square() + (y - points[:, 1:, None]).square()
    return torch.exp(-0.5 * square / spread**2)


def peaks(heat: Tensor) -> Tensor:
    """The largest place of each heat map: (…, h, w) -> (…, 2) as (x, y)."""
    place = heat.flatten(-2).argmax(-1)
    return torch.stack([place % heat.shape[-1], place // heat.shape[-1]], dim=-1)


def _near(similar: Tensor, far: Tensor | None) -> Tensor:
    return similar if far is None else similar.masked_fill(far, -torch.inf)


def _resized(value: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(value[None], tuple(size), mode="bilinear", align_corners=False)[0]
