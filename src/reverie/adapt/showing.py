"""Training what shows a frozen model of texts subjects: its own loss, each picture drawn with the sight of its own subject."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from reverie.adapt import tokens
from reverie.adapt.applying import Adapted
from reverie.adapt.demonstrations import cropped
from reverie.adapt.elite import ELITE
from reverie.adapt.encoder import TOKEN, AdapterEncoder, Encoding
from reverie.adapt.looking import Predicted
from reverie.adapt.sights import WHERE, Seeing, Sight, crossing, standing
from reverie.core.batch import Batch
from reverie.core.condition import Cond, Entry, Tokens
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.task import Moment, Player, Task
from reverie.diffusion.denoising import Denoising


class Showing(Encoding):
    """The base's own task, told a prompt in which the words of other pictures of the same subject stand, and shown those.

    Args:
        model, own, held_out: as of :class:`~reverie.adapt.encoder.Encoding`.
    """

    def __init__(self, model: AdapterEncoder, own: Callable[[Any], Task], held_out: Batch | None = None) -> None:
        super().__init__(model, own, held_out)
        assert isinstance(self.beside.net, Adapted)
        self.places = {name: place.under("shell") for name, place in crossing(self.beside.net.shell).items()}

    def parts(self, batch: Batch, said: Predicted, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"mse": self.errors(batch.x, said, rng)}

    def errors(
        self,
        images: Tensor,
        said: Predicted,
        rng: Draws,
        words: int = 1,
        strength: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The squared error of pictures (B, C, H, W), everywhere or where ``mask`` (B, 1, H, W) is 1: (B,).

        Args:
            words: of each subject, how many are told.
            strength: of its sight.
        """
        texts, names = self.say(len(images), words)
        hearer = self.hearing(said, names)
        told = pointed(hearer, texts, [each[:1] for each in names])
        assert said.sight is not None
        return self.squared(images, self.shown([(said.sight, strength)]), told, rng, mask)

    def say(self, count: int, words: int) -> tuple[list[str], list[list[str]]]:
        """The prompts of so many pictures, and the words in each."""
        names = [
            [f"{TOKEN[:-1]}-{i}{each.removeprefix(TOKEN[:-1])}" for each in self.known[:words]] for i in range(count)
        ]
        return [self.model.prompt.replace("{}", " ".join(each)) for each in names], names

    @property
    def known(self) -> list[str]:
        """The words of a subject."""
        return self.model.net.adapter.tokens

    def hearing(self, said: Predicted, names: Sequence[Sequence[str]]) -> Conditioner:
        """The conditioner that knows the words of each of B subjects."""
        rows: dict[str, Tensor] = {}
        for i, several in enumerate(names):
            for known, name in zip(self.known, several, strict=False):
                row = said.numbers.get(f"rows.{known}")
                rows[name] = self.model.net.adapter.rows[known] if row is None else row[i]
        other = copy.copy(self.model.base.conditioner)
        other.text = tokens.learner(other.text).spoken(rows)  # pyright: ignore[reportArgumentType]
        return other

    def shown(self, sights: Sequence[tuple[Sight, float]]) -> NetDenoiser:
        """The base that is shown subjects, those of B samples."""
        model: Any = copy.copy(self.beside)
        model.within = Seeing(sights, self.places)
        model.conditions = {**model.conditions, WHERE: Tokens(len(sights), model.conditions["text"].length)}
        return model

    def squared(self, images: Tensor, model: NetDenoiser, told: Cond, rng: Draws, mask: Tensor | None) -> Tensor:
        """The error of what a model says of pictures, see :meth:`errors`."""
        task = self.own(model)
        assert isinstance(task, Denoising)
        x0, noise = task.pair(images, rng)
        estimate = task.estimate(x0, noise, task.times(rng.even("time")), told)
        where = None if mask is None else adaptive_max_pool2d(mask.to(x0), x0.shape[-2:])
        return task.squared(x0, noise, estimate, where)


def pointed(conditioner: Conditioner, texts: Sequence[str], names: Sequence[Sequence[str]]) -> Cond:
    """What is told of texts, with where the words of subjects stand in each."""
    told = conditioner(texts)
    text = told["text"]
    where = standing(conditioner, texts, names, text.value.shape[1])
    return Cond(**{**{name: told[name] for name in told}, WHERE: Entry(where.to(text.value), None, text.present)})


class Eliting(Showing):
    """ELITE: at first the words learn alone, all of them told; then what is seen, by the error where the subject is.

    Args:
        first: share of the training in which the words learn.
        model, own, held_out: as of :class:`Showing`.
    """

    def __init__(
        self, model: AdapterEncoder, own: Callable[[Any], Task], first: float, held_out: Batch | None = None
    ) -> None:
        super().__init__(model, own, held_out)
        assert isinstance(model.net, ELITE)
        self.first = first
        self.players = {
            "words": Player(model.net.words),
            "local": Player(model.net.local),
            "base": self.players["base"],
        }

    def turns(self, progress: Moment) -> Sequence[str]:
        return ["words" if progress.fraction < self.first else "local"]

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        said = self.said(batch)
        if player == "words":
            mse = self.errors(batch.x, said, rng, words=len(self.known), strength=0.0)
            return {"mse": mse, "words": said.parts["words"]}
        return {**self.parts(batch, said, rng, progress), "values": said.parts["values"]}

    def parts(self, batch: Batch, said: Predicted, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"mse": self.errors(batch.x, said, rng, mask=batch.extra.get("mask"))}


class Demonstrating(Showing):
    """The base's own task, shown demonstrations that are cropped and cut out of their ground at random.

    Args:
        model, own, held_out: as of :class:`Showing`.
        cut: share of the demonstrations that are cut out.
        crop: of their sides, how much may be cut off.
    """

    def __init__(
        self,
        model: AdapterEncoder,
        own: Callable[[Any], Task],
        cut: float = 0.0,
        crop: float = 0.0,
        held_out: Batch | None = None,
    ) -> None:
        super().__init__(model, own, held_out)
        self.cut, self.crop = cut, crop

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return super().loss(player, self.varied(batch, rng), rng, progress)

    def varied(self, batch: Batch, rng: Draws) -> Batch:
        """The same with other sections of the demonstrations, the whole of some."""
        shown = batch.extra["shown"]
        whole = torch.ones_like(shown[:, :, :1])
        masks = batch.extra.get("masks", whole)
        if self.crop:
            shown, masks = cropped(shown, masks, self.crop, rng)
        cut = torch.stack([rng.uniform(f"cut {i}") < self.cut for i in range(shown.shape[1])], 1).to(shown.device)
        masks = torch.where(cut[..., None, None, None], masks, whole)
        return replace(batch, extra={**batch.extra, "shown": shown, "masks": masks})
