"""Names of masks: the softmax of scaled cosines between a mask's embedding and those of words (section 3.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError


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


def fuse(p: Tensor, q: Tensor, seen: Tensor, null: Tensor, light: tuple[float, float] = (0.3, 0.7)) -> Tensor:
    """``p^(1−λ)·q^λ·P(not null)``: the model's own probabilities with those of a text-image model on the masked picture (section 3.5).

    Args:
        p, q: (…, K).
        seen: (K,) bool, the categories of training; λ is the first of ``light`` for them and the second for new ones.
        null: (…), the probability that there is nothing.
        light: 0.3 and 0.7 for a model trained on labels, 0.35 and 0.65 on captions.
    """
    weight = torch.where(seen, light[0], light[1]).to(p)
    return p ** (1.0 - weight) * q**weight * (1.0 - null)[..., None]
