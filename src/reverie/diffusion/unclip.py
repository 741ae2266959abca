"""unCLIP: a text becomes the vector of a picture, and the vector a picture.

Ramesh et al., "Hierarchical text-conditional image generation with CLIP latents", 2022 (arXiv:2204.06125). With the unit vectors z of
pictures and y of texts of a picture-text model: a *prior* draws z given y and the text's tokens (section 2.2: a diffusion that predicts z
itself, guided; of two draws the one with the larger z·y), a *decoder* draws a picture given z (section 2.1: an ordinary denoiser with the
condition z). What it is not told it makes up, so that one z has many pictures (section 3.1); on the sphere between two z are pictures
between (section 3.2); and the difference of two texts turns z (section 3.3).

Vectors are diffused and told as √D·z, whose numbers have mean square 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.condition import Cond, ConditionSpec, Entry, Tokens, Vector
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.solve import invert, sample, slerp

BEST = 2
"""Draws of the prior, of which one is kept."""


def told(z: Tensor) -> Tensor:
    """√D·z/‖z‖ of vectors (B, D): what prior and decoder know of them."""
    return F.normalize(z, dim=1) * z.shape[1] ** 0.5


class Pair(NamedTuple):
    """What an unCLIP model has for a text.

    * ``prior``: draws vectors √D·z (D,), with the condition "vector" √D·y, and the tokens as "text"; guided or not.
    * ``decoder``: draws pictures, with the condition "vector" √D·z; guided or not.
    """

    prior: Denoiser
    decoder: Denoiser

    def draw(
        self, y: Tensor, read: Entry | None = None, *, seed: int = 0, prior_steps: int = 50, **how: Any
    ) -> tuple[Tensor, Tensor]:
        """A picture of each text.

        Args:
            y: vectors (B, D) of texts.
            read: their tokens, (B, L, width), for a prior that is told these: ``looks.read(texts)``.
            seed: of both; their noise is independent.
            prior_steps: of the prior, which is cheap.
            how: for the pictures, as of :func:`reverie.sample`.

        Returns:
            Pictures (B, C, H, W), and the unit vectors z (B, D) that they were drawn by.

        Raises:
            InputError: when the two do not fit together.
        """
        spec = self.decoder.conditions.get("vector")
        if not isinstance(spec, Vector) or (spec.dim,) != tuple(self.prior.shape):
            raise InputError(
                f"the decoder is to be told a vector of the shape that the prior draws, {tuple(self.prior.shape)}: it takes "
                f"{', '.join(f'{name} ({spec})' for name, spec in self.decoder.conditions.items()) or 'nothing'}"
            )
        z = best(self.prior, y, read, seed=seed, steps=prior_steps)
        return sample(self.decoder, len(z), Cond(vector=told(z)), seed=seed, **how), z


@torch.no_grad()
def best(prior: Denoiser, y: Tensor, read: Entry | None = None, *, of: int = BEST, seed: int = 0, **how: Any) -> Tensor:
    """Unit vectors z (B, D) for texts, of ``of`` draws each the one with the largest z·y.

    Args:
        prior: draws √D·z given √D·y.
        y: (B, D), of texts.
        read: the tokens of these texts, for a prior that is told them.
        of: draws for each.
        seed: of all of them; a draw is the same whatever others there are.
        how: as of :func:`reverie.sample`.

    Raises:
        InputError: for a prior that is told tokens without these.
    """
    if (read is None) != ("text" not in prior.conditions):
        raise InputError(
            "this prior is told the tokens of a text beside its vector: give read=, looks.read(texts)"
            if read is None
            else "this prior is told the vector of a text alone: leave read= out"
        )
    rows = torch.arange(len(y)).repeat_interleave(of)
    cond = Cond(vector=told(y), **({} if read is None else {"text": read})).to(y.device).index(rows.to(y.device))
    seeds = [(seed ^ 0x5EED, of * i + j) for i in range(len(y)) for j in range(of)]
    drawn = sample(prior, len(seeds), cond, seed=seeds, **how)
    z = F.normalize(drawn, dim=1).unflatten(0, (len(y), of))
    chosen = torch.einsum("bod,bd->bo", z, y.to(z)).argmax(1)
    return z[torch.arange(len(y)), chosen]


def variations(decoder: Denoiser, z: Tensor, n: int, *, seed: int = 0, **how: Any) -> Tensor:
    """``n`` pictures of each vector (B, D), from other noise: (B·n, C, H, W), those of a vector one after the other."""
    return sample(decoder, n * len(z), Cond(vector=told(z).repeat_interleave(n, 0)), seed=seed, **how)


def between(
    decoder: Denoiser, a: Tensor, b: Tensor, look: Callable[[Tensor], Tensor], count: int = 5, *, steps: int = 50
) -> Tensor:
    """Pictures from one to another: both their vectors and their noise turn at constant speed.

    Args:
        decoder: draws pictures given a vector, unguided.
        a, b: (B, C, H, W) in [−1, 1]; the first and the last of the row restore them as far as the inversion is exact.
        look: vectors of pictures.
        count: of the row, at least 2.
        steps: of the inversion of each picture under its vector, and of drawing.

    Returns:
        (count, B, C, H, W).
    """
    ends = [F.normalize(look(x), dim=1) for x in (a, b)]
    noise = [invert(decoder, x, steps, Cond(vector=told(z))) for x, z in zip((a, b), ends, strict=True)]
    row = []
    for weight in torch.linspace(0.0, 1.0, count).tolist():
        z, start = (slerp(first, last, weight) for first, last in (ends, noise))
        row.append(sample(decoder, len(a), Cond(vector=told(z)), solver="ddim", steps=steps, x=start))
    return torch.stack(row)


def turned(z: Tensor, old: Tensor, new: Tensor, weight: float) -> Tensor:
    """Unit vectors of pictures, turned by what a new text says that an old one does not: ``slerp(z, (new − old)/‖new − old‖, weight)``.

    Args:
        z: (B, D), of pictures.
        old, new: (B, D) or (1, D), of texts: what the pictures show, and what they are to show.
        weight: 0 for the pictures as they are; the paper's are .25 to .5.
    """
    difference = F.normalize(F.normalize(new, dim=1) - F.normalize(old, dim=1), dim=1)
    return slerp(F.normalize(z, dim=1), difference.expand_as(z), weight)


class Looked(Around):
    """Samples told by vectors: the condition "vector" (B, D).

    Args:
        data: pictures, for a decoder; or vectors of pictures, for a prior.
        vectors: (N, D), √D·z of the pictures or √D·y of their texts.
        read: the tokens of the texts, told as the condition "text".
    """

    def __init__(self, data: Dataset, vectors: Tensor, read: Entry | None = None) -> None:
        if len(data) != len(vectors):
            raise InputError(f"each sample is told its vector: got {len(data)} samples and {len(vectors)} vectors")
        super().__init__(data)
        self.vectors, self.read = vectors, read

    @property
    def spec(self) -> DataSpec:
        spec = self.data.spec
        told: dict[str, ConditionSpec] = {"vector": Vector(self.vectors.shape[1])}
        if self.read is not None:
            told["text"] = Tokens(self.read.value.shape[2], self.read.value.shape[1])
        return DataSpec(spec.shape, told, (), spec.name, spec.range)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.data.batch(rows)
        text = {} if self.read is None else {"text": self.read.map(lambda v: v[rows])}
        return Batch(batch.x, Cond(vector=self.vectors[rows], **text), batch.extra)
