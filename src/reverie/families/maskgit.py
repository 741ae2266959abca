"""MaskGIT: tokens of a picture are predicted all at once, the surest kept, the others predicted again.

Chang et al., "MaskGIT: masked generative image transformer", CVPR 2022. In training (their section 3.1) a share cos(πu/2) of the tokens is
masked, u uniform, and the network tells which they were. Drawing (section 3.2) begins with all masked; after step t of T the
⌊N·cos(π(t+1)/2T)⌋ least sure are masked again, by ``log p + τ·(1 − (t+1)/T)·Gumbel``: noise that early steps need, so that samples differ.
The alternative keeps places in the order of a Halton sequence (Besnier et al. 2025): those of a step are spread over the picture.
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
from reverie.core.tensors import onto
from reverie.diffusion.texts import texts_of
from reverie.families.drawing import columns, drawn, validated
from reverie.families.token_model import TokenModel
from reverie.families.token_net import TokenNet, categorical, classes_of, guided, tokenizer
from reverie.spaces.vq import VQ

if TYPE_CHECKING:
    from reverie.families.token_config import MaskGITConfig


class MaskedNet(TokenNet):
    """Tokens (B, L), of which the number :attr:`mask` stands for a masked one, and conditions to logits (B, L, codes)."""

    def __init__(
        self, codes: int, length: int, classes: int, width: int, depth: int, heads: int, context: int = 0
    ) -> None:
        super().__init__(codes, length, classes, width, depth, heads, context=context)
        self.mask = codes
        self.embed["token"] = nn.Embedding(codes + 1, width)
        nn.init.normal_(self.embed["token"].weight, std=0.02)  # pyright: ignore[reportArgumentType]

    def forward(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        return self.predict(self.embed["token"](tokens), cond)


class MaskGIT(TokenModel):
    """Draws the tokens of a space in a few steps."""

    net: MaskedNet

    @property
    def length(self) -> int:
        """L, of a picture."""
        return self.space.token_count(self.shape)

    def logits(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        """What is predicted of tokens (B, L), guided towards what B samples are told by the scale: (B, L, codes)."""
        if self.how.scale == 1.0 or cond is None:
            return self.net(tokens, cond)
        return guided(self.net(tokens.repeat(2, 1), cond.cat(cond.null())), self.how.scale)

    def filled(
        self, tokens: Tensor, cond: Cond | None, tape: Tape, told: Callable[[int, Tensor], None] | None = None
    ) -> Tensor:
        """Tokens (B, L) with what is masked in them drawn; the others stay.

        Args:
            told: called after each step with how many were made and the tokens so far, masked ones among them.
        """
        grid, steps, mask = self.space.code_shape(self.shape)[1:], self.how.steps, self.net.mask
        late = halton(*grid).to(tokens.device) if self.how.order == "halton" else None
        free = tokens == mask
        left = torch.tensor([masked(n, steps) for n in range(self.length + 1)], device=tokens.device)[free.sum(1)]
        for t in range(steps):
            logits = self.logits(tokens, cond).float()
            found = categorical(logits, tape.draw("token", t, (self.length,)))
            if late is None:
                noise = onto(gumbel(tape.draw("sure", t, (self.length,))), logits)
                sure = logits.log_softmax(-1).gather(-1, found[..., None])[..., 0]
                sure = sure + self.how.temperature * (1.0 - (t + 1) / steps) * noise
            else:
                sure = -late.expand_as(found).float()
            unknown = tokens == mask
            again = lowest(sure.masked_fill(~unknown, torch.inf), left[:, t]) & free
            tokens = torch.where(unknown, found, tokens).masked_fill(again, mask)
            if told is not None:
                told(t + 1, tokens)
        return tokens

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
            blank = torch.full((count, self.length), self.net.mask, device=self.net.out.weight.device)
            return self.pictures(self.filled(blank, cond, tape, told if on_step else None))

        def told(done: int, tokens: Tensor) -> None:
            assert on_step is not None
            on_step(Frame(len(tokens), done, self.how.steps, lambda: self.pictures(tokens)))

        return drawn(self, draw, n, cond, seed, batch_size, optional=self.unlabelled)

    def pictures(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) as pictures; a masked one as the code that is nearest to the mean of all."""
        book = self.space.codebook
        tokens = torch.where(tokens == self.net.mask, book.nearest(book.codes.mean(0, keepdim=True)), tokens)
        return self.space.from_tokens(tokens, self.shape).clamp(-1.0, 1.0)

    def learning(self) -> Masking:
        return Masking(self)


