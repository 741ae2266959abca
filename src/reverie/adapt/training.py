"""Training an adapter on a few pictures: by the loss that trained the base, of which a gradient reaches the adapter alone.

Of a denoiser ``E‖(p, q)-prediction(x_t | token) − (p·x0 + q·ε)‖² + λ·E‖the same of the base's own pictures | class‖²``; of a model of
tokens their cross-entropy in place of both. The second term is the prior preservation of DreamBooth (Ruiz et al. 2023, eq. 2), which
serves every method; at λ = 0 it is left out. A token alone, with nothing else changed, is textual inversion (Gal et al., "An Image is
Worth One Word", ICLR 2023): its row is a parameter of its own, so that neither decay nor the moments of an optimizer reach the rows
beside it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import apply, check_base, unmerged
from reverie.adapt.config import METHODS
from reverie.adapt.tokens import Model
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError, unknown
from reverie.core.task import Moment, Player, Preview, Task
from reverie.core.times import TimeSampler, Uniform
from reverie.diffusion.denoising import Denoising
from reverie.learn.loop import train
from reverie.solve import sample

if TYPE_CHECKING:
    from reverie.adapt.config import AdaptConfig

SHOWN = 8
"""Pictures that a preview draws."""
PART = 16
"""Pictures of the class that are drawn together."""


class Adapting(NamedTuple):
    """What is trained: an adapter of ``base``, which stays; and ``drawn`` (N, C, H, W), the base's pictures of the class, if wanted."""

    base: Model
    adapter: Adapter
    drawn: Tensor | None


def begin(
    config: AdaptConfig, base: Model, seed: int, drawn: Tensor | None = None, start: Adapter | None = None
) -> Adapting:
    """A fresh adapter: with it the model is the base, to the bit. Or a copy of one to go on from.

    Raises:
        InputError: when the settings, or the adapter, do not fit the model.
    """
    if start is not None:
        base.net.eval().requires_grad_(False)
        check_base(start, fingerprint(base.net))
        return Adapting(base, copy.deepcopy(start).requires_grad_(True), drawn)
    if config.token is None:
        tokens.told(base, None, config.prompt, config.like)
    rows = {} if config.token is None else {config.token: config.row(base)}
    changes = config.changes(base.net, seed)
    if not changes and not rows:
        raise InputError(f"{config.name} trains a token: give one, --token '<mine>'")
    base.net.eval().requires_grad_(False)
    likes: dict[str, int] = {}
    if config.token is not None and config.like is not None and base.conditioner.text is None:
        likes[config.token] = tokens.class_number(base, config.like)
    return Adapting(base, Adapter(config.name, fingerprint(base.net), changes, rows, likes), drawn)


