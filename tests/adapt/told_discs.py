"""The trained discs of :mod:`tests.guide.discs`, told by words: a model that draws two things, and can be taught further ones."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reverie.core.condition import Entry
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser

from ..guide import discs

NAMES = ("red", "green", "blue", "ground")


class Words:
    """A text encoder of four words, or others, and of those it is taught; what else is said is not heard."""

    def __init__(self, rows: Mapping[str, Tensor] | None = None) -> None:
        self.rows: dict[str, Tensor] = dict(rows or zip(NAMES, discs.WORDS, strict=True))

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        said = [[self.rows[word] for word in text.split() if word in self.rows] for text in texts]
        length = max(map(len, said))
        value = torch.stack(
            [torch.stack([*each, *[torch.zeros_like(each[0])] * (length - len(each))]) for each in said]
        )
        mask = torch.tensor([[i < len(each) for i in range(length)] for each in said])
        return {"text": Entry(value, mask, torch.ones(len(texts), dtype=torch.bool))}

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for i, word in enumerate(word for word in text.split() if word in self.rows):
            found[word] = (*found.get(word, ()), i)
        return found

    def beginning(self, word: str) -> Tensor:
        return self.rows.get(word, torch.zeros_like(next(iter(self.rows.values())))).clone()

    def spoken(self, rows: Mapping[str, Tensor]) -> "Words":
        other = copy.copy(self)
        other.rows = {**self.rows, **rows}
        return other

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Words":
        return self


def model() -> NetDenoiser:
    denoise = discs.load()
    denoise.conditioner = Conditioner(denoise.conditions, (), Words())
    return denoise


def disc(colour: tuple[float, float, float], at: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A picture (3, 16, 16) of one disc on the dark ground, and its mask (16, 16)."""
    axis = torch.arange(discs.SIZE) + 0.5
    away = ((axis[:, None] - at[0]) ** 2 + (axis[None] - at[1]) ** 2).sqrt()
    cover = (discs.RADIUS + 0.5 - away).clamp(0.0, 1.0)
    return 2.0 * cover * torch.tensor(colour)[:, None, None] - 1.0, cover > 0.5