def masked(length: int, steps: int) -> list[int]:
    """How many of ``length`` tokens are masked after each step: fewer each time while there are several, and none in the end."""
    left, found = length, []
    for t in range(1, steps):
        left = max(1, min(left - 1, math.floor(length * math.cos(0.5 * math.pi * t / steps))))
        found.append(left)
    return [*found, 0]


def lowest(sure: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B,) smallest of each row (B, L), as a mask."""
    return sure.argsort(dim=1).argsort(dim=1) < count[:, None]


def gumbel(noise: Tensor) -> Tensor:
    """Normal noise as noise of the standard Gumbel distribution."""
    return -(-torch.special.log_ndtr(noise.double())).log()


def halton(height: int, width: int) -> Tensor:
    """When each place of a grid has its turn, (height·width,), as a Halton sequence of the bases 2 and 3 comes by."""
    turns: dict[int, int] = {}
    k = 0
    while len(turns) < height * width:
        k += 1
        turns.setdefault(int(radical(k, 2) * height) * width + int(radical(k, 3) * width), len(turns))
    return torch.tensor([turns[place] for place in range(height * width)])


def radical(k: int, base: int) -> float:
    """The digits of k mirrored at the point, in [0, 1) (van der Corput)."""
    value, unit = 0.0, 1.0
    while k:
        unit /= base
        value, k = value + unit * (k % base), k // base
    return value


class Masking(Task):
    """Tells masked tokens from the others: the cross-entropy where they are masked.

    Args:
        model: what is trained.
        held_out: pictures to validate on and to show.
        drop: share of the labels or texts that are dropped, for guidance.
        smoothing: share of the truth that is spread over all codes.
    """

    def __init__(
        self, model: MaskGIT, held_out: Dataset | None = None, drop: float = 0.0, smoothing: float = 0.1
    ) -> None:
        self.model, self.held_out, self.drop, self.smoothing = model, held_out, drop, smoothing
        self.players = model.players(model.net)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        with torch.no_grad():
            tokens = self.model.space.to(batch.x.device).tokens(batch.x)
        hidden = self.hidden(rng).to(tokens.device)
        cond = self.model.heard(batch, rng, self.drop)
        logits = self.model.net(tokens.masked_fill(hidden, self.model.net.mask), cond)
        surprise = F.cross_entropy(logits.mT, tokens, reduction="none", label_smoothing=self.smoothing)
        return {"surprise": (surprise * hidden).sum(1) / hidden.sum(1)}

    def hidden(self, rng: Draws) -> Tensor:
        """Which tokens are masked, (B, L): a share cos(πu/2) of each picture's, one at least."""
        count = (self.model.length * torch.cos(0.5 * math.pi * rng.even("share"))).round().clamp(min=1)
        return lowest(rng.normal("hide", (self.model.length,)), count)

    def validate(self) -> dict[str, float | list[float]]:
        """The loss on held-out pictures."""
        return validated(self, self.held_out)

    def preview(self) -> Preview | None:
        return columns(self.model, self.held_out)


def build(config: MaskGITConfig, spec: DataSpec, seed: int, folder: Path | None) -> MaskGIT:
    """The model, freshly initialised, with the space that was prepared in ``folder``.

    Raises:
        InputError: when the space has no tokens, or sizes do not fit.
    """
    space = tokenizer(config.space, spec, folder, VQ)
    texts = texts_of(config.text, spec, seed, pooled=False, folder=folder)
    classes, context = classes_of(spec), 0 if texts is None else texts.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (space.codes, space.token_count(spec.shape), classes, config.width, config.depth, config.heads)
        net = MaskedNet(*sizes, context)
    return MaskGIT(net, space, spec, config.Sample(), config.unlabelled, texts)
