"""Palette: restoration learned, with the damaged picture shown to the network beside the noise.

Saharia et al., "Palette: Image-to-Image Diffusion Models", SIGGRAPH 2022. The network reads [x_t; y] along the channels and is trained by
the squared error; of a picture with a hole the error is taken in the hole, and what is known is kept as it is (section 4). Here a hole is
zero and a channel tells it from grey, where the paper fills it with noise. y may carry noise of a level s that the network is told,
(1 − s)·y + s·ε (Ho et al., "Cascaded Diffusion Models", JMLR 2022, section 4.2; Saharia et al., "Imagen", 2022, section 2.4), which of
super-resolution is noise of the small picture: a stage that was trained with it forgives what the stage before drew wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie import nets
from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Preview
from reverie.core.tensors import onto
from reverie.diffusion.building import HELD_OUT, schedule_of, solving, times
from reverie.diffusion.conditioned import PaletteConfig
from reverie.diffusion.config import RestoreConfig
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.jpeg import jpeg
from reverie.diffusion.showing import COLUMNS, drawn
from reverie.inverse.operators import Colourise, SuperResolution
from reverie.solve import Sampler
from reverie.solve.sampling import sample

LEVEL = "level"
"""The condition by which a network is told the noise in what it is shown."""
QUALITY = (5, 30)
"""Of JPEG, least and most (section 4.4)."""
HOLES = ("inpaint", "uncrop")


class Shown(NamedTuple):
    """What is left of pictures, ``picture`` (B, C, H, W), and where they are ``known``, (B, 1, H, W) of zeros and ones; None everywhere.

    Pictures that were smaller by a ``factor`` have each of their pixels repeated, factor × factor.
    """

    picture: Tensor
    known: Tensor | None = None
    factor: int = 1

    def noise(self, rng: Draws) -> Tensor:
        """Standard normals to add to the pictures, (B, C, H, W): one for each pixel that they had, repeated as it is."""
        channels, *size = self.picture.shape[1:]
        return SuperResolution(self.factor).pinv(rng.normal("augment", (channels, *(n // self.factor for n in size))))

    def cond(self, level: Tensor | None = None, noise: Tensor | None = None, reference: Tensor | None = None) -> Cond:
        """The conditions of a model of Palette.

        Args:
            level: s, (B,) in [0, 1], with what :meth:`noise` gives; for models that are told it.
            reference: the second pictures, for models that are shown them.
        """
        picture = self.picture
        if level is not None and noise is not None:
            s = onto(level, picture).reshape(-1, 1, 1, 1)
            picture = (1.0 - s) * picture + s * onto(noise, picture)
            picture = picture if self.known is None else picture * self.known
        parts = [part for part in (picture, self.known, reference) if part is not None]
        told = {} if level is None else {LEVEL: onto(level, picture)[:, None]}
        return Cond(image=torch.cat(parts, dim=1), **told)

    def kept(self, images: Tensor) -> Tensor:
        """The images with what is known in its place."""
        return images if self.known is None else torch.where(self.known == 1, self.picture, images)


Damage = Callable[[Tensor, Draws], Shown]
"""(x, rng) -> what is left of pictures (B, C, H, W) in [−1, 1]."""


def damage(op: str, factor: int = 4) -> Damage:
    """What happens to pictures in training, by its name in :class:`~reverie.diffusion.conditioned.PaletteConfig`."""
    return {
        "inpaint": lambda x, rng: holed(x, holes(x, rng)),
        "uncrop": lambda x, rng: holed(x, inside(x, rng)),
        "colourise": lambda x, rng: grey(Colourise()(x)),
        "jpeg": _compressed,
        "superres": lambda x, rng: small(SuperResolution(factor)(x), factor),
    }[op]


def holed(x: Tensor, known: Tensor) -> Shown:
    """Pictures with holes where ``known`` (B or 1, 1, H, W) is 0."""
    known = onto(known, x).expand(len(x), -1, -1, -1)
    return Shown(known * x, known)


def grey(y: Tensor) -> Shown:
    """Grey pictures (B, 1, H, W), for models of colours."""
    return Shown(y.expand(-1, 3, -1, -1))


def small(y: Tensor, factor: int) -> Shown:
    """Small pictures, their pixels repeated."""
    return Shown(SuperResolution(factor).pinv(y), factor=factor)


def _compressed(x: Tensor, rng: Draws) -> Shown:
    low, high = QUALITY
    return Shown(jpeg(x, (low + (high + 1 - low) * rng.uniform("quality")).floor()))


def holes(x: Tensor, rng: Draws) -> Tensor:
    """Where pictures stay known, (B, 1, H, W): all but a box in half of them, all but blots in the others, a tenth to two thirds."""
    field = F.interpolate(rng.normal("blots", (1, 5, 5)), x.shape[-2:], mode="bicubic")
    share = (0.1 + 0.55 * rng.uniform("share")).float()
    ranks = field.flatten(1).argsort(1).argsort(1).reshape(field.shape) / field[0].numel()
    blots = ranks >= share.reshape(-1, 1, 1, 1)
    side = share.sqrt()
    rows, columns = (
        (_line(n) - (rng.uniform(way) * (1.0 - side)).float()[:, None]) / side[:, None]
        for n, way in zip(x.shape[-2:], ("down", "right"), strict=True)
    )
    within = [(line >= 0.0) & (line < 1.0) for line in (rows, columns)]
    box = ~(within[0][:, None, :, None] & within[1][:, None, None, :])
    return torch.where((rng.uniform("form") < 0.5).reshape(-1, 1, 1, 1), box, blots).float()


def inside(x: Tensor, rng: Draws) -> Tensor:
    """Where pictures stay known, (B, 1, H, W): all but a side, or but a frame in a fifth of them, a quarter to a half (section 4.3)."""
    depth = (0.25 + 0.25 * rng.uniform("depth")).float()[:, None]
    which = (5.0 * rng.uniform("side")).long()[:, None]
    rows, columns = (_line(n).expand(len(x), -1) for n in x.shape[-2:])
    away = torch.where(which == 4, 0.5 * depth, depth)  # a frame has two sides
    known = []
    for line, first in ((rows, 0), (columns, 2)):
        gone = ((line < away) & ((which == first) | (which == 4))) | (
            (line >= 1.0 - away) & ((which == first + 1) | (which == 4))
        )
        known.append(~gone)
    return (known[0][:, None, :, None] & known[1][:, None, None, :]).float()


def _line(n: int) -> Tensor:
    """The middles of n pixels of a side of length 1."""
    return (torch.arange(n) + 0.5) / n


class Referred(Around):
    """Pictures with, as ``extra["reference"]``, the next of the same class, the first after the last.

    Raises:
        InputError: for pictures without classes.
    """

    def __init__(self, data: Dataset) -> None:
        labels: Tensor | None = getattr(data, "labels", None)
        if labels is None:
            raise InputError(
                "a reference is another picture of the same class, and the data has none: leave --reference out"
            )
        super().__init__(data)
        self.labels = labels
        self.next = torch.empty(len(labels), dtype=torch.int64)
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0]
            self.next[rows] = rows.roll(-1)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.data.batch(rows)
        return Batch(batch.x, batch.cond, {**batch.extra, "reference": self.data.batch(self.next[rows]).x})


class Palette(Denoising):
    """The diffusion task on damaged pictures.

    Args:
        denoise: the network, told "image", and with ``augment`` :data:`LEVEL`.
        times: the density of t.
        harm: what happens to pictures.
        others: as of :class:`~reverie.diffusion.denoising.Denoising`.
    """

    def __init__(self, denoise: NetDenoiser, times: Any, harm: Damage, augment: bool = False, **others: Any) -> None:
        super().__init__(denoise, times, drop=0.0, **others)
        self.harm, self.noisy = harm, augment

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        """The squared error of each picture, where it is unknown: (B,). What a picture is conditioned on is itself, damaged."""
        shown = self.harm(batch.x, rng)
        level = rng.uniform(LEVEL) if self.noisy else None
        noise = shown.noise(rng) if self.noisy else None
        told = shown.cond(level, noise, batch.extra.get("reference"))
        x0, eps = self.pair(batch.x, rng)
        return self.squared(x0, eps, self.estimate(x0, eps, t, told), None if shown.known is None else 1 - shown.known)


def restore(
    denoise: Denoiser,
    shown: Shown,
    n: int | None = None,
    *,
    reference: Tensor | None = None,
    level: float = 0.0,
    seed: int = 0,
    **how: Any,
) -> Tensor:
    """Pictures that the damaged ones may have been, (n, C, H, W).

    Args:
        denoise: what a run of the task "palette" gives.
        shown: what is left of n pictures, or of one that is drawn n times.
        reference: second pictures (n or 1, C, H, W), for a model that is shown them.
        level: noise in [0, 1] that is added to what is shown (of super-resolution, to the small picture), for a model that was trained
            with it.
        how: solver, steps, grid and progress of :func:`reverie.sample`.

    Raises:
        InputError: for a reference or a level that the model does not take or lacks, or pictures of another size.
    """
    if not 0.0 <= level <= 1.0:
        raise InputError(f"the level of noise is 0 to 1: got {level}")
    if level and LEVEL not in denoise.conditions:
        raise InputError(
            "this model was trained without augmentation: leave the level of noise at 0, or train with --augment"
        )
    wanted = denoise.conditions["image"].channels  # pyright: ignore[reportAttributeAccessIssue]
    parts = [part for part in (shown.picture, shown.known, reference) if part is not None]
    if (channels := sum(part.shape[1] for part in parts)) != wanted:
        raise InputError(
            f"the model is shown {wanted} channels, got {channels}: a picture, a mask if it fills holes, and a reference if it was "
            "trained with one"
        )
    if any(part.shape[2:] != denoise.shape[1:] for part in parts):
        sizes = ", ".join("x".join(map(str, part.shape[2:])) for part in parts)
        raise InputError(f"the model's pictures are {'x'.join(map(str, denoise.shape[1:]))}: it was shown {sizes}")
    n = len(shown.picture) if n is None else n
    if len(shown.picture) == 1:
        parts = (None if part is None else part.expand(n, -1, -1, -1) for part in shown[:2])
        shown = Shown(*parts, factor=shown.factor)  # pyright: ignore
    noise, told = None, None
    if LEVEL in denoise.conditions:
        noise, told = shown.noise(Draws(seed, 0, n)), torch.full((n,), level)
    reference = None if reference is None else reference.expand(n, -1, -1, -1)
    return shown.kept(sample(denoise, n, shown.cond(told, noise, reference), seed=seed, scale=1.0, **how))


def build(config: PaletteConfig, spec: DataSpec, seed: int) -> NetDenoiser:
    """The model, its network freshly initialised.

    Raises:
        InputError: when the settings do not fit the data.
    """
    if config.space.name != "pixels":
        raise InputError("palette is shown pixels and draws pixels: leave --space out")
    channels, *size = spec.shape
    if config.op == "colourise" and channels != 3:
        raise InputError(f"only pictures of 3 channels can be colourised: the data's have {channels}")
    if config.op == "superres" and any(side % config.factor for side in size):
        raise InputError(f"--factor {config.factor} does not divide {'x'.join(map(str, size))} pixels: use a divisor")
    if config.op in HOLES and min(size) < 8:
        raise InputError(f"holes are made in pictures of at least 8 pixels a side: got {'x'.join(map(str, size))}")
    seen = channels * (2 if config.reference else 1) + (config.op in HOLES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nets.build(config.net, channels=channels, size=tuple(size), image=seen)
        if config.augment:
            net.listen(LEVEL)
    return NetDenoiser(net, schedule_of(config), config.kind, shape=spec.shape, time=config.time)


def task(
    config: PaletteConfig, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: RestoreConfig, seed: int
) -> Palette:
    """What trains it, and shows some pictures that it has not seen, what is left of them, and what it makes of that."""
    harm, unseen = damage(config.op, config.factor), held_out if len(held_out) else data
    examples = unseen.batch(range(min(COLUMNS, len(unseen))))
    left = harm(examples.x, Draws(seed, 0, len(examples)))
    level = torch.zeros(len(examples)) if config.augment else None
    told = left.cond(level, None, examples.extra.get("reference"))

    def show(denoise: NetDenoiser) -> Preview:
        draw = Sampler(denoise, **solving(sample))
        made = drawn(lambda n: draw, len(examples), told.to(denoise.device), seed).cpu()
        kept = Shown(*(None if part is None else part[: len(made)] for part in left[:2])).kept(made)  # pyright: ignore
        return Preview(torch.cat([part[: len(made)] for part in (examples.x, left.picture)] + [kept]), len(made))

    return Palette(
        model,
        times(config, model.schedule),
        harm,
        config.augment,
        held_out=held_out.batch(range(min(HELD_OUT, len(held_out)))) if len(held_out) else None,
        show=show,
    )
