"""Training a ControlNet on a diffusion model that stays as it is, and drawing by hints (see :mod:`reverie.nets.controlnet`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Told
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Player
from reverie.core.tensors import combine
from reverie.diffusion.beside import Beside, shown
from reverie.diffusion.building import sampler, times, unseen
from reverie.diffusion.conditioned import ControlNetConfig
from reverie.diffusion.config import SampleConfig
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.hints import HINTS
from reverie.diffusion.showing import COLUMNS
from reverie.nets.adapter import Adapter
from reverie.nets.controlnet import ControlNet, Hinted, Steering, fingerprint
from reverie.solve import Sampler


def control(
    denoise: Denoiser,
    net: Hinted,
    hint: Tensor,
    weight: float = 1.0,
    interval: tuple[float, float] = (-math.inf, math.inf),
) -> Denoiser:
    """The denoiser drawn by a hint; of one that is drawn by a hint already, by both.

    Guide the result, ``guide.cfg(control(denoise, net, hint), 3.0)``: then both branches are told the hint, as they are in training.

    Args:
        denoise: the model that the ControlNet was trained on.
        net: the ControlNet, or the adapter.
        hint: (n or 1, channels, H, W) in [0, 1], one a sample or one for all.
        weight: of what it adds; 0 is the model as it is.
        interval: the logsnr between which it adds; everywhere by default.

    Raises:
        InputError: for a model of other weights, or a hint of another size or range.
    """
    check_base(denoise, net.base, "ControlNet")
    check_hint(hint, (net.channels, *denoise.space.data_shape(denoise.shape)[1:]), "a hint of this ControlNet")
    change = Steering(net, net.places(denoise), net.told(hint.to(denoise.device), denoise.space), weight, interval)
    return Told(denoise, partial(Call.changed, change=change))


def check_base(denoise: Denoiser, base: str | None, what: str) -> None:
    """Raise an :class:`InputError` unless the weights of a model are those that something of SHA-256 ``base`` was trained on."""
    own: Any = denoise.net  # pyright: ignore[reportAttributeAccessIssue]
    if base is not None and (found := fingerprint(own)) != base:
        raise InputError(
            f"this {what} was trained on a model of other weights: on those of SHA-256 {base[:16]}…, not {found[:16]}…"
        )


def check_hint(hint: Tensor, wanted: tuple[int, ...], what: str) -> None:
    """Raise an :class:`InputError` unless a hint is a map ``(n, *wanted)`` in [0, 1]."""
    if hint.ndim != 4 or tuple(hint.shape[1:]) != wanted:
        raise InputError(
            f"{what} is (n, {', '.join(map(str, wanted))}): got {tuple(hint.shape)}; nothing is resized here"
        )
    if not bool(((hint >= 0.0) & (hint <= 1.0)).all()):
        raise InputError(f"{what} is a map of numbers 0 to 1: got {float(hint.min()):.3g} to {float(hint.max()):.3g}")


class Control(Beside[Hinted]):
    """What a run of the task "controlnet" gives, a ControlNet or an adapter: ``rv.sample(control(hint), 16, cond)``."""

    def __call__(
        self,
        hint: Tensor,
        weight: float = 1.0,
        interval: tuple[float, float] = (-math.inf, math.inf),
        on: Denoiser | None = None,
    ) -> Denoiser:
        """:func:`control` of the base, or of what is ``on`` it: the same model, drawn by another hint already."""
        return control(self.base if on is None else on, self.net, hint, weight, interval)


class Controlling(Denoising):
    """The denoising task of a frozen model under the hint of the very picture: what learns is the ControlNet.

    Args:
        model: both.
        times: the density of t.
        hint: pictures (B, C, H, W) in [−1, 1] -> hints in [0, 1].
        others: as of :class:`~reverie.diffusion.denoising.Denoising`.
    """

    def __init__(self, model: Control, times: Any, hint: Callable[[Tensor], Tensor], **others: Any) -> None:
        super().__init__(model.base, times, **others)
        self.model, self.hint = model, hint
        self.places = model.net.places(model.base)
        base = Player(model.base.net, optim=None, average=False, train=False, saved="none")
        self.players = {"control": Player(model.net), "base": base}

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        x0, noise = self.pair(batch.x, rng)
        point = self.denoise.schedule.point(t).align(x0)
        hint = self.model.net.told(self.hint(batch.x), self.denoise.space)
        call = Call().changed(Steering(self.model.net, self.places, hint))
        x = combine((point.alpha, point.sigma), (x0, noise))
        return self.squared(x0, noise, self.denoise(x, point, cond, call))


def build(config: ControlNetConfig, spec: DataSpec, seed: int, folder: Path | None) -> Control:
    """The base and a fresh ControlNet of it.

    Raises:
        InputError: for a network that has no halves, or for an adapter no levels.
    """
    base = config.teaching(spec, seed, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = Adapter if config.light else ControlNet
        net = kind(base.net, size=(spec.shape[1], spec.shape[2]))
    return Control(base, net)


def task(
    config: ControlNetConfig, model: Control, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int
) -> Controlling:
    """What trains it, and shows some pictures, their hints, and what is drawn by these."""
    seen = held_out if len(held_out) else data
    examples = seen.batch(range(min(COLUMNS, len(seen))))
    hints = HINTS[config.hint](examples.x)

    def draws(n: int) -> Sampler:
        return sampler(config.denoising, control(model.base, model.net, hints[:n]), sample)

    own = config.denoising
    return Controlling(
        model,
        times(own, model.base.schedule),
        HINTS[config.hint],
        drop=config.drop,
        loss_kind=own.loss_kind,
        held_out=unseen(held_out),
        show=shown(draws, (examples.x, (2.0 * hints - 1.0).expand_as(examples.x)), examples.cond, seed),
    )
