"""Training an adapter on a few pictures: the squared error of denoising, of which a gradient reaches the adapter alone.

``E‖(p, q)-prediction(x_t | token) − (p·x0 + q·ε)‖² + λ·E‖the same of the base's own pictures | class‖²``: the second term is the prior
preservation of DreamBooth (Ruiz et al. 2023, eq. 2), which serves every method; at λ = 0 it is left out. A token alone, with nothing
else changed, is textual inversion (Gal et al., "An Image is Worth One Word", ICLR 2023): its row is a parameter of its own, so that
neither decay nor the moments of an optimizer reach the rows beside it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import apply, unmerged
from reverie.adapt.config import METHODS
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError, unknown
from reverie.core.task import Moment, Player, Preview
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

    base: NetDenoiser
    adapter: Adapter
    drawn: Tensor | None


def begin(config: AdaptConfig, base: NetDenoiser, seed: int, drawn: Tensor | None = None) -> Adapting:
    """A fresh adapter: with it the model is the base, to the bit.

    Raises:
        InputError: when the settings do not fit the model.
    """
    if config.token is None and base.conditions and base.conditioner.text is None:
        raise InputError(
            "the model is told a class: say by which token it is told of the new pictures, --token '<mine>'"
        )
    rows = {} if config.token is None else {config.token: tokens.beginning(base, config.like)}
    changes = config.changes(base.net, seed)
    if not changes and not rows:
        raise InputError(f"{config.name} trains a token: give one, --token '<mine>'")
    base.net.eval().requires_grad_(False)
    likes: dict[str, int] = {}
    if config.token is not None and config.like is not None and base.conditioner.text is None:
        likes[config.token] = tokens.class_number(base, config.like)
    return Adapting(base, Adapter(config.name, fingerprint(base.net), changes, rows, likes), drawn)


class Personalising(Denoising):
    """The denoising task on an adapter.

    Args:
        model: what :func:`begin` gave.
        config: token, class, prompt, and λ.
        times: the density of t.
        loss_kind: the kind in which the error is measured; the network's own by default.
    """

    def __init__(self, model: Adapting, config: AdaptConfig, times: TimeSampler, loss_kind: str | None = None) -> None:
        super().__init__(unmerged(model.base, model.adapter), times, drop=0.0, loss_kind=loss_kind)
        self.model, self.config = model, config
        self.players = {
            "adapter": Player(model.adapter, average=False),
            "base": Player(self.denoise.net, optim=None, average=False, train=False, saved="none"),
        }
        self.of_class = None if model.drawn is None else of_class(model.base, config)

    def told(self) -> Cond | None:
        """What the model is told of the pictures, from the rows as they are now."""
        return tokens.told(self.denoise, self.config.token, self.config.prompt)

    def condition(self, batch: Batch, rng: Draws) -> Cond | None:
        cond = self.told()
        return None if cond is None else cond.to(batch.x.device).expand(len(batch))

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        parts = super().loss(player, batch, rng, progress)
        drawn, weight = self.model.drawn, self.config.preserve
        if drawn is not None and weight:
            rows = torch.arange(rng.start, rng.start + rng.count) % len(drawn)
            other = Draws(rng.seed, rng.start, rng.count, rng.turn + 1)
            images, cond = drawn[rows].to(batch.x.device), self.of_class
            cond = None if cond is None else cond.to(batch.x.device).expand(len(images))
            parts["prior"] = weight * self.errors(images, self.times(other.even("time")), other, cond)
        return parts

    def preview(self) -> Preview:
        """Pictures of the token, drawn by the model with the adapter as it is."""
        model, cond = apply(self.model.base, self.model.adapter, anyway=True), self.told()
        images = sample(model, SHOWN, cond, seed=0, steps=20, progress="")
        return Preview(images.cpu(), SHOWN, ())


def of_class(base: NetDenoiser, config: AdaptConfig) -> Cond | None:
    """What the base is told of the class of the pictures.

    Raises:
        InputError: when they have none and the model is told one.
    """
    if base.conditioner.text is not None:
        if config.like is None:
            raise InputError("prior preservation draws pictures of the class: name it, --like dog, or --preserve 0")
        return base.conditioner(config.prompt.replace("{}", config.like))
    if not base.conditions:
        return None
    if config.like is None:
        raise InputError("prior preservation draws pictures of the class: name it, --like 3, or --preserve 0")
    return Cond(label=tokens.class_number(base, config.like))


def draw_class(base: NetDenoiser, config: AdaptConfig, seed: int) -> Tensor:
    """``config.drawn`` pictures of the class, by the base itself, (N, C, H, W) in [−1, 1]."""
    cond, steps = of_class(base, config), 20 if base.sampling is None else None
    drawn = []
    for start in range(0, config.drawn, PART):
        seeds = [seed + i for i in range(start, min(start + PART, config.drawn))]
        drawn.append(sample(base, len(seeds), cond, steps=steps, seed=seeds, progress="drawing the class"))
    return torch.cat(drawn).cpu()


def fit(
    denoise: NetDenoiser,
    images: Tensor,
    method: str = "lora",
    *,
    steps: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    **settings: object,
) -> Adapter:
    """An adapter of a model, trained on a few pictures; the model stays as it is.

    Args:
        denoise: the base, unguided.
        images: (N, C, H, W) in [−1, 1], a few.
        method: one of :data:`reverie.adapt.METHODS`.
        steps: of the optimizer; as suits the method without.
        rate: of learning, likewise.
        batch: pictures a step, likewise.
        seed: of all randomness.
        settings: of the method, the fields of its settings: ``token="<mine>"``, ``like``, ``rank`` ….

    Raises:
        InputError: for an unknown method or setting, or settings that do not fit the model.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    try:
        config = METHODS[method](**settings)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        known = ", ".join(METHODS[method].__dataclass_fields__)
        raise InputError(f"{method} has the settings {known}: {error}") from error
    if images.ndim != 4 or not len(images) or not images.isfinite().all():
        raise InputError(f"pictures are (N, C, H, W) in [−1, 1] and finite: got shape {tuple(images.shape)}")
    usual = config.training()
    size = usual.batch if batch is None else batch
    count = -(-usual.images // usual.batch) if steps is None else steps
    how = replace(
        usual, images=count * size, batch=size, lr=usual.lr if rate is None else rate, device=str(denoise.device)
    )
    drawn = draw_class(denoise, config, seed) if config.preserve else None
    model = begin(config, denoise, seed, drawn)
    task = Personalising(model, config, Uniform())

    def feed(start: int, count: int) -> Batch:
        return Batch(images[torch.arange(start, start + count) % len(images)])

    with tempfile.TemporaryDirectory() as folder:
        if train(task, feed, how, Path(folder), seed=seed) < how.images:
            raise KeyboardInterrupt
    return model.adapter.requires_grad_(False)
