"""Models of a picture as a sequence: p(x) = Πᵢ p(xᵢ | x₁ … xᵢ₋₁), each factor a choice among levels that a causal network gives.

The likelihood is exact, in one pass over a given picture; drawing takes a step a number, each from what earlier steps have left
(:meth:`CausalNet.chain`). That chain is also what codes pictures, see :mod:`reverie.families.coding`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from collections.abc import Generator as Steps
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.draws import Draws
from reverie.core.generator import Frame
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.task import Moment, Preview, Task
from reverie.core.tensors import onto
from reverie.diffusion.texts import Texts
from reverie.families.config import ChoiceConfig
from reverie.families.drawing import Listening, count_of
from reverie.families.drawing import columns as beside
from reverie.families.layout import Layout

Chain = Steps[Tensor, Tensor, Any]
"""Yields the log-probabilities (n, choices) of the next number of n sequences, and is sent the numbers (n,) that came."""
HELD_OUT = 512
"""Held-out pictures that training validates on."""
PART = 32
"""Pictures of a pass without gradient."""
SIDE_BY_SIDE, KEPT = 250, 2**29
"""Sequences that are drawn at a time at most, and bytes that their chain may keep."""
SHOWN = 20
"""Pictures of a preview."""


class CausalNet(nn.Module, ABC):
    """What an autoregressive model computes with: of ``length`` whole numbers, each of ``choices``, those after the earlier ones.

    Attributes:
        layout: of pictures as sequences.
        length: whole numbers of a picture.
        choices: values that each may have.
        kept: numbers that a chain keeps of a sequence, where they are many.
    """

    layout: Layout
    length: int
    choices: int
    kept: int = 0

    @abstractmethod
    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        """Log-probabilities in nats of given sequences (B, length), in one pass: (B, …), to be summed."""

    @abstractmethod
    def chain(self, n: int, cond: Cond | None) -> Chain:
        """The same a number at a time, each pass only over what is new; to be run without gradient."""

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] as sequences (B, length)."""
        return self.layout.tokens(x)

    def picture(self, tokens: Tensor) -> Tensor:
        """Sequences (B, length) as pictures (B, C, H, W) in [−1, 1]."""
        return self.layout.picture(tokens)

    @property
    def exact(self) -> bool:
        """Whether a picture and its sequence are one and the same."""
        return True


