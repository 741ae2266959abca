"""RealFill (Tang et al., "RealFill: Reference-Driven Generation for Authentic Image Completion", SIGGRAPH 2024): a hole filled as it was.

A few references show the same scene, from elsewhere or at another time. A low-rank adapter of the model is trained on them and on the
picture itself, of which the error counts where it is known (section 3.2); then the model with the adapter fills the hole. A model that
fills holes (:mod:`reverie.diffusion.palette`) is shown each picture with a hole of its own, drawn anew each time; one that is shown
nothing learns the pictures as they are, and fills by blending (:mod:`reverie.edit.masked`). The paper draws 64 fillings and keeps those
with the most correspondences to the references; here they are drawn, and yours to choose from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import apply, unmerged
from reverie.adapt.training import Adapting, own, settled, trained
from reverie.core.batch import Batch
from reverie.core.condition import Cond, Image
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task
from reverie.core.tensors import check_range
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.palette import Shown, holes, restore
from reverie.edit.masked import masked, paste
from reverie.guide.pixels import as_mask, mask_of


class Filling(Task):
    """The base's own task on pictures of which a part is known; batches hold them as x and where they are as ``extra["known"]``.

    Args:
        model: the base and an adapter of it.
        cond: what it is told of all of them, if anything.
    """

    def __init__(self, model: Adapting, cond: Cond | None) -> None:
        beside = unmerged(model.base, model.adapter)
        denoising = own(beside)
        assert isinstance(denoising, Denoising) and isinstance(model.base, NetDenoiser)
        self.denoising, self.cond, self.shown = denoising, cond, fills(model.base)
        self.players = {
            "adapter": Player(model.adapter, average=False),
            "base": Player(beside.net, optim=None, average=False, train=False, saved="none"),
        }

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        known = batch.extra["known"]
        told = None if self.cond is None else self.cond.to(batch.x.device).expand(len(batch.x))
        if self.shown:
            left = known * holes(batch.x, rng).to(known)
            told = Shown(left * batch.x, left).cond()
        x0, noise = self.denoising.pair(batch.x, rng)
        estimate = self.denoising.estimate(x0, noise, self.denoising.times(rng.even("time")), told)
        whole = 1.0 - adaptive_max_pool2d(1.0 - known, x0.shape[-2:])  # a code is known where all of its pixels are
        return {"mse": self.denoising.squared(x0, noise, estimate, whole)}


def realfill(
    denoise: NetDenoiser,
    images: Tensor,
    mask: Tensor,
    references: Tensor,
    cond: Cond | None = None,
    n: int = 1,
    *,
    method: str = "lora",
    iterations: int = 500,
    rate: float | None = None,
    batch: int = 4,
    steps: int = 50,
    repeat: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Fill a hole of a picture with what references show of the same place; what is known stays, bit for bit. The model stays as it is.

    Args:
        denoise: the model, unguided: one that draws such pictures, or a run of the task "palette" that fills holes.
        images: one picture, (1, C, H, W) in [−1, 1]; what is in its hole is not looked at.
        mask: true or 1 where it is to be filled: (H, W), (1, H, W) or (1, 1, H, W).
        references: (N, C, H, W) in [−1, 1], one to five.
        cond: what the model is told of all of them.
        n: fillings to draw.
        method: one of :data:`reverie.adapt.METHODS` that changes weights.
        iterations, rate, batch: of the optimizer.
        steps: of the solver.
        repeat: of :func:`reverie.edit.masked`, for a model that is shown nothing.
        seed: of all randomness.
        settings: of the method, such as ``rank``.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for several pictures, references of another size, a mask that leaves nothing known or nothing to fill, or a model that
            restores something else than holes.
    """
    check_range(images, "images")
    check_range(references, "references")
    if len(images) != 1 or references.ndim != 4 or references.shape[1:] != images.shape[1:] or not len(references):
        raise InputError(
            f"one picture is filled by references of its size: got {tuple(images.shape)} and {tuple(references.shape)}"
        )
    images = images.to(denoise.device, torch.promote_types(images.dtype, torch.float32))
    known = 1.0 - mask_of(images, as_mask(mask)).amax(1, keepdim=True)
    if not 0.0 < float(known.mean()) < 1.0:
        raise InputError("the mask is 1 where the picture is to be filled, 0 where it is known: it needs both")
    if cond is not None and fills(denoise):
        raise InputError("a model that fills holes is told nothing but the picture: leave cond out")
    config = settled(method, settings)
    denoise.net.eval().requires_grad_(False)
    adapter = Adapter(config.name, fingerprint(denoise.net), config.changes(denoise.net, seed))
    pictures = torch.cat([references.to(images), known * images])
    where = torch.cat([known.new_ones(len(references), *known.shape[1:]), known])

    def feed(start: int, count: int) -> Batch:
        rows = torch.arange(start, start + count) % len(pictures)
        return Batch(pictures[rows], extra={"known": where[rows]})

    task = Filling(Adapting(denoise, adapter, None), cond)
    trained(task, adapter, feed, config, iterations, rate, batch, seed, str(denoise.device))
    model = apply(denoise, adapter)
    if fills(denoise):
        left = Shown(known * images, known)
        return paste(restore(model, left, n, steps=steps, seed=seed), images, mask)
    several = images.expand(n, -1, -1, -1)
    return masked(model, several, mask, cond, steps=steps, repeat=repeat, seed=seed)


def fills(denoise: NetDenoiser) -> bool:
    """Whether a model is shown pictures with holes.

    Raises:
        InputError: for one that is shown something else.
    """
    told = denoise.conditions.get("image")
    if told is None:
        return False
    if not isinstance(told, Image) or told.channels != denoise.shape[0] + 1 or len(denoise.conditions) > 1:
        raise InputError(
            "realfill takes a model that draws pictures, or one of Palette that fills holes (--op inpaint), without a reference and "
            "--augment"
        )
    return True
