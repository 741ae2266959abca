"""How well pictures show their captions: CLIPScore, and whether a picture finds its caption among a hundred.

CLIPScore is ``w·max(cos(u, v), 0)``, w = 2.5, of the embeddings u of a picture and v of its caption (Hessel et al. 2021, equation 1); it
bears that name only in CLIP's embeddings. Retrieval asks for what share of pictures their own caption is the nearest, or one of the five
nearest, among 100 that differ from each other, the others chosen at random (the R-precision of Xu et al. 2018, section 4.1). Both are of
embeddings, whoever makes them: anything that is a :class:`PictureText`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.noise import normal_rows

AMONG, WEIGHT = 100, 2.5
"""Captions that a picture chooses from, and w."""
CHUNK = 256


@runtime_checkable
class PictureText(Protocol):
    """Pictures and texts as vectors of one space. ``name`` is stored with every figure; ``seen`` says in words which pictures it was
    trained on, ``data`` is the name of their data set ("" where nobody knows)."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def seen(self) -> str: ...

    def pictures(self, images: Tensor) -> Tensor:
        """Unit vectors (N, D) of pictures (N, C, H, W) in [−1, 1]."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of texts."""
        ...


class Matched(NamedTuple):
    """How well pictures match captions.

    * ``score``: the mean CLIPScore.
    * ``at_one``, ``at_five``: shares of pictures whose caption is among the nearest.
    """

    score: float
    at_one: float
    at_five: float


def clip_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """``2.5·max(cos, 0)`` of embeddings (N, D) of pictures and of their captions, (N,)."""
    return WEIGHT * F.cosine_similarity(pictures, texts, dim=1).clamp(min=0.0)


def ranks(similarity: Tensor, own: Tensor, among: int = AMONG, seed: int = 0) -> tuple[Tensor, Tensor]:
    """How many of the captions that a picture chooses from are nearer than its own, and how many others just as near; (N,) each.

    Args:
        similarity: (N, M), of each picture with each of M captions that all differ.
        own: (N,) int64, the column of its own.
        among: captions it chooses from, its own included; all of them where there are no more.
        seed: of the choice, which is a function of it and of the row.
    """
    n, m = similarity.shape
    order = torch.from_numpy(normal_rows([f"retrieval/{seed}/{i}" for i in range(n)], m)).to(similarity)
    order[torch.arange(n, device=own.device), own] = torch.inf
    chosen = order.topk(min(among, m), dim=1).indices
    others, mine = similarity.gather(1, chosen)[:, 1:], similarity.gather(1, own[:, None])
    return (others > mine).sum(1), (others == mine).sum(1)


def found(nearer: Tensor, tied: Tensor, k: int) -> Tensor:
    """Of each picture the probability that its caption is among the k nearest, ties in random order: a score that says the same of all
    captions is at chance."""
    return ((k - nearer).double() / (tied + 1)).clamp(0.0, 1.0)


def retrieved(pictures: Tensor, texts: Tensor, own: Tensor, among: int = AMONG, seed: int = 0) -> Matched:
    """How well embeddings match.

    Args:
        pictures: (N, D), unit vectors.
        texts: (M, D), unit vectors of captions that all differ.
        own, among, seed: as of :func:`ranks`.
    """
    nearer, tied = ranks(pictures @ texts.T, own, among, seed)
    at_one, at_five = (found(nearer, tied, k).mean().item() for k in (1, 5))
    return Matched(clip_score(pictures, texts[own]).mean().item(), at_one, at_five)


@torch.no_grad()
def matched(looks: PictureText, images: Tensor, captions: Sequence[str], among: int = AMONG, seed: int = 0) -> Matched:
    """How well pictures match their captions.

    Args:
        looks: makes the embeddings.
        images: (N, C, H, W) in [−1, 1].
        captions: N of them, of which at least two differ; those that do are what a picture chooses from.
        among: how many of these.
        seed: of the choice.

    Raises:
        InputError: for another number of captions than pictures, or when all of them are the same.
    """
    different = list(dict.fromkeys(captions))
    if len(captions) != len(images) or len(different) < 2:
        raise InputError(
            f"retrieval takes a caption a picture, of which some differ: got {len(captions)} captions, {len(different)} of them "
            f"different, for {len(images)} pictures"
        )
    rows = {caption: row for row, caption in enumerate(different)}
    own = torch.tensor([rows[caption] for caption in captions])
    texts = torch.cat([looks.texts(different[i : i + CHUNK]).float().cpu() for i in range(0, len(different), CHUNK)])
    pictures = torch.cat([looks.pictures(part).float().cpu() for part in images.split(CHUNK)])
    return retrieved(pictures, texts, own, among, seed)
