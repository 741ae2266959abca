"""Names of masks: the softmax of scaled cosines between a mask's embedding and those of words (section 3.4)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.read.odise.masks import inside

LABELS, CAPTIONS = (0.3, 0.7), (0.35, 0.65)
"""λ of seen and of new categories, of a model trained on labels and of one trained on captions (section 4.1)."""


@dataclass(frozen=True)
class Vocabulary:
    """Categories, each with one or more words for it.

    Attributes:
        names: by category its synonyms.
        embeddings: (W, dim), of all words in order, from any text encoder.
    """

    names: Sequence[Sequence[str]]
    embeddings: Tensor

    def __post_init__(self) -> None:
        words = sum(len(synonyms) for synonyms in self.names)
        if words != len(self.embeddings) or any(not synonyms for synonyms in self.names):
            raise InputError(
                f"a vocabulary has an embedding a word, and words for each category: got {words} words, {len(self.embeddings)} embeddings"
            )

    def strongest(self, scores: Tensor) -> Tensor:
        """Scores (…, W) of words to (…, K) of categories: the best of the synonyms."""
        parts = scores.split([len(synonyms) for synonyms in self.names], -1)
        return torch.stack([part.amax(-1) for part in parts], -1)


class Naming(nn.Module):
    """Logits of categories for embeddings of masks.

    Args:
        width: of the masks' embeddings.
        dim: of the words'.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width, bias=False)
        self.null = nn.Parameter(torch.randn(width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """τ, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def forward(self, z: Tensor, vocabulary: Vocabulary) -> Tensor:
        """(B, Q, width) -> (B, Q, K + 1); the last says that the mask shows nothing."""
        z = F.normalize(z, dim=-1)
        words = F.normalize(self.project(vocabulary.embeddings.to(z)), dim=-1)
        null = z @ F.normalize(self.null, dim=0)
        return self.scale * torch.cat([vocabulary.strongest(z @ words.T), null[..., None]], -1)

    def grounding(self, z: Tensor, words: Tensor) -> Tensor:
        """The loss of captions in place of labels (equation 6): each word finds its masks, each picture its caption.

        Args:
            z: (B, Q, width).
            words: (B, W, dim), of the noun phrases of each picture's caption.

        Returns:
            (), symmetric cross-entropy over the batch.
        """
        z, words = F.normalize(z, dim=-1), F.normalize(self.project(words), dim=-1)
        cosines = torch.einsum("iqc,jwc->ijqw", z, words)
        similarity = ((self.scale * cosines).softmax(2) * cosines).sum(2).mean(2)
        target = torch.arange(len(z), device=z.device)
        logits = self.scale * similarity
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def fuse(p: Tensor, q: Tensor, seen: Tensor, null: Tensor, light: tuple[float, float] = LABELS) -> Tensor:
    """``p^(1−λ)·q^λ·P(not null)``: the model's own probabilities with those of a text-image model on the masked picture (section 3.5).

    Args:
        p, q: (…, K).
        seen: (K,) bool, the categories of training; λ is the first of ``light`` for them and the second for new ones.
        null: (…), the probability that there is nothing.
        light: :data:`LABELS` or :data:`CAPTIONS`.
    """
    weight = torch.where(seen, light[0], light[1]).to(p)
    return p ** (1.0 - weight) * q**weight * (1.0 - null)[..., None]


Scorer = Callable[[Tensor, Tensor, Vocabulary], Tensor]
"""Pictures (B, C, H, W) in [−1, 1], their masks (B, Q, H, W) in [0, 1] and words -> q (B, Q, K), probabilities: any picture-text model."""


class Helper(NamedTuple):
    """A picture-text model beside the mask generator.

    * ``scorer``: its scores of masks, such as :func:`masked`.
    * ``seen`` (K,) bool: the categories that the mask generator was trained on.
    * ``light``: λ of seen and of new ones, its share.
    """

    scorer: Scorer
    seen: Tensor
    light: tuple[float, float] = LABELS


def masked(encode: Callable[[Tensor], Tensor], scale: float = 100.0) -> Scorer:
    """Masked scores in the manner of MaskCLIP: features of places averaged inside a mask, compared with the words.

    Args:
        encode: pictures (B, C, H, W) -> maps (B, dim, h, w) in the space of the words' embeddings, such as CLIP's last tokens.
        scale: of the cosines; CLIP's is 100.
    """

    def scorer(images: Tensor, masks: Tensor, vocabulary: Vocabulary) -> Tensor:
        maps = encode(images)
        small = F.interpolate(masks, maps.shape[2:], mode="bilinear", antialias=True)
        e = F.normalize(inside(maps, small > 0.5), dim=-1)
        words = F.normalize(vocabulary.embeddings.to(e), dim=-1)
        return (scale * vocabulary.strongest(e @ words.T)).softmax(-1)

    return scorer


def helped(logits: Tensor, helper: Helper, images: Tensor, masks: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits (B, Q, K + 1) as probabilities, fused with a helper's: those of categories by :func:`fuse`, then all made to sum to 1.

    Raises:
        InputError: when the helper does not say of every category whether it was seen.
    """
    if len(helper.seen) != len(vocabulary.names):
        raise InputError(f"seen is one a category: got {len(helper.seen)} for {len(vocabulary.names)} categories")
    p, null = logits[..., :-1].softmax(-1), logits.softmax(-1)[..., -1]
    q = helper.scorer(images, masks, vocabulary)
    both = torch.cat([fuse(p, q, helper.seen.to(p.device), null, helper.light), null[..., None]], -1)
    return both / both.sum(-1, keepdim=True)
