"""Between the pictures of a GAN: paths from one to another, and the coarse styles of one with the fine ones of another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.families.drawing import labels_of
from reverie.families.gan import GAN
from reverie.families.stylegan import StyleGAN
from reverie.solve import slerp


@torch.no_grad()
def interpolate(gan: GAN, seeds: tuple[int, int], steps: int = 8, cond: Cond | None = None) -> Tensor:
    """Pictures from that of one seed to that of another, both ends included.

    Styles are joined by a straight line. z is N(0, I), whose draws nearly all lie on a sphere and the middle of two of them well inside,
    where the generator has seen nothing: they are joined by the great circle (Shoemake 1985). The noise of details stays that of the first.

    Args:
        gan: what paints.
        seeds: of the ends, each the sample that ``gan.sample(1, seed=…)`` draws.
        steps: pictures in all, at least 2.
        cond: for both ends, or one each where styles are joined.

    Returns:
        (steps, C, H, W) in [−1, 1].

    Raises:
        InputError: for fewer than two pictures, labels that are missing or cannot be joined.
    """
    if steps < 2:
        raise InputError(f"a path has two ends: steps is at least 2, got {steps}")
    label = _labels(gan, cond, 2)
    if not gan.net.straight and label is not None and label[0] != label[1]:
        raise InputError("only styles are joined across classes: give one label, or a model that paints by styles")
    z, noise = gan.inputs(Tape(sample_seeds(list(seeds), 2)))
    ends = gan.codes(z, label)
    join = torch.lerp if gan.net.straight else slerp
    codes = torch.cat([join(ends[:1], ends[1:], i / (steps - 1)) for i in range(steps)])
    one = None if label is None else label[:1].expand(steps)
    return gan.net.paint(codes, one, noise[:1].expand(steps, -1)).clamp(-1.0, 1.0)


@torch.no_grad()
def mix(
    gan: StyleGAN,
    coarse: Sequence[int],
    fine: Sequence[int],
    layer: int,
    coarse_cond: Cond | None = None,
    fine_cond: Cond | None = None,
) -> Tensor:
    """Pictures of the coarse styles of some seeds and the fine styles of others (Karras et al. 2019, figure 3).

    Args:
        gan: what paints by styles.
        coarse: seeds of the styles of the first layers, and of the noise.
        fine: seeds of those from ``layer`` on.
        layer: 0 (all fine) … the number of layers (all coarse).
        coarse_cond, fine_cond: one for all, or one a seed.

    Returns:
        (len(coarse), len(fine), C, H, W) in [−1, 1].

    Raises:
        InputError: for a model without styles, a layer that there is not, labels that are missing.
    """
    if not isinstance(gan, StyleGAN):
        raise InputError("only a StyleGAN paints by styles that can be mixed: train stylegan or stylegan2")
    if not 0 <= layer <= gan.net.layers:
        raise InputError(f"styles are mixed from a layer 0 to {gan.net.layers} on: got {layer}")
    (above, noise), (below, _) = (
        (gan.codes(z, _labels(gan, cond, len(z))), noise)
        for (z, noise), cond in (
            (gan.inputs(Tape(sample_seeds(list(seeds), len(seeds)))), cond)
            for seeds, cond in ((coarse, coarse_cond), (fine, fine_cond))
        )
    )
    rows, columns = len(above), len(below)
    first = torch.arange(gan.net.layers, device=above.device)[:, None] < layer
    codes = torch.where(first, above[:, None, None], below[None, :, None]).flatten(0, 1)
    pictures = gan.net.paint(codes, None, noise.repeat_interleave(columns, 0)).clamp(-1.0, 1.0)
    return pictures.unflatten(0, (rows, columns))


def _labels(gan: GAN, cond: Cond | None, n: int) -> Tensor | None:
    label = labels_of(cond, gan.conditions, n)
    return None if label is None else label.to(next(gan.net.parameters()).device)