def side_by_side(net: CausalNet) -> int:
    """How many sequences to walk along at a time."""
    size = next(net.parameters()).element_size()
    return max(1, min(SIDE_BY_SIDE, KEPT // max(1, size * net.kept)))


def guided(net: CausalNet, n: int, cond: Cond, scale: float) -> Chain:
    """The chain guided towards a label or a text, ``log p_null + scale·(log p_told − log p_null)`` of each number (Yu et al. 2022, "Scaling
    autoregressive models for content-rich text-to-image generation"): two sequences side by side, which are the same."""
    chain = net.chain(2 * n, cond.cat(cond.null()))
    log_p = next(chain)
    while True:
        told, null = log_p.chunk(2)
        token = yield (null + scale * (told - null)).log_softmax(-1)
        log_p = chain.send(token.repeat(2))


def walk(
    net: CausalNet, n: int, cond: Cond | None, choose: Callable[[int, Tensor], Tensor], scale: float = 1.0
) -> Tensor:
    """``n`` sequences (n, length), number i of each as ``choose(i, log-probabilities (n, choices)) -> (n,)`` says; these are
    :func:`guided` by a scale other than 1."""
    device = next(net.parameters()).device
    tokens = torch.zeros(n, net.length, dtype=torch.long, device=device)
    chain = net.chain(n, cond) if scale == 1.0 or cond is None else guided(net, n, cond, scale)
    log_p = next(chain)
    for i in range(net.length):
        tokens[:, i] = choose(i, log_p)
        if i + 1 < net.length:
            log_p = chain.send(tokens[:, i])
    return tokens


class Autoregressive(Listening):
    """A causal network, and how it is drawn from.

    Args:
        net: the network.
        spec: of the data.
        sample: the temperature, and the scale of guidance; without, the model as it is.
        unlabelled: whether a model of classes or texts also draws without.
        texts: its text encoders, for data with captions.
    """

    def __init__(
        self,
        net: CausalNet,
        spec: DataSpec,
        sample: ChoiceConfig | None = None,
        unlabelled: bool = False,
        texts: Texts | None = None,
    ) -> None:
        super().__init__(spec.conditions, spec.classes, texts, unlabelled)
        self.net, self.spec, self.how, self.shape = net, spec, sample or ChoiceConfig(), spec.shape
        if net.exact:
            self.log_prob = self._log_prob

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
        """See :meth:`reverie.core.generator.Generator.sample`. A step is a whole number; sample i of a seed is the same whatever n and
        batch_size, unless its draw is within rounding of the edge between two levels (about one 28x28 picture in a thousand)."""
        n = count_of(n, cond, seed)
        cond, seeds = self.condition(cond, n), sample_seeds(seed, n)
        pictures, size = [], batch_size or side_by_side(self.net)
        for start in range(0, n, size):
            part = slice(start, start + size)
            some = None if cond is None else cond.index(part)
            pictures.append(self.net.picture(self._draw(seeds[part], some, on_step)))
        return torch.cat(pictures) if pictures else torch.empty(0, *self.shape)

    def _draw(self, seeds: list[tuple[int, int]], cond: Cond | None, on_step: Callable[[Frame], None] | None) -> Tensor:
        n, length = len(seeds), self.net.length
        weight = next(self.net.parameters())
        like = torch.empty(0, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        uniform = torch.special.ndtr(Tape(seeds, torch.float64).draw("init", 0, (length,)))
        uniform = onto(uniform.clamp(max=1.0 - 2.0**-24), like)
        drawn: list[Tensor] = []

        def so_far() -> Tensor:
            rest = [torch.zeros_like(drawn[0])] * (length - len(drawn))
            return self.net.picture(torch.stack([*drawn, *rest], 1))

        def choose(i: int, log_p: Tensor) -> Tensor:
            below = (log_p.to(like) / self.how.temperature).softmax(-1).cumsum(-1)
            drawn.append((below <= uniform[:, i : i + 1] * below[:, -1:]).sum(-1))
            if on_step is not None:
                on_step(Frame(n, i + 1, length, so_far))
            return drawn[-1]

        return walk(self.net, n, cond, choose, self.how.scale)

    @property
    def classes(self) -> int:
        """That it is told; 0 for none."""
        label = self.conditions.get("label")
        return label.classes if isinstance(label, Label) else 0

    @torch.no_grad()
    def _log_prob(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        """(B, C, H, W) in [−1, 1] -> (B,): the log-probability of the level of every sub-pixel, spread evenly over its bin; in nats."""
        bins = math.log(self.net.layout.levels / 2) * self.net.layout.length
        return self.nats(self.net.tokens(x), cond).add(bins)

    @torch.no_grad()
    def nats(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        """Log-probabilities of sequences (B, length) in nats, (B,)."""
        cond, device = self.condition(cond, len(tokens)), next(self.net.parameters()).device
        parts = []
        for start in range(0, len(tokens), PART):
            part = slice(start, start + PART)
            some = None if cond is None else cond.index(part)
            parts.append(self.net.log_prob(tokens[part].to(device), some).flatten(1).sum(1))
        return torch.cat(parts)

    def settings(self) -> dict[str, Any]:
        return {**vars(self.how)}

    def drawing(self, sample: ChoiceConfig) -> Autoregressive:
        """The same model, drawing otherwise."""
        return Autoregressive(self.net, self.spec, sample, self.unlabelled, self.texts)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net, **self.modules_beside()}


class NextToken(Task):
    """Maximum likelihood: the loss is what a picture costs, in bits a sub-pixel.

    Args:
        model: what is trained.
        held_out: pictures to validate on.
        seed: of previews.
        drop: share of the labels or texts that are dropped, for guidance.
    """

    def __init__(self, model: Autoregressive, held_out: Dataset, seed: int, drop: float = 0.0) -> None:
        self.model, self.held_out, self.seed, self.drop = model, held_out, seed, drop
        self.players = model.players(model.net)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        net, cond = self.model.net, self.model.heard(batch, rng, self.drop)
        return {"bits": net.log_prob(net.tokens(batch.x), cond).flatten(1).sum(1).float() * self.per_bit}

    @property
    def per_bit(self) -> float:
        return -1.0 / (math.log(2) * self.model.net.layout.length)

    def validate(self) -> dict[str, float | list[float]]:
        """``bits`` a sub-pixel of held-out pictures."""
        if not len(self.held_out):
            return {}
        rows = torch.linspace(0, len(self.held_out) - 1, min(HELD_OUT, len(self.held_out))).long()
        batch = self.held_out.batch(rows)
        with torch.no_grad():
            cond = self.model.heard(batch.to(next(self.model.net.parameters()).device))
        return {"bits": float(self.model.nats(self.model.net.tokens(batch.x), cond).mean()) * self.per_bit}

    def preview(self) -> Preview | None:
        if self.model.texts is not None:
            return beside(self.model, self.held_out)
        cond, columns = None, SHOWN // 2
        if self.model.classes:
            columns = min(columns, self.model.classes)
            cond = Cond(label=[i % columns for i in range(2 * columns)])
        return Preview(self.model.sample(2 * columns, cond, seed=self.seed), columns)
