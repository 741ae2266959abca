"""Cut-Mix-Unmix (Han et al., "SVDiff: Compact Parameter Space for Diffusion Fine-Tuning", ICCV 2023, section 3.3).

Of two subjects learned together a model makes mixtures. So in a share of the steps it is shown both as they are to stand, the left half of
a picture of one beside the right half of a picture of the other, under a prompt that says so (cut and mix). And of the maps of
cross-attention the squares are added to the loss where the word of one looks at the half of the other (unmix): there they are to be 0. It
serves every method; the paper trains the singular values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import unmerged
from reverie.adapt.training import Adapting, own, settled, trained
from reverie.adapt.watching import watch
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task

SHARE = 0.6
"""Of the steps that show both (the paper's probability)."""


class CutMixUnmix(Task):
    """The base's own task on pictures of two subjects and of both; batches hold the first as x and the second as ``extra["other"]``.

    Args:
        model: the base, told texts, and an adapter with a token for each.
        one: the prompt of a picture of one subject, {} where its token stands.
        two: of one that shows both, {} for the left and {} for the right.
        share: of pictures that show both.
        unmix: weight of the squares of attention.
    """

    def __init__(self, model: Adapting, one: str, two: str, share: float = SHARE, unmix: float = 1.0) -> None:
        beside = unmerged(model.base, model.adapter)
        self.beside, self.own, self.names = beside, own(beside), model.adapter.tokens
        self.one, self.two, self.share, self.unmix = one, two, share, unmix
        self.maps = watch(beside)
        self.players = {
            "adapter": Player(model.adapter, average=False),
            "base": Player(beside.net, optim=None, average=False, train=False, saved="none"),
        }

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        mixed, turned = rng.uniform("mix") < self.share, rng.even("side") < 0.5
        x, said = self.shown(batch.x, batch.extra["other"], mixed, turned)
        self.maps.clear()
        parts = self.own.loss(next(iter(self.own.players)), Batch(x, self.beside.conditioner(said)), rng, progress)
        if self.unmix:
            parts["unmix"] = self.unmix * self.leak(said, mixed, turned)
        return parts

    def shown(self, first: Tensor, second: Tensor, mixed: Tensor, turned: Tensor) -> tuple[Tensor, list[str]]:
        """Pictures (B, C, H, W) of one subject, or where ``mixed`` (B,) of both, and what is said of them.

        Args:
            first, second: pictures of each.
            turned: where the second takes the place of the first.
        """
        swap, half = turned.to(first.device).reshape(-1, 1, 1, 1), first.shape[-1] // 2
        left, right = torch.where(swap, second, first), torch.where(swap, first, second)
        both = torch.cat([left[..., :half], right[..., half:]], -1)
        said = [
            (self.two if m else self.one).format(*(reversed(self.names) if t else self.names))
            for m, t in zip(mixed.tolist(), turned.tolist(), strict=True)
        ]
        return torch.where(mixed.to(first.device).reshape(-1, 1, 1, 1), both, left), said

    def leak(self, said: list[str], mixed: Tensor, turned: Tensor) -> Tensor:
        """The mean square of attention of each word in the half of the other, of each picture that shows both and else 0, (B,)."""
        length, total = self.maps[0].shape[-1], torch.zeros(len(said), device=self.maps[0].device)
        of = torch.zeros(2, len(said), length, dtype=torch.bool)  # which tokens are those of the left, and of the right
        for i, text in enumerate(said):
            words = self.beside.conditioner.words(text) if mixed[i] else {}
            for side, name in enumerate(reversed(self.names) if turned[i] else self.names):
                of[side, i, list(words.get(name, ()))] = True
        height, width = self.beside.shape[-2:]
        for seen in self.maps:
            count = seen.shape[2]
            columns = round((count * width / height) ** 0.5)
            right = torch.arange(count) % columns >= columns / 2
            wrong = torch.where(right[:, None], of[0][:, None], of[1][:, None]).to(seen)[:, None]
            total = total + (wrong * seen.square()).sum((1, 2, 3)) / (seen.shape[1] * wrong.sum((1, 2, 3))).clamp(
                min=1.0
            )
        return total / len(self.maps)


def mixed(
    denoise: NetDenoiser,
    subjects: Mapping[str, Tensor],
    method: str = "svdiff",
    *,
    one: str = "a photo of {}",
    two: str = "a photo of {} on the left and {} on the right",
    likes: Mapping[str, str] | None = None,
    share: float = SHARE,
    unmix: float = 1.0,
    steps: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Adapter:
    """An adapter of two subjects that are told apart.

    Args:
        denoise: the base, unguided, told texts by cross-attention.
        subjects: pictures (N, C, H, W) in [−1, 1] of each, by its token.
        method, steps, rate, batch, seed, settings: as of :func:`reverie.adapt.fit`.
        one: the prompt of a picture of one of them.
        two: of one that shows both, left and right.
        likes: the word that each token begins at.
        share: of pictures that show both.
        unmix: weight of the squares of attention.

    Raises:
        InputError: for another number of subjects, a model without cross-attention to a text, or settings that do not fit.
    """
    if len(subjects) != 2 or one.count("{}") != 1 or two.count("{}") != 2:
        raise InputError(
            f"two subjects are told apart, {{}} in one= and twice in two=: got {len(subjects)}, {one!r} and {two!r}"
        )
    if denoise.conditioner.text is None or "text" not in denoise.conditions:
        raise InputError("two subjects are told apart by what is said of them: this takes a model of texts")
    config = settled(method, settings)
    rows = {token: tokens.beginning(denoise, (likes or {}).get(token)) for token in subjects}
    denoise.net.eval().requires_grad_(False)
    adapter = Adapter(config.name, fingerprint(denoise.net), config.changes(denoise.net, seed), rows)
    first, second = subjects.values()

    def feed(start: int, count: int) -> Batch:
        at = torch.arange(start, start + count)
        return Batch(first[at % len(first)], extra={"other": second[at % len(second)]})

    task = CutMixUnmix(Adapting(denoise, adapter, None), one, two, share, unmix)
    return trained(task, adapter, feed, config, steps, rate, batch, seed, str(denoise.device))
