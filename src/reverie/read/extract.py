"""Features: the insides of a network, over a whole data set, at several sites and noise levels at once.

    feats = rv.read.features(denoise, images, sites=["down.2.1", "middle.0"], logsnr=[6.0, 2.0])
    feats["middle.0", 2.0]                                                   # (N, C)

Each batch of pictures is noised once and passes through the network once a noise level, as far as the last site. The noise of picture i
depends on the seed and on i, never on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.progress import Progress
from reverie.core.schedules import HostPoint
from reverie.data import ImageSet
from reverie.nets import taps
from reverie.read.maps import Noise, blocks, check_images, draws, laid_out, level, noisy
from reverie.read.store import Cell, Features, Kept, Stored

Levels = float | Sequence[float]


@overload
def features(
    denoise: Denoiser, images: Tensor | ImageSet, sites: str, *, logsnr: float, t: None = None, noise: Noise = "shared",
    cond: Cond | None = None, pool: int | None = 1, seed: int = 0, batch_size: int = 64, out: None = None, shard: int = 1024,
) -> Tensor: ...  # fmt: skip
@overload
def features(
    denoise: Denoiser, images: Tensor | ImageSet, sites: str, *, logsnr: None = None, t: float, noise: Noise = "shared",
    cond: Cond | None = None, pool: int | None = 1, seed: int = 0, batch_size: int = 64, out: None = None, shard: int = 1024,
) -> Tensor: ...  # fmt: skip
@overload
def features(
    denoise: Denoiser, images: Tensor | ImageSet, sites: str | Sequence[str] | None = None, *, logsnr: Levels | None = None,
    t: Levels | None = None, noise: Noise = "shared", cond: Cond | None = None, pool: int | None = 1, seed: int = 0,
    batch_size: int = 64, out: str | Path | None = None, shard: int = 1024,
) -> Features: ...  # fmt: skip
@torch.no_grad()
def features(
    denoise: Denoiser,
    images: Tensor | ImageSet,
    sites: str | Sequence[str] | None = None,
    *,
    logsnr: Levels | None = None,
    t: Levels | None = None,
    noise: Noise = "shared",
    cond: Cond | None = None,
    pool: int | None = 1,
    seed: int = 0,
    batch_size: int = 64,
    out: str | Path | None = None,
    shard: int = 1024,
) -> Features | Tensor:
    """What a network says of pictures at named sites and noise levels.

    Args:
        denoise: a denoiser, not guided.
        images: (N, C, H, W) in [−1, 1], or a data set.
        sites: names out of ``rv.taps.sites(denoise)``; every block by default.
        logsnr, t: the noise levels, as one of the two.
        noise: "shared", one noise for all pictures; "fresh", one each; K, the mean over K each; None, the clean α·x0.
        cond: conditions, one or one a picture; the null without.
        pool: averaged to this many places a side, 1 for vectors; None for the whole maps.
        seed: of the noise.
        batch_size: pictures a pass.
        out: a folder to stream to, in which a broken-off reading goes on where it stopped; memory otherwise.
        shard: pictures a file of it.

    Returns:
        By (site, level) a tensor (N, C) for ``pool=1``, (N, C, p, p) for ``pool=p``, (N, C, h, w) for ``pool=None``; float32. One site
        and one level that are not lists give the tensor itself, if it is not streamed.

    Raises:
        InputError: for an unknown site (with the nearest names), images of another shape or range, conditions of another length, or a
            folder that holds other features.
    """
    chosen = blocks(denoise) if sites is None else [sites] if isinstance(sites, str) else list(dict.fromkeys(sites))
    given = logsnr if t is None else t
    levels = tuple(map(float, given)) if isinstance(given, Sequence) else () if given is None else (float(given),)
    if not levels or not chosen or (logsnr is not None and t is not None):
        raise InputError("name at least one site, and the noise levels as logsnr or as t")
    if pool is not None and pool < 1:
        raise InputError(f"pool is how many places a side are left, at least 1, or None for all: got {pool}")
    if cond is not None and len(cond) not in (1, len(images)):
        raise InputError(
            f"got conditions for {len(cond)} pictures, there are {len(images)}: give one, or one a picture"
        )
    shape = denoise.space.data_shape(denoise.shape)
    if isinstance(images, Tensor):
        check_images(images, shape)
    elif images.shape != shape:
        raise InputError(f"{images.name} has pictures of shape {images.shape}, the model reads {shape}")
    points = {at: level(denoise, None, at) if logsnr is None else level(denoise, at, None) for at in levels}
    draws(noise, [], (1,), (seed, 0))  # a bad kind of noise fails before any work, as an unknown site does
    cells: list[Cell] = [(site, at) for at in levels for site in chosen]
    reader = _Reader(taps.record(denoise, chosen, stop=True), chosen, points, noise, pool, seed, len(images))
    with Progress("reading features", len(images), "pictures") as bar:
        if out is None:
            kept: Features = Kept(cells, len(images))
        else:
            about = {
                "sites": chosen, "levels": list(levels), "unit": "logsnr" if t is None else "t", "noise": noise, "pool": pool,
                "seed": seed, "images": len(images), "shard": shard, "model": _fingerprint(denoise),
                "data": _fingerprint_of(images), "cond": None if cond is None else repr(cond),
            }  # fmt: skip
            kept = Stored.create(Path(out), about)
        for part in kept.missing(shard if out is not None else len(images)):
            kept.write(part, _batches(reader, images, cond, part, batch_size, bar))
        bar.done = len(images)
    if out is None and isinstance(sites, str) and not isinstance(given, Sequence):
        return kept[cells[0]]
    return kept


def _batches(
    reader: _Reader, images: Tensor | ImageSet, cond: Cond | None, part: range, size: int, bar: Progress
) -> Iterator[tuple[range, Mapping[Cell, Tensor]]]:
    for start in range(part.start, part.stop, size):
        rows = range(start, min(start + size, part.stop))
        some = slice(rows.start, rows.stop)
        pictures = images[some] if isinstance(images, Tensor) else images.batch(rows).x
        yield rows, reader(pictures, rows, None if cond is None else cond.expand(reader.n).index(some))
        bar.advance(len(rows))


@dataclass(frozen=True)
class _Reader:
    """One batch of pictures to the features of every cell; ``denoise`` records them."""

    denoise: Denoiser
    sites: Sequence[str]
    points: Mapping[float, HostPoint]
    noise: Noise
    pool: int | None
    seed: int
    n: int

    def __call__(self, pictures: Tensor, rows: range, cond: Cond | None) -> dict[Cell, Tensor]:
        x0 = self.denoise.space.encode(pictures.to(self.denoise.device))
        passes = draws(self.noise, [(self.seed, i) for i in rows], x0.shape[1:], (self.seed, 0))
        found: dict[Cell, Tensor] = {}
        for at, point in self.points.items():
            for noise in passes:
                x_t = noisy(x0, point, noise)
                seen = self.denoise(x_t, point, cond).features or {}
                for site, value in laid_out(seen, self.sites, x_t).items():
                    value = pooled(value, self.pool).float()
                    found[site, at] = found[site, at] + value if (site, at) in found else value
        return {cell: (value / len(passes)).cpu() for cell, value in found.items()}


def pooled(value: Tensor, pool: int | None) -> Tensor:
    """Maps (B, C, h, w) averaged to (B, C) for 1, to (B, C, p, p) for p, as they are for None."""
    if pool is None:
        return value
    return value.mean((2, 3)) if pool == 1 else F.adaptive_avg_pool2d(value, pool)


def _fingerprint(denoise: Denoiser) -> str:
    """A short name of the weights: features of another model must not continue a folder."""
    from hashlib import blake2b

    digest = blake2b(digest_size=8)
    for name, value in getattr(denoise, "net", torch.nn.Module()).state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_of(images: Tensor | ImageSet) -> str:
    from hashlib import blake2b

    some = range(0, len(images), max(1, len(images) // 16))
    pictures = images[list(some)] if isinstance(images, Tensor) else images.batch(some).x
    return blake2b(pictures.detach().float().cpu().numpy().tobytes(), digest_size=8).hexdigest()
