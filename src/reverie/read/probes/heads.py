"""Heads: small networks on feature maps, and their training, all in one sweep.

The four heads of Mukhopadhyay et al. 2023 ("Diffusion Models Beat GANs on Image Classification", section 3.2). As many heads as there are
cells of a grid learn side by side from the same batches (Xiang et al. 2023, section 4): the features are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import unknown
from reverie.learn.descend import descend

K = TypeVar("K")


def linear(channels: int, side: int, classes: int) -> nn.Module:
    """One linear layer on the flattened map (B, C, p, p)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, classes))


def mlp(channels: int, side: int, classes: int) -> nn.Module:
    """Two hidden layers of the width of the map's channels."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * side**2, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
        nn.Linear(channels, classes),
    )  # fmt: skip


def convolutional(channels: int, side: int, classes: int) -> nn.Module:
    """Two 3x3 convolutions, averaged over places."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes),
    )  # fmt: skip


class Transformer(nn.Module):
    """A learned token that has attended to others (B, N, width), through pre-norm blocks: (B, width)."""

    def __init__(self, width: int, depth: int = 2, heads: int = 8, ratio: int = 4) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, ratio * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1))[:, 0]


class Attentive(nn.Module):
    """A 1x1 convolution to ``width``, a learned token, two transformer blocks, one linear layer on the token."""

    def __init__(self, channels: int, side: int, classes: int, width: int | None = None, heads: int = 8) -> None:
        super().__init__()
        width = channels // heads * heads if width is None else width
        self.norm = nn.LayerNorm([channels, side, side])
        self.project = nn.Conv2d(channels, width, 1)
        self.transformer = Transformer(width, heads=heads)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.transformer(self.project(self.norm(x)).flatten(2).transpose(1, 2)))


HEADS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "conv": convolutional,
    "attention": Attentive,
}
"""(channels, side, classes) -> a head on maps (B, channels, side, side)."""


def build(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """A head by name.

    Raises:
        InputError: for an unknown name.
    """
    if name not in HEADS:
        raise unknown("head", name, HEADS)
    return HEADS[name](channels, side, classes)


Batch = tuple[Mapping[K, Tensor], Tensor]
"""The features of each cell, and the labels."""


def fit(
    heads: Mapping[K, nn.Module],
    batches: Iterable[Batch],
    steps: int,
    lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    label: str = "training probes",
) -> None:
    """Train all heads in one sweep: each minimises its own cross-entropy, with cosine decay of the learning rate.

    Args:
        heads: by cell, as the batches' features are.
        batches: at least ``steps`` of them.
        steps: of each head.
        lr: the first learning rate.
        optimizer: Adam in DDAE, SGD in GDC.
        label: of the progress bar.
    """
    parameters = [p for head in heads.values() for p in head.parameters() if p.requires_grad]
    for head in heads.values():
        head.train()
    following = iter(batches)

    def loss(step: int) -> Tensor:
        features, labels = next(following)
        return torch.stack([F.cross_entropy(head(features[cell]), labels) for cell, head in heads.items()]).sum()

    descend(optimizer(parameters, lr=lr), loss, steps, label=label)
    for head in heads.values():
        head.eval()


def shuffled(features: Mapping[K, Tensor], labels: Tensor, size: int, seed: int = 0) -> Iterable[Batch]:
    """Batches of kept features, epoch after epoch in fresh order, without end."""
    from reverie.data import order

    n, at = len(labels), 0
    size = min(size, n)
    while True:
        rows = order.indices(seed, at, size, n)
        yield {cell: value[rows] for cell, value in features.items()}, labels[rows]
        at += size