class Personalising(Task):
    """The base's own task on an adapter of it.

    Args:
        model: what :func:`begin` gave.
        config: token, class, prompt, and λ.
        own: makes of a model the task that trains it on pictures and what it is told of them.
    """

    def __init__(self, model: Adapting, config: AdaptConfig, own: Callable[[Any], Task]) -> None:
        self.model, self.config, self.beside = model, config, unmerged(model.base, model.adapter)
        self.own = own(self.beside)
        self.players = {
            "adapter": Player(model.adapter, average=False),
            "base": Player(self.beside.net, optim=None, average=False, train=False, saved="none"),
        }
        with torch.no_grad():
            self.of_class = None if model.drawn is None else of_class(self.beside, config)

    def told(self) -> Cond | None:
        """What the model is told of the pictures, from the rows as they are now."""
        return tokens.told(self.beside, self.config.token, self.config.prompt, self.config.like)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """Of pictures, told as they say themselves or else as :meth:`told`; and λ of those of the class."""
        cond = self.told() if batch.cond is None else batch.cond
        return self.of(batch.x, cond, rng, progress) | self.preserved(batch.x.device, rng, progress)

    def preserved(self, device: torch.device, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """λ of the loss of pictures of the class; nothing where none is wanted."""
        drawn, weight = self.model.drawn, self.config.prior
        if drawn is None or not weight:
            return {}
        rows = torch.arange(rng.start, rng.start + rng.count) % len(drawn)
        other = Draws(rng.seed, rng.start, rng.count, rng.turn + 1)
        told = None if self.of_class is None else self.of_class.index(rows % len(self.of_class))
        kept = self.of(drawn[rows].to(device), told, other, progress)
        return {"prior": weight * torch.stack(list(kept.values())).sum(0)}

    def of(self, images: Tensor, cond: Cond | None, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """The base's own loss of pictures (B, C, H, W) that are told this."""
        cond = None if cond is None else cond.to(images.device).expand(len(images))
        return self.own.loss(next(iter(self.own.players)), Batch(images, cond), rng, progress)

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return self.own.describe(batch, rng, progress)

    def preview(self) -> Preview:
        """Pictures of the token, drawn by the model with the adapter as it is."""
        return Preview(draw(apply(self.model.base, self.model.adapter, anyway=True), SHOWN, self.told()), SHOWN, ())


def own(model: Model, times: TimeSampler | None = None, loss_kind: str | None = None) -> Task:
    """The task that trains a model on pictures, told what they are told always.

    Args:
        model: a denoiser, or a model of tokens.
        times: of a denoiser, the density of t; uniform without.
        loss_kind: of a denoiser, the kind in which the error is measured; the network's own without.
    """
    if isinstance(model, NetDenoiser):
        return Denoising(model, Uniform() if times is None else times, drop=0.0, loss_kind=loss_kind)
    return model.learning()


def of_class(base: Model, config: AdaptConfig) -> Cond | None:
    """What a model is told of the class of the pictures, or in turn of their classes.

    Raises:
        InputError: when they have none and the model is told one.
    """
    if not base.conditions:
        return None
    if not config.kinds:
        raise InputError(
            "prior preservation draws pictures of the class: name it, --like 3 or --like dog, or --preserve 0"
        )
    if base.conditioner.text is not None:
        return base.conditioner([config.prompt.replace("{}", like) for like in config.kinds])
    return Cond(label=[tokens.class_number(base, like) for like in config.kinds])


def draw(model: Model, seed: int | list[int], cond: Cond | None, progress: str = "") -> Tensor:
    """Pictures (N, C, H, W) in [−1, 1]: so many, or one a seed."""
    n, seed = (seed, 0) if isinstance(seed, int) else (len(seed), seed)
    steps = 20 if isinstance(model, NetDenoiser) and model.sampling is None else None
    with torch.no_grad():
        return sample(model, n, cond, steps=steps, seed=seed, progress=progress).cpu()


def draw_class(base: Model, config: AdaptConfig, seed: int) -> Tensor:
    """``config.drawn`` pictures of the class, by the base itself, (N, C, H, W) in [−1, 1]."""
    cond, drawn = of_class(base, config), []
    for start in range(0, config.drawn, PART):
        rows = range(start, min(start + PART, config.drawn))
        told = None if cond is None else cond.index([i % len(cond) for i in rows])
        drawn.append(draw(base, [seed + i for i in rows], told, "drawing the class"))
    return torch.cat(drawn)


def fit(
    denoise: Model,
    images: Tensor,
    method: str = "lora",
    *,
    steps: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    cond: Cond | None = None,
    start: Adapter | None = None,
    **settings: object,
) -> Adapter:
    """An adapter of a model, trained on a few pictures; the model stays as it is.

    Args:
        denoise: the base, unguided, or a model of tokens.
        images: (N, C, H, W) in [−1, 1], a few.
        method: one of :data:`reverie.adapt.METHODS`.
        steps: of the optimizer; as suits the method without.
        rate: of learning, likewise.
        batch: pictures a step, likewise.
        seed: of all randomness.
        cond: what each picture is told, where they differ; without, all are told the token, or the class that they are like.
        start: an adapter to go on from, such as an encoder predicts; what is trained is what it has, under its own token, and of the method
            count the rate, the class and the prompt.
        settings: of the method, the fields of its settings: ``token="<mine>"``, ``like``, ``rank`` ….

    Raises:
        InputError: for an unknown method or setting, or settings that do not fit the model.
    """
    config = settled(method, settings)
    if start is not None:
        config = replace(config, token=next(iter(start.tokens), None))
    if images.ndim != 4 or not len(images) or not images.isfinite().all():
        raise InputError(f"pictures are (N, C, H, W) in [−1, 1] and finite: got shape {tuple(images.shape)}")
    drawn = draw_class(denoise, config, seed) if config.prior else None
    model = begin(config, denoise, seed, drawn, start)

    def feed(start: int, count: int) -> Batch:
        rows = torch.arange(start, start + count) % len(images)
        return Batch(images[rows], None if cond is None else cond.expand(len(images)).index(rows))

    task = Personalising(model, config, own)
    return trained(task, model.adapter, feed, config, steps, rate, batch, seed, str(denoise.device))


def settled(method: str, settings: Mapping[str, object]) -> AdaptConfig:
    """The settings of a method by name.

    Raises:
        InputError: for an unknown method or setting.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    try:
        return METHODS[method](**settings)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        known = ", ".join(METHODS[method].__dataclass_fields__)
        raise InputError(f"{method} has the settings {known}: {error}") from error


def trained(
    task: Task,
    adapter: Adapter,
    feed: Callable[[int, int], Batch],
    config: AdaptConfig,
    steps: int | None,
    rate: float | None,
    batch: int | None,
    seed: int,
    device: str,
) -> Adapter:
    """The adapter after training, which leaves no run behind; what is None is as suits the method."""
    usual = config.training()
    size = usual.batch if batch is None else batch
    count = -(-usual.images // usual.batch) if steps is None else steps
    how = replace(usual, images=count * size, batch=size, lr=usual.lr if rate is None else rate, device=device)
    with tempfile.TemporaryDirectory() as folder:
        if train(task, feed, how, Path(folder), seed=seed) < how.images:
            raise KeyboardInterrupt
    return adapter.requires_grad_(False)
