"""HyperDreamBooth (Ruiz et al., "HyperDreamBooth: HyperNetworks for Fast Personalization of Text-to-Image Models", CVPR 2024).

Lightweight DreamBooth (section 4.1) splits both factors of a low-rank change once more, ``ΔW = A_aux·A·B·B_aux``: A_aux (out, a) and B_aux
(b, in) are random, orthogonal and stay, so that a seed stands for them, and of a layer r·(a + b) numbers are left. A hypernetwork (section
4.2) predicts these of all layers from pictures: a transformer whose tokens are the layers sees the picture and its own last prediction, and
corrects that k times from zero. Tuning then gives the rank free (section 4.3): the prediction is the start of a low-rank change of a higher
rank without the auxiliary factors.

Left out is the second term of the paper's loss, ``‖θ̂ − θ‖²``, which takes a DreamBooth of every subject beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change, layers
from reverie.adapt.looking import Looking, Predicted, Predictor
from reverie.adapt.lora import LowRank
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.nets.layers import zeroed

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter


class Light(Change):
    """``A_aux·up·down·B_aux`` with ``up`` A (a, r), zero at first, and ``down`` B (r, b).

    Args:
        outer, inner: a and b, at most what the weight has.
        rank: r.
        seed: of A_aux and B_aux.
    """

    kind: ClassVar[str] = "hyperdreambooth"

    def __init__(self, outer: int, inner: int, rank: int, seed: int) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(outer, rank)), nn.Parameter(torch.zeros(rank, inner))
        self.seed, self.fixed = seed, dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]]()

    @classmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        outer, inner, rank, seed = (int(settings[key]) for key in ("outer", "inner", "rank", "seed"))
        return cls(min(outer, shape[0]), min(inner, torch.Size(shape[1:]).numel()), rank, seed)

    def settings(self) -> dict[str, float]:
        return {"outer": len(self.up), "inner": self.down.shape[1], "rank": len(self.down), "seed": self.seed}

    def auxiliary(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A_aux (out, a) with orthonormal columns, B_aux (b, in) with orthonormal rows; found once."""
        out, inputs = len(weight), weight[0].numel()
        key = (out, inputs, weight.device)
        if key not in self.fixed:
            left, right = (
                torch.linalg.qr(Draws(self.seed, 0, 1).normal(name, (size, part))[0].double())[0].float()
                for name, size, part in (("outer", out, len(self.up)), ("inner", inputs, self.down.shape[1]))
            )
            self.fixed[key] = left.to(weight.device), right.T.contiguous().to(weight.device)
        return self.fixed[key]

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of the low-rank change that it is, (out, r) and (r, in·k²)."""
        left, right = self.auxiliary(weight)
        return left @ self.up, self.down @ right

    def delta(self, weight: Tensor) -> Tensor:
        up, down = self.factors(weight)
        return (up @ down).reshape(weight.shape).to(weight.dtype)


def changes(net: nn.Module, pattern: str, rank: int, outer: int, inner: int, seed: int) -> dict[str, Change]:
    """Changes of zero for the layers of a network that match ``pattern``, by weight; B is drawn as linear layers are.

    Raises:
        InputError: when none match.
    """
    found: dict[str, Change] = {}
    for i, (name, weight) in enumerate(layers(net, pattern).items()):
        settings = {"outer": outer, "inner": inner, "rank": rank, "seed": seed + i}
        found[name] = change = Light.blank(tuple(weight.shape), settings)
        with torch.no_grad():
            change.down.copy_(Draws(seed + i, 0, 1).normal("down", change.down.shape)[0] * change.down.shape[1] ** -0.5)
    return found


def relaxed(adapter: Adapter, net: nn.Module, rank: int, seed: int = 0) -> Adapter:
    """The same adapter as low-rank changes of a higher rank, to train on from: what it adds beyond is zero.

    Args:
        adapter: of HyperDreamBooth.
        net: the network of its base.
        rank: of the changes.
        seed: of the new rows of B.

    Raises:
        InputError: for another adapter, or a rank below its own.
    """
    found: dict[str, Change] = {}
    generator = torch.Generator().manual_seed(seed)
    for name, change in adapter.changes.items():
        if not isinstance(change, Light) or len(change.down) > rank:
            raise InputError(
                f"a rank is relaxed of a prediction of hyperdreambooth, to a higher one: got {adapter} and {rank}"
            )
        weight = net.get_parameter(name)
        own = LowRank.begin(weight.detach().cpu(), rank, float(rank), generator)
        with torch.no_grad():
            up, down = change.to(weight.device).factors(weight)
            own.up[:, : up.shape[1]] = up.cpu()
            own.down.flatten(1)[: len(down)] = down.cpu() * (own.rank / own.alpha)
        found[name] = own
    rows = {token: row.detach() for token, row in adapter.rows.items()}
    return type(adapter)(adapter.method, adapter.base, found, rows, adapter.likes).requires_grad_(False)


class HyperDreamBooth(Predictor):
    """A and B of every layer, corrected k times.

    Args:
        look: at the pictures; the transformer is as wide as what it sees.
        adapter: with changes of zero.
        depth: its blocks.
        heads: of its attention.
        rounds: k.
    """

    def __init__(self, look: Looking, adapter: Adapter, depth: int, heads: int, rounds: int) -> None:
        super().__init__()
        self.adapter, self.rounds = adapter.requires_grad_(False), rounds
        self.look, width = look, look.width
        most = max(sum(p.numel() for p in change.parameters()) for change in adapter.changes.values())
        self.places = nn.Parameter(0.5 * torch.randn(len(adapter.changes), width))
        self.enter = nn.Linear(most, width)
        how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(width, heads, 4 * width, **how) for _ in range(depth)))
        self.norm, self.leave = nn.LayerNorm(width), zeroed(nn.Linear(width, most))

    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted:
        seen = self.look(shown)[:, None]
        said = seen.new_zeros(len(seen), len(self.places), self.enter.in_features)
        for _ in range(self.rounds):
            x = self.blocks(torch.cat([seen, self.enter(said) + self.places], 1))
            said = said + self.leave(self.norm(x[:, 1:]))
        numbers: dict[str, Tensor] = {}
        for i, (name, change) in enumerate(self.adapter.changed.items()):
            at = 0
            for key, start in change.named_parameters():
                part = said[:, i, at : at + start.numel()].unflatten(1, start.shape)
                numbers[f"changed.{name}.{key}"], at = start + part, at + start.numel()
        return Predicted(numbers, {})
