"""VAR: a picture is drawn coarse to fine, all tokens of a scale at once.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", NeurIPS 2024:
``p(x) = Π_k p(r_k | r_1 … r_{k−1})`` (their equation 6), r_k the tokens of scale k, see :mod:`reverie.spaces.multiscale`. A scale is
predicted from the sum of the earlier ones, averaged to its sides; the first from the class. Each token sees its own and all earlier scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.generator import Frame
from reverie.core.noise import Seeds, Tape
from reverie.core.task import Moment, Preview, Task
from reverie.diffusion.texts import texts_of
from reverie.families.drawing import columns, drawn, validated
from reverie.families.token_model import TokenModel
from reverie.families.token_net import TokenNet, categorical, classes_of, guided, tokenizer
from reverie.nets.embeddings import LabelEmbedding
from reverie.spaces.multiscale import MultiScaleVQ

if TYPE_CHECKING:
    from reverie.families.token_config import VARConfig


class ScaleNet(TokenNet):
    """Sums of earlier scales, at the places of all tokens but the first, (B, l − 1, dims), and conditions to logits (B, l, codes).

    Args:
        dims: numbers of a code.
        sizes: how many tokens each scale has.
        codes, classes, width, depth, heads, dropout, context: as of :class:`~reverie.families.token_net.TokenNet`.
    """

    scale: Tensor

    def __init__(
        self,
        dims: int,
        sizes: list[int],
        codes: int,
        classes: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__(codes, sum(sizes), classes, width, depth, heads, dropout, context)
        self.embed["start"], self.embed["before"] = LabelEmbedding(classes, width), nn.Linear(dims, width)
        self.register_buffer("scale", torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), persistent=False)

    def forward(self, before: Tensor, cond: Cond | None) -> Tensor:
        first = self.embed["start"](cond, len(before))[:, None]
        h = torch.cat([first, self.embed["before"](before.to(first))], 1)
        scale = self.scale[: h.shape[1]]
        return self.predict(h, cond, mask=scale[:, None] >= scale)


class VAR(TokenModel):
    """Draws the tokens of a multi-scale space, a scale a step."""

    net: ScaleNet
    space: MultiScaleVQ

    @property
    def scales(self) -> list[tuple[int, int]]:
        """The sides of the maps of tokens, coarse to fine."""
        return self.space.scales(*self.space.code_shape(self.shape)[1:])

    def before(self, tokens: Tensor) -> Tensor:
        """What the network is given of the tokens (B, …) of the first k scales: f̂_1 … f̂_k at the sides of the scales after them."""
        sums = self.space.sums(tokens, self.shape)
        given = [F.interpolate(f, scale, mode="area") for f, scale in zip(sums, self.scales[1:], strict=False)]
        flat = [each.flatten(2).mT for each in given]
        return torch.cat([tokens.new_zeros(len(tokens), 0, self.space.dims, dtype=torch.float32), *flat], 1)

    def logits(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        """What is predicted of the scale after those of the tokens (B, …), guided towards what B samples are told more
        with each scale (their appendix C): (B, h·w, codes)."""
        before = self.before(tokens)
        k = int(self.net.scale[tokens.shape[1]])
        size = math.prod(self.scales[k])
        if self.how.scale == 1.0 or cond is None:
            return self.net(before, cond)[:, -size:]
        logits = self.net(before.repeat(2, 1, 1), cond.cat(cond.null()))[:, -size:]
        return guided(logits, 1.0 + (self.how.scale - 1.0) * k / (len(self.scales) - 1))

    @torch.no_grad()
    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        def draw(tape: Tape, cond: Cond | None, count: int) -> Tensor:
            tokens = torch.empty(count, 0, dtype=torch.int64, device=self.net.out.weight.device)
            for k, (h, w) in enumerate(self.scales):
                found = categorical(self.logits(tokens, cond) / self.how.temperature, tape.draw("token", k, (h * w,)))
                tokens = torch.cat([tokens, found], 1)
                if on_step is not None:
                    on_step(Frame(count, k + 1, len(self.scales), lambda tokens=tokens: self.pictures(tokens)))
            return self.pictures(tokens)

        return drawn(self, draw, n, cond, seed, batch_size, optional=self.unlabelled)

    def pictures(self, tokens: Tensor) -> Tensor:
        """The tokens (B, …) of the first scales, or of all, as pictures."""
        return self.space.from_tokens(tokens, self.shape).clamp(-1.0, 1.0)

    def learning(self) -> Scaling:
        return Scaling(self)


class Scaling(Task):
    """The cross-entropy of the tokens of every scale, given those of the earlier ones.

    Args:
        model: what is trained.
        held_out: pictures to validate on and to show.
        drop: share of the labels or texts that are dropped, for guidance.
    """

    def __init__(self, model: VAR, held_out: Dataset | None = None, drop: float = 0.0) -> None:
        self.model, self.held_out, self.drop = model, held_out, drop
        self.players = model.players(model.net)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        with torch.no_grad():
            tokens = self.model.space.to(batch.x.device).tokens(batch.x)
            before = self.model.before(tokens)
        cond = self.model.heard(batch, rng, self.drop)
        return {"surprise": F.cross_entropy(self.model.net(before, cond).mT, tokens, reduction="none").mean(1)}

    def validate(self) -> dict[str, float | list[float]]:
        """The loss on held-out pictures."""
        return validated(self, self.held_out)

    def preview(self) -> Preview | None:
        return columns(self.model, self.held_out)


def build(config: VARConfig, spec: DataSpec, seed: int, folder: Path | None) -> VAR:
    """The model, freshly initialised, with the space that was prepared in ``folder``.

    Raises:
        InputError: when the space is not one of several scales, or sizes do not fit.
    """
    space = tokenizer(config.space, spec, folder, MultiScaleVQ)
    texts = texts_of(config.text, spec, seed, pooled=False, folder=folder)
    sizes = [h * w for h, w in space.scales(*space.code_shape(spec.shape)[1:])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sides = (config.width, config.depth, config.heads, config.dropout, 0 if texts is None else texts.width)
        net = ScaleNet(space.dims, sizes, space.codes, classes_of(spec), *sides)
    return VAR(net, space, spec, config.Sample(), config.unlabelled, texts)
