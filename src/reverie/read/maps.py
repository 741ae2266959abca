"""Maps: what a network says inside about pictures, at one noise level, in one pass that ends after the last site asked for.

Everything that reads a diffusion model builds on this: x_t = α·x0 + σ·ε, one call, the values at named sites laid out as pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import SampleSeed, Tape
from reverie.core.schedules import HostPoint, Point
from reverie.core.tensors import combine, onto
from reverie.nets import taps
from reverie.nets.copies import sharing
from reverie.nets.layout import as_map

Noise = str | int | None
STREAM = "features"


def blocks(denoise: Denoiser | nn.Module) -> list[str]:
    """The sites of a network that are outputs of blocks, in the order they run."""
    return [s for s in taps.sites(denoise) if not s.endswith((".in", "attention")) and not s.startswith("skip.")]


def knowing(denoise: Denoiser | nn.Module) -> list[str]:
    """The blocks where knowledge of places usually lies: the first half of a U-Net's way up, the middle of a transformer."""
    every = blocks(denoise)
    up = [site for site in every if site.startswith(("up.", "up_blocks."))]
    return up[: len(up) // 2 + 1] if up else every[len(every) // 3 : len(every) - len(every) // 4]


def level(denoise: Denoiser, logsnr: float | None, t: float | None) -> HostPoint:
    """The point of a path with this ``logsnr``, or at this ``t``.

    Raises:
        InputError: unless exactly one is given, and t lies in [0, 1].
    """
    if (logsnr is None) == (t is None):
        raise InputError("say how noisy the pictures are read, as logsnr or as t: one of the two")
    if t is None:
        assert logsnr is not None
        return denoise.schedule.at(logsnr / 2.0)
    if not 0.0 <= t <= 1.0:
        raise InputError(f"t is a time from 0 (data) to 1 (noise): got {t}")
    return denoise.schedule.point(float(t))


def check_images(images: Any, shape: Sequence[int], what: str = "images") -> None:
    """Raise an :class:`InputError` unless ``images`` is a float tensor (N, C, H, W) of the model's shape with values in [−1, 1]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape):
        given = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"{what} are a tensor (N, {', '.join(map(str, shape))}) for this model: got {given}")
    if not images.is_floating_point():
        raise InputError(f"{what} are floats in [−1, 1]: got {images.dtype}; for bytes take images.float() / 127.5 − 1")
    if not len(images):
        raise InputError(f"there are no {what}: the tensor has length 0")
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{what} hold a value that is not finite")
    if low < -1.01 or high > 1.01:
        raise InputError(f"{what} are in [−1, 1]: got values from {low:.3g} to {high:.3g}; scale them first")
    if low >= 0.0 and high > low:
        raise InputError(
            f"{what} are in [−1, 1]: got values from {low:.3g} to {high:.3g}, which looks like [0, 1]; take 2 · images − 1"
        )


def draws(noise: Noise, rows: Sequence[SampleSeed], shape: Sequence[int], shared: SampleSeed) -> list[Tensor | None]:
    """The noises that pictures meet: one for all ("shared"), one each ("fresh"), K each (K), none (None).

    Args:
        noise: which of these.
        rows: the address of each picture.
        shape: of one picture.
        shared: the address of the common noise.

    Returns:
        One tensor (B, …) or (1, …) a pass of the network.

    Raises:
        InputError: for anything else.
    """
    if noise is None:
        return [None]
    if noise == "shared":
        return [Tape([shared]).draw(STREAM, 0, shape)]
    if noise == "fresh":
        return [Tape(rows).draw(STREAM, 0, shape)]
    if isinstance(noise, int) and not isinstance(noise, bool) and noise >= 1:
        return [Tape(rows).draw(STREAM, k, shape) for k in range(noise)]
    raise InputError(f"noise is 'shared', 'fresh', how many to average over, or None: got {noise!r}")


def noisy(x0: Tensor, point: HostPoint, noise: Tensor | None) -> Tensor:
    """``α·x0 + σ·ε``; without noise ``α·x0``, the mean of x_t."""
    if noise is None:
        return point.alpha * x0
    return combine((point.alpha, point.sigma), (x0, onto(noise, x0).expand_as(x0)))


def maps(
    denoise: Denoiser, x_t: Tensor, point: Point, sites: Sequence[str], cond: Cond | None = None
) -> dict[str, Tensor]:
    """What the network says at ``sites`` of a noisy state, as maps (B, C, h, w); differentiable, and early out.

    Raises:
        InputError: for an unknown site, with the nearest names; for a guided denoiser, which runs several states at once.
    """
    return laid_out(taps.features(denoise, sites, x_t, point, cond), sites, x_t)


def laid_out(seen: Mapping[str, Tensor], sites: Sequence[str], x_t: Tensor) -> dict[str, Tensor]:
    """What taps saw of a state (B, C, H, W), as maps (B, c, h, w).

    Raises:
        InputError: for a guided denoiser, which runs several states at once.
    """
    if any(len(seen[site]) != len(x_t) for site in sites):
        raise InputError("read the model itself: a guided one runs its branches as one batch")
    return {site: as_map(seen[site], x_t.shape[-2:]) for site in sites}


def of_module(module: nn.Module, images: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    """What any other module (the encoder of a VAE, an extractor) says of pictures, at the paths of its own sub-modules.

    Args:
        module: called as ``module(images)``.
        images: (B, C, H, W).
        sites: dotted paths, as ``named_modules`` gives them.

    Returns:
        By site the output, as maps (B, C, h, w) where it is one; differentiable.

    Raises:
        InputError: for a path that the module does not have, with the nearest.
    """
    from reverie.core.errors import unknown

    known, seen = dict(module.named_modules()), {}
    for site in sites:
        if site not in known:
            raise unknown("site", site, [name for name in known if name])
    watched = sharing(module, sites)
    for site in sites:
        hook = lambda _, __, out, site=site: seen.__setitem__(site, out)  # noqa: E731
        watched.get_submodule(site).register_forward_hook(hook)
    watched(images)
    return {site: as_map(seen[site], images.shape[-2:]) for site in sites}


@torch.no_grad()
def attention(
    denoise: Denoiser,
    images: Tensor,
    sites: str | Sequence[str],
    *,
    logsnr: float | None = None,
    t: float | None = None,
    noise: Noise = "shared",
    cond: Cond | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Attention maps: where each place looks (self), or which word it listens to (cross).

    Args:
        denoise: a denoiser whose network attends.
        images: (B, C, H, W) in [−1, 1].
        sites: of attentions, such as "blocks.3.attention".
        logsnr, t: the noise level, one of them.
        noise: "shared", "fresh" or None as in :func:`reverie.read.features`; K averages.
        cond: conditions of the pictures.
        seed: of the noise.

    Returns:
        By site the probabilities (B, heads, queries, keys); rows sum to 1.

    Raises:
        InputError: for a site that is no attention, or bad images.
    """
    sites = [sites] if isinstance(sites, str) else list(sites)
    check_images(images, denoise.space.data_shape(denoise.shape))
    point, x0 = level(denoise, logsnr, t), denoise.space.encode(images.to(denoise.device))
    total: dict[str, Tensor] = {}

    def look(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        total[at.site] = total.get(at.site, 0.0) + at.probabilities(q, k)
        return at.attend(q, k, v)

    passes = draws(noise, [(seed, i) for i in range(len(images))], x0.shape[1:], (seed, 0))
    watched = taps.attention(denoise, dict.fromkeys(sites, look))
    for each in passes:
        watched(noisy(x0, point, each), point, cond)
    return {site: total[site] / len(passes) for site in sites}
