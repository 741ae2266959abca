"""ODISE put together: the frozen denoiser under the captioner's condition, the mask generator, the names."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.noise import Tape
from reverie.core.task import Moment, Player, Task
from reverie.read.maps import maps, noisy
from reverie.read.odise.captioner import Captioner
from reverie.read.odise.criterion import Criterion, Segments
from reverie.read.odise.masks import MaskGenerator, Proposal
from reverie.read.odise.naming import Helper, Naming, Vocabulary, helped
from reverie.read.odise.panoptics import Panoptic, panoptic
from reverie.read.odise.sliding import slide

Maps = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes.

    Attributes:
        strides: of the four scales, in pixels.
        feature: channels of the maps that are added up at each scale.
        width, heads, queries, layers, pixel_layers: of the mask generator.
        points: of a mask that the losses compare; all without.
    """

    strides: tuple[int, int, int, int] = (4, 8, 16, 32)
    feature: int = 512
    width: int = 256
    heads: int = 8
    queries: int = 100
    layers: int = 9
    pixel_layers: int = 6
    points: int | None = 12_544


PRESETS = {
    "paper": Config(),
    "small": Config(
        strides=(1, 2, 4, 8), feature=32, width=32, heads=4, queries=6, layers=3, pixel_layers=1, points=None
    ),
}
"""paper: on Stable Diffusion, with the inputs of its decoder's blocks 2, 5, 8 and 11 (in diffusers' names ``up_blocks.0.resnets.2.in``
to ``up_blocks.3.resnets.2.in``) and four maps of its auto-encoder; small: scenes of 16x16 pixels on a CPU."""


