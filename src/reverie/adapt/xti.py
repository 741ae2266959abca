"""XTI (Voynov et al., "P+: Extended Textual Conditioning in Text-to-Image Generation", 2023): a token with a row of its own a layer.

The space P+ has a condition for each layer that attends to the text; extended textual inversion learns in it, ``p_1 … p_n`` in the place
of the one p of textual inversion (section 3.3). Here the n texts stand one beside the other along the features, and layer i reads the i-th
part, so that guidance, negative texts and editing go on as they do. Of a model of classes it is what modulates the blocks: the n vectors
that the class makes with the time stand side by side, and each modulation reads its own. At first all rows are the same, and the model is
the base to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, Entry
from reverie.core.conditioner import TextEncoder
from reverie.core.errors import InputError
from reverie.nets.copies import sharing
from reverie.nets.embeddings import Conditioning

TEXT = r"(cross\.kv|attn2\.to_[kv])$"
"""The maps to keys and values of a text alone, in our networks and in those of diffusers."""
CLASS = r"modulation$"
"""The maps to what modulates the blocks of our networks."""


def places(net: nn.Module, text: bool) -> dict[str, int]:
    """The paths of the layers that listen to the condition, each with its number; keys and values of one attention have the same.

    Raises:
        InputError: when there are none.
    """
    pattern, numbers = TEXT if text else CLASS, dict[str, int]()
    found = {}
    for path, module in net.named_modules():
        if isinstance(module, nn.Linear) and re.search(pattern, path):
            owner = path.rpartition(".")[0] if text else path
            found[path] = numbers.setdefault(owner, len(numbers))
    if not found:
        what = "cross-attention" if text else "modulated blocks"
        raise InputError(
            f"xti gives each layer its own row, and {type(net).__name__} has no {what}: use --method textual"
        )
    return found


class Sliced(nn.Linear):
    """A linear layer that reads its part of what stands side by side; it shares the weights of ``linear``."""

    part: int
    parts: int

    @classmethod
    def of(cls, linear: nn.Linear, part: int, parts: int) -> Sliced:
        new = object.__new__(cls)
        vars(new).update(vars(linear), part=part, parts=parts)
        return new

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.chunk(self.parts, -1)[self.part])


def split(net: nn.Module, text: bool) -> nn.Module:
    """A copy of a network, which shares its weights, whose layers each read their own part of the condition."""
    where = places(net, text)
    parts = 1 + max(where.values())
    shell: Any = sharing(net, where)
    for path, part in where.items():
        owner, _, name = path.rpartition(".")
        shell.get_submodule(owner)._modules[name] = Sliced.of(net.get_submodule(path), part, parts)  # pyright: ignore[reportArgumentType]
    if text and getattr(shell, "context", 0):
        shell.context = parts * shell.context
    return shell


class Beside(nn.Module):
    """What makes a condition's vector of the time and a class, (B, n·width): of n copies, which differ in the rows of learned classes."""

    def __init__(self, each: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(each)

    def forward(self, time: Tensor, cond: Cond | None, batch: int) -> Tensor:
        return torch.cat([one(time, cond, batch) for one in self.each], -1)


def beside(net: Any, tables: Sequence[str], parts: int) -> tuple[dict[str, str], nn.Module]:
    """A network whose condition's vector is made once a layer: by the name of each table of classes in it, the name that it had; and it.

    Raises:
        InputError: for a network that is told its class elsewhere.
    """
    start = "conditioning."
    if not isinstance(net.conditioning, Conditioning) or not all(path.startswith(start) for path in tables):
        raise InputError(
            f"xti gives each layer its own class, and {type(net).__name__} is not told it with the time: use --method textual"
        )
    each = [sharing(net.conditioning, [path.removeprefix(start) for path in tables]) for _ in range(parts)]
    for one in each:
        for path in tables:
            table: Any = one.get_submodule(path.removeprefix(start))
            table._parameters = {"weight": nn.Parameter(torch.zeros_like(table.weight), requires_grad=False)}
    net._modules["conditioning"] = Beside(each)
    names = {
        f"{start}each.{i}.{path.removeprefix(start)}.weight": f"{path}.weight" for i in range(parts) for path in tables
    }
    return names, net


class PerLayer:
    """A text encoder whose learned words differ by layer: what it makes of a text in each, side by side.

    Args:
        text: an encoder that learns words.
        rows: of each word, as they are at each call: training moves them.
        wide: the words whose rows differ by layer.
        parts: how many layers there are.
    """

    def __init__(self, text: Any, rows: Mapping[str, Tensor], wide: Collection[str], parts: int) -> None:
        self.text, self.rows, self.wide, self.parts = text, rows, wide, parts

    def layer(self, part: int) -> TextEncoder:
        """The encoder of a layer."""
        return self.text.spoken({word: row[part] if word in self.wide else row for word, row in self.rows.items()})

    @property
    def mean(self) -> TextEncoder:
        """One whose words are the means over the layers, of equal rows that row to the bit."""
        means = {word: self.rows[word][0] + (self.rows[word] - self.rows[word][0]).mean(0) for word in self.wide}
        return self.text.spoken({**self.rows, **means})

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        """The vector of a text belongs to no layer: it is that of :attr:`mean`."""
        told = [self.layer(part)(texts, negative)["text"] for part in range(self.parts)]
        nulls = [entry.null for entry in told if entry.null is not None]
        text = told[0]._replace(value=torch.cat([entry.value for entry in told], -1))
        text = text._replace(null=torch.cat(nulls, -1)) if nulls else text
        return {**self.mean(texts, negative), "text": text}

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        return self.mean.words(text)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.text.to(device, dtype)
        return self
