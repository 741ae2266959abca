"""Two towers: pictures and captions as unit vectors of one space, near where they belong together.

Radford et al. 2021, "Learning transferable visual models from natural language supervision" (CLIP): a picture's tower, a text's tower, a
linear map of each into the common space, and one learned scale of the cosines, at most 100 (section 2.4). Zhai et al. 2023, "Sigmoid loss
for language image pre-training" (SigLIP), adds a bias. Zhai et al. 2022, "LiT: zero-shot transfer with locked-image text tuning", lock a
picture's tower that others have trained: few pictures teach a text tower sooner than two. Texts are read as bytes, the first of which
stands for all, see :mod:`reverie.nets.text`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import nets
from reverie.core import spelling
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Entry, Text
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task
from reverie.measure.contrastive import LOSSES
from reverie.measure.extract import EfficientNetLite0
from reverie.measure.judge import distort
from reverie.measure.retrieval import retrieved
from reverie.nets.config import TextConfig
from reverie.nets.text import TextEncoder

if TYPE_CHECKING:
    from reverie.measure.config import TowersConfig

LARGEST = 100.0
"""The most that the cosines are multiplied by."""
HELD_OUT = 1000
"""Held-out pictures that training is validated on at most."""


class Locked(nn.Module):
    """A linear map of the features of a network that stays as it is, and that no checkpoint holds.

    Args:
        looks: the network.
        dim: numbers of a vector.
    """

    def __init__(self, looks: EfficientNetLite0, dim: int) -> None:
        super().__init__()
        self.looks = [looks]  # not a module of this one: neither stepped, nor switched to training, nor saved
        self.project = nn.Sequential(nn.LayerNorm(looks.dim), nn.Linear(looks.dim, dim, bias=False))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Vectors (N, dim) of pictures (N, C, H, W) in [−1, 1]."""
        with torch.no_grad():
            features = self.looks[0](x)
        return self.project(features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.looks[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Towers(nn.Module):
    """A picture-text model, a :class:`~reverie.measure.retrieval.PictureText`.

    Args:
        config: its settings.
        spec: of the captioned pictures it is trained on.

    Raises:
        InputError: when these are no pictures, or have no captions.
    """

    def __init__(self, config: TowersConfig, spec: DataSpec) -> None:
        super().__init__()
        said = spec.conditions.get("text")
        if len(spec.shape) != 3 or not isinstance(said, Text):
            raise InputError(
                f"a picture-text model learns from pictures (C, H, W) and what they are called: got data of shape {spec.shape} with "
                f"{', '.join(spec.conditions) or 'no conditions'}; use pictures with captions, and --data.captions"
            )
        self.shape, self.length, self.data = spec.shape, said.length, spec.name
        channels, *size = spec.shape
        if config.locked:
            self.image = Locked(EfficientNetLite0(), config.dim)
        else:
            self.image = nets.build(config.encoder, channels=channels, size=tuple(size), classes=config.dim)
        read = TextConfig(width=config.width, depth=config.depth, heads=config.heads)
        self.text, self.project = TextEncoder(read, self.length), nn.Linear(config.width, config.dim, bias=False)
        scale, bias = (1.0 / 0.07, 0.0) if config.objective == "softmax" else (10.0, -10.0)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias), requires_grad=config.objective == "sigmoid")

    @property
    def name(self) -> str:
        return f"towers-{self.data}"

    @property
    def seen(self) -> str:
        """The pictures it was trained on, in words."""
        return f"the training split of {self.data}"

    def pictures(self, images: Tensor) -> Tensor:
        """Unit vectors (N, dim) of pictures (N, C, H, W) in [−1, 1] of the shape it was trained on.

        Raises:
            InputError: for pictures of another shape.
        """
        if images.shape[1:] != self.shape:
            raise InputError(
                f"{self.name} was trained on pictures of shape {self.shape}, these have {tuple(images.shape[1:])}: train one on data "
                "of that size (--data.size, --data.channels)"
            )
        return F.normalize(self.image(images.to(self.bias), self.bias.new_zeros(())), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, dim) of texts; of a longer one than it was trained on the beginning, with a warning.

        Raises:
            InputError: for an empty text.
        """
        return self.written(self._spelled(texts))

    def read(self, texts: Sequence[str]) -> Entry:
        """The features of the tokens of texts, (N, L, width), with which of them are real; else as :meth:`texts`."""
        features, mask = self.text(self._spelled(texts))
        return Entry.of(features, mask)

    def _spelled(self, texts: Sequence[str]) -> Tensor:
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise InputError(f"text {empty[0]} is empty, it says nothing of a picture: give it words")
        if long := [text for text in texts if spelling.count(text) > self.length]:
            warnings.warn(
                f"{len(long)} of {len(texts)} texts are longer than {self.name} reads: of {max(map(spelling.count, long))} tokens the "
                f"first {self.length} are kept",
                stacklevel=3,
            )
        return spelling.spelled(texts, self.length).to(self.bias.device)

    def written(self, tokens: Tensor) -> Tensor:
        """Unit vectors (N, dim) of spelled texts (N, L)."""
        return F.normalize(self.project(self.text(tokens)[0][:, 0]), dim=1)

    def logits(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """(N, M) of unit vectors (N, dim) and (M, dim)."""
        return self.log_scale.exp().clamp(max=LARGEST) * pictures @ texts.T + self.bias


class Pairing(Task):
    """Brings pictures and their captions together, and apart from the others of the batch; a picture without a caption is among the others.

    Args:
        towers: what is trained.
        held_out: captioned pictures to validate on.
        objective: a name among :data:`~reverie.measure.contrastive.LOSSES`.
        distorted: whether pictures are distorted as a judge's are.
    """

    def __init__(self, towers: Towers, held_out: Dataset, objective: str, distorted: bool = True) -> None:
        self.towers, self.held_out, self.objective, self.distorted = towers, held_out, LOSSES[objective], distorted
        self.players = {"towers": Player(towers)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        assert batch.cond is not None
        said = batch.cond["text"]
        x = distort(batch.x, rng) if self.distorted else batch.x
        logits = self.towers.logits(self.towers.pictures(x), self.towers.written(said.value))
        same = (said.value[:, None] == said.value).all(2)
        return {"pairs": self.objective(logits, same) * said.present}

    def validate(self) -> dict[str, float | list[float]]:
        """CLIPScore and retrieval of held-out pictures, see :mod:`reverie.measure.retrieval`."""
        batch = self.held_out.batch(range(min(HELD_OUT, len(self.held_out))))
        if batch.cond is None or not batch.cond["text"].present.sum() > 1:
            return {}
        batch = batch.index(batch.cond["text"].present).to(self.towers.bias.device)
        said, own = batch.cond["text"].value.unique(dim=0, return_inverse=True)  # pyright: ignore[reportOptionalSubscript]
        pictures, texts = self.towers.pictures(batch.x).float().cpu(), self.towers.written(said).float().cpu()
        found = retrieved(pictures, texts, own.cpu())
        return {"score": found.score, "at_one": found.at_one, "at_five": found.at_five}