class Backbone(nn.Module):
    """Pictures to maps of four scales, through a frozen denoiser.

    Args:
        denoise: the model; it is no part of the module and never trained.
        sites: places of its network, inputs of decoder blocks in the paper.
        channels: of the map at each site, then of each of ``others``.
        config: sizes.
        captioner: makes the condition; the null without.
        embed: pictures (B, C, H, W) -> their embedding (B, dim) for the captioner, an image encoder such as CLIP's.
        name: of the condition, "text" or "vector".
        t: time of the reading, 0 in the paper: one fixed noise at its smallest level; None reads clean.
        others: further maps of the pictures, such as the auto-encoder's (:func:`reverie.read.of_module`).
    """

    def __init__(
        self,
        denoise: Denoiser,
        sites: Sequence[str],
        channels: Sequence[int],
        config: Config,
        *,
        captioner: Captioner | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        name: str = "text",
        t: float | None = 0.0,
        others: Maps | None = None,
    ) -> None:
        super().__init__()
        if (captioner is None) != (embed is None):
            raise InputError("a captioner needs an embedding of the picture: give captioner and embed, or neither")
        self._frozen: tuple[Any, ...] = (denoise, embed, others)
        self.sites, self.name, self.t, self.strides = list(sites), name, t, config.strides
        self.captioner = captioner
        self.projects = nn.ModuleList(Bottleneck(c, config.feature) for c in channels)
        self.reduce = nn.ModuleList(nn.Conv2d(config.feature, config.width, 1) for _ in config.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) in [−1, 1] -> four maps (B, width, H/stride, W/stride), the finest first; larger pictures by sliding windows.

        Raises:
            InputError: for pictures smaller than the network's.
        """
        window = self.window
        return self.single(images) if images.shape[2:] == window else slide(self.single, images, window, self.strides)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of what the network reads."""
        denoise = self._frozen[0]
        _, height, width = denoise.space.data_shape(denoise.shape)
        return height, width

    def single(self, images: Tensor) -> list[Tensor]:
        """The four maps of pictures of the network's own size."""
        sizes = [(max(1, images.shape[2] // s), max(1, images.shape[3] // s)) for s in self.strides]
        sums: list[Tensor | None] = [None] * len(sizes)
        for value, project in zip(self.values(images), self.projects, strict=True):
            stride = images.shape[2] / value.shape[2]
            i = min(range(len(sizes)), key=lambda k: abs(math.log(stride / self.strides[k])))
            here = F.interpolate(project(value), sizes[i], mode="bilinear")
            before = sums[i]
            sums[i] = here if before is None else before + here
        there = [i for i, value in enumerate(sums) if value is not None]
        found = []
        for i, size in enumerate(sizes):
            near: Any = sums[min(there, key=lambda k: abs(k - i))]
            found.append(self.reduce[i](F.interpolate(near, size, mode="bilinear", antialias=True)))
        return found

    def values(self, images: Tensor) -> list[Tensor]:
        """The raw maps; their gradient reaches the captioner through the frozen network."""
        denoise, embed, others = self._frozen
        with torch.no_grad():
            x0 = denoise.space.encode(images)
            e = None if embed is None else embed(images)
        point = denoise.schedule.point(self.t or 0.0)
        noise = None if self.t is None else Tape([(0, 0)]).draw("features", 0, x0.shape[1:])
        x_t = noisy(x0, point, noise)
        if self.captioner is None or e is None:
            seen = maps(denoise, x_t, point, self.sites)
        else:
            implicit = Cond(**{self.name: self.captioner(e)})
            seen = maps(self.captioner.timed(denoise, e), x_t, point, self.sites, implicit)
        return [*(seen[site] for site in self.sites), *([] if others is None else others(images))]


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions with group normalisation (He et al. 2016)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        inner = max(1, after // 4)
        layers: list[nn.Module] = []
        for a, b, kernel in ((before, inner, 1), (inner, inner, 3), (inner, after, 1)):
            layers += [
                nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False),
                nn.GroupNorm(math.gcd(32, b), b),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers[:-1])
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.GroupNorm(math.gcd(32, after), after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class ODISE(nn.Module):
    """Open-vocabulary panoptic segmentation.

    Args:
        backbone: pictures to maps.
        dim: of the words' embeddings.
        config: sizes.
    """

    def __init__(self, backbone: Backbone, dim: int, config: Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.generator = MaskGenerator(config.width, config.heads, config.queries, config.layers, config.pixel_layers)
        self.naming = Naming(config.width, dim)
        self.criterion = Criterion(points=config.points)

    def forward(self, images: Tensor) -> list[Proposal]:
        """Proposals of every layer, masks at the finest scale; the last is the answer."""
        return self.generator(self.backbone(images))

    def losses(self, images: Tensor, truth: list[Segments], vocabulary: Vocabulary) -> dict[str, Tensor]:
        """``name``, ``bce`` and ``dice``, each () and the sum over all layers."""
        total: dict[str, Tensor] = {}
        for proposal in self(images):
            parts = self.criterion(self.naming(proposal.embeddings, vocabulary), proposal.masks, truth)
            total = {key: total[key] + value if total else value for key, value in parts.items()}
        return total

    @torch.no_grad()
    def segment(
        self,
        images: Tensor,
        vocabulary: Vocabulary,
        stuff: Collection[int] = (),
        least: float = 0.5,
        visible: float = 0.8,
        helper: Helper | None = None,
    ) -> list[Panoptic]:
        """The panoptic map of each picture, under any vocabulary; arguments as :func:`~reverie.read.odise.panoptics.panoptic`.

        Args:
            helper: a picture-text model whose scores are fused with the model's own.
        """
        z, masks = self(images)[-1]
        logits = self.naming(z, vocabulary)
        masks = F.interpolate(masks, images.shape[2:], mode="bilinear").sigmoid()
        scores = logits.softmax(-1) if helper is None else helped(logits, helper, images, masks, vocabulary)
        return [panoptic(s, m, stuff, least, visible) for s, m in zip(scores, masks, strict=True)]

    @torch.no_grad()
    def name(self, images: Tensor, masks: Tensor, vocabulary: Vocabulary) -> Tensor:
        """The category of given masks (B, S, H, W) bool, (B, S): what lies in each, without its query."""
        features, _ = self.generator.pixels(self.backbone(images))
        true = F.interpolate(masks.to(features), features.shape[2:], mode="bilinear", antialias=True)
        nobody = features.new_zeros(len(images), masks.shape[1], features.shape[1])
        z = self.generator.name(nobody, true - 0.5, features)
        return self.naming(z, vocabulary)[..., :-1].argmax(-1)


class Segmenting(Task):
    """The training of an :class:`ODISE` on labelled segments.

    Batches carry them as extras: "masks" (B, S, H, W) bool and "categories" (B, S), −1 where a picture has fewer.

    Args:
        model: what is trained; its denoiser is not.
        vocabulary: the categories of training.
    """

    def __init__(self, model: ODISE, vocabulary: Vocabulary) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.players = {"odise": Player(model)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return self.model.losses(batch.x, unpack(batch), self.vocabulary)


def unpack(batch: Batch) -> list[Segments]:
    """The segments of a batch.

    Raises:
        InputError: when it carries none.
    """
    if "masks" not in batch.extra or "categories" not in batch.extra:
        raise InputError('a batch for segmentation carries extra={"masks": …, "categories": …}')
    masks, labels = batch.extra["masks"], batch.extra["categories"]
    return [Segments(label[label >= 0], mask[label >= 0]) for label, mask in zip(labels, masks, strict=True)]
