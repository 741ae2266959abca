"""Break-A-Scene (Avrahami et al., "Break-A-Scene: Extracting Multiple Concepts from a Single Image", SIGGRAPH Asia 2023).

One picture shows several things, a mask says where each is, and each gets a token of its own, a handle. A step tells the model of some of
them, of any number and in any order, so that they come apart; its error counts where these are (the masked loss, eq. 1), and where a
handle looks is drawn to where its thing is (eq. 2):

    ‖(p, q)-error‖² over ∪ m_k  +  λ·Σ_k ‖A_k / max A_k − m_k‖²,

A_k the mean map of cross-attention of handle k. At first the tokens move alone, fast; then all weights along with them, slowly, beside
pictures of their class if these are to stay what they are (DreamBooth's prior preservation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.scene_config import SceneConfig
from reverie.adapt.training import Adapting, Personalising, draw_class, own, trained
from reverie.adapt.watching import watch
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Optim, Player
from reverie.core.times import TimeSampler
from reverie.diffusion.denoising import Denoising
from reverie.guide.attention import as_grid
from reverie.guide.pixels import as_mask, mask_of

if TYPE_CHECKING:
    from reverie.adapt.tokens import Model

SIDE = 16
"""Places on a side of the finest maps that are compared with masks (the paper's, of pictures of 64x64 codes)."""


class Pictured(NamedTuple):
    """As :class:`~reverie.adapt.training.Adapting`, and the mask (H, W) of each token's thing, 1 where it is."""

    base: Model
    adapter: Adapter
    drawn: Tensor | None
    masks: Mapping[str, Tensor]


def begin(
    config: SceneConfig, base: Model, names: Sequence[str], masks: Mapping[str, Tensor], drawn: Tensor | None = None
) -> Pictured:
    """A fresh adapter, whose tokens are the words that they begin at.

    Raises:
        InputError: when the settings do not fit the model.
    """
    if not isinstance(base, NetDenoiser) or base.conditioner.text is None:
        raise InputError("things of a scene are told apart by words: this takes a diffusion model of texts")
    if not names:
        raise InputError("scene learns the things that masks show: give them, --masks '<a>=a.png' '<b>=b.png'")
    if config.likes and len(config.likes) != len(names):
        raise InputError(f"each token begins at a word: got {len(names)} tokens and {len(config.likes)} words")
    if config.prompt.count("{}") != 1:
        raise InputError(
            f"a prompt says by {{}} where the things are named, such as 'a photo of {{}}': got {config.prompt!r}"
        )
    rows = {
        name: tokens.beginning(base, like)
        for name, like in zip(names, config.likes or [None] * len(names), strict=True)
    }
    base.net.eval().requires_grad_(False)
    return Pictured(base, Adapter(config.name, fingerprint(base.net), config.changes(base.net, 0), rows), drawn, masks)


class BreakAScene(Personalising):
    """The base's own task on one picture, of which each time other things are told.

    Args:
        model: what :func:`begin` gave.
        config: prompt, rates and weights.
        times: the density of t; uniform without.
        loss_kind: the kind in which the error is measured; the network's own without.
    """

    def __init__(
        self, model: Pictured, config: SceneConfig, times: TimeSampler | None = None, loss_kind: str | None = None
    ) -> None:
        super().__init__(Adapting(*model[:3]), config, lambda base: own(base, times, loss_kind))
        assert isinstance(self.own, Denoising) and isinstance(self.beside, NetDenoiser)
        self.denoising, self.scene, self.maps = self.own, config, watch(self.beside)
        self.names = model.adapter.tokens
        whole = torch.zeros(1, *self.beside.space.data_shape(self.beside.shape), device=self.beside.device)
        self.masks = torch.cat([mask_of(whole, as_mask(model.masks[name])) for name in self.names], 1)[0]
        if empty := [name for name, mask in zip(self.names, self.masks, strict=True) if not mask.any()]:
            raise InputError(f"the mask of {empty[0]} is empty: it is 1 where its thing is")
        rows = nn.ParameterDict({name: model.adapter.rows[name] for name in self.names})
        self.players = {
            "tokens": Player(rows, optim=Optim(lr=config.token_rate), average=False, saved="none"),
            **self.players,
        }

    def turns(self, progress: Moment) -> Sequence[str]:
        return ["tokens" if progress.fraction < self.scene.first else "adapter"]

    def told(self) -> Cond:
        """All things, from the rows as they are now."""
        return self.beside.conditioner(self.say(range(len(self.names))))

    def say(self, things: Sequence[int]) -> str:
        """The prompt of some things, in their order."""
        return self.scene.prompt.replace("{}", " and ".join(self.names[k] for k in things))

    def chosen(self, rng: Draws) -> list[list[int]]:
        """The things that each picture of a batch is told to show: 1 to all of them, in any order."""
        order = torch.stack([rng.uniform(f"thing {k}") for k in range(len(self.names))], 1).argsort(1)
        count = 1 + (rng.uniform("many") * len(self.names)).long()
        return [row[:n] for row, n in zip(order.tolist(), count.tolist(), strict=True)]

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        things = self.chosen(rng)
        said = [self.say(each) for each in things]
        x0, noise = self.denoising.pair(batch.x, rng)
        self.maps.clear()
        t = self.denoising.times(rng.even("time"))
        told = self.beside.conditioner.to(batch.x.device)(said)
        estimate = self.denoising.estimate(x0, noise, t, told)
        union = torch.stack([self.masks[each].amax(0, keepdim=True) for each in things]).to(batch.x.device)
        where = adaptive_max_pool2d(union, x0.shape[-2:])  # a cell counts where any of its pixels does
        parts = {"mse": self.denoising.squared(x0, noise, estimate, where)}
        if self.scene.attend:
            parts["attention"] = self.scene.attend * self.astray(things, said)
        return parts | self.preserved(batch.x.device, rng, progress)

    def astray(self, things: Sequence[Sequence[int]], said: Sequence[str]) -> Tensor:
        """``Σ_k mean (A_k / max A_k − m_k)²`` over the things that each picture was told, (B,)."""
        seen = coarse(self.maps, self.beside.shape)
        masks = interpolate(self.masks[None], seen.shape[-2:], mode="area")[0].to(seen)
        off: list[Tensor] = []
        for maps, each, text in zip(seen, things, said, strict=True):
            words = self.beside.conditioner.words(text)
            if lost := [self.names[k] for k in each if self.names[k] not in words]:
                raise InputError(
                    f"{text!r} is longer than the model reads, {lost[0]} is cut off: give a shorter prompt"
                )
            of = [maps[list(words[self.names[k]])].sum(0) for k in each]
            off.append(
                torch.stack([(a / a.amax() - masks[k]).square().mean() for a, k in zip(of, each, strict=True)]).sum()
            )
        return torch.stack(off)


def coarse(maps: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The mean (B, tokens, h, w) over heads and layers of the finest maps of at most :data:`SIDE` places a side, else of the coarsest.

    Args:
        maps: probabilities (B, heads, places, tokens).
        shape: of the picture or its codes, (C, H, W).

    Raises:
        InputError: when there are none.
    """
    if not maps:
        raise InputError(
            "things of a scene are told apart by the maps of their tokens: it needs a network with cross-attention to a text "
            "(a U-Net with context)"
        )
    grids = [as_grid(each.mean(1), shape) for each in maps]
    sides = {max(each.shape[-2:]) for each in grids}
    side = max((s for s in sides if s <= SIDE), default=min(sides))
    return torch.stack([each for each in grids if max(each.shape[-2:]) == side]).mean(0)


def scene(
    denoise: NetDenoiser,
    picture: Tensor,
    masks: Mapping[str, Tensor],
    *,
    likes: Sequence[str] = (),
    prompt: str = "a photo of {}",
    first: float = 0.5,
    token_rate: float = 2e-2,
    rate: float | None = None,
    attend: float = 0.01,
    preserve: float = 0.0,
    drawn: int = 32,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Adapter:
    """An adapter with a token for each of several things of one picture.

        both = rv.adapt.scene(denoise, picture, {"<a>": cat, "<b>": boat}, likes=["cat", "boat"])
        rv.sample(rv.adapt.apply(denoise, both), 4, text="a photo of <b>")

    Args:
        denoise: the base, unguided, told texts by cross-attention.
        picture: (1, C, H, W) in [−1, 1].
        masks: of each thing by its token, (H, W) or (1, 1, H, W), true or 1 where it is.
        likes: the words that the tokens begin at, in the same order; the word a without.
        prompt: {} where the things are named.
        first: share of the steps in which the tokens move alone.
        token_rate: of learning, of the tokens while they move alone.
        rate: of all weights and the tokens afterwards; as suits the method without.
        attend: λ of where the tokens look.
        preserve: weight of prior preservation, of pictures told ``likes``; 0 for none.
        drawn: pictures of that.
        steps, batch, seed: as of :func:`reverie.adapt.fit`.

    Raises:
        InputError: for several pictures, a mask of another size or without a thing, a model without cross-attention to a text, or settings
            that do not fit.
    """
    if picture.ndim != 4 or len(picture) != 1 or not picture.isfinite().all():
        raise InputError(f"a scene is one picture (1, C, H, W) in [−1, 1] and finite: got shape {tuple(picture.shape)}")
    config = SceneConfig(
        likes=tuple(likes), prompt=prompt, first=first, token_rate=token_rate, attend=attend,
        preserve=preserve, drawn=drawn,
    )  # fmt: skip
    model = begin(config, denoise, list(masks), masks)
    if preserve:
        model = model._replace(drawn=draw_class(denoise, config, seed))
    task = BreakAScene(model, config)

    def feed(start: int, count: int) -> Batch:
        return Batch(picture.expand(count, -1, -1, -1))

    return trained(task, model.adapter, feed, config, steps, rate, batch, seed, str(denoise.device))
