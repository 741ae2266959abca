"""The settings of adversarial models. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import Sweep, TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.families.gan import GAN, Duel, Painter
    from reverie.families.stylegan import StyleDuel, StyleGAN
    from reverie.families.stylegan2 import StyleDuel2

Size = Annotated[int, Bound(ge=1, le=65_536)]
Weight = Annotated[float, Bound(ge=0)]
Every = Annotated[int, Bound(ge=1, le=1_000)]
TRUNCATIONS = (1.0, 0.7, 0.5, 0.0)
"""Values of the truncation that a report shows side by side."""


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(TaskConfig):
    """What all of them choose.

    Attributes:
        dims: numbers of the noise z that a picture is made of.
        width: channels of the finest grid; coarser ones have more.
        gamma: weight of the penalty on the critic's slope: at real pictures, of r3gan at drawn ones too.
        every: steps from one such penalty to the next, which is so many times as strong.
    """

    dims: Size = 64
    width: Size = 16
    gamma: Weight = 10.0
    every: Every = 1

    @abstractmethod
    def nets(self, shape: tuple[int, ...], classes: int) -> tuple[Painter, nn.Module]:
        """Generator and critic, freshly initialised; 0 classes for none."""

    def gan(self, net: Any, critic: nn.Module, spec: DataSpec) -> GAN:
        """What draws with these networks."""
        from reverie.families.gan import GAN

        return GAN(net, critic, spec)

    def build(self, spec: DataSpec, seed: int, folder: object = None) -> GAN:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.gan(*self.nets(spec.shape, len(spec.classes) if "label" in spec.conditions else 0), spec)

    def modules(self, model: GAN) -> dict[str, nn.Module]:
        return {"generator": model.net, "critic": model.critic}

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(AdversarialConfig):
    """A generative adversarial network of strided convolutions (Goodfellow et al. 2014, Radford et al. 2016).

    Attributes:
        loss: what the generator descends: the critic's own loss turned around, which is flat where the critic is sure, or one that is not.
    """

    name: ClassVar[str] = "dcgan"

    width: Size = 32
    gamma: Weight = 1.0
    every: Every = 4
    loss: Literal["minimax", "non-saturating"] = "non-saturating"

    def nets(self, shape: tuple[int, ...], classes: int) -> tuple[Painter, nn.Module]:
        from reverie.families.dcgan import Critic, Generator

        return Generator(shape, self.dims, classes, self.width), Critic(shape, classes, self.width)

    def task(self, model: GAN, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Duel:
        from reverie.families.gan import Duel

        return Duel(model, held_out, self.loss, self.gamma, every=self.every)


@dataclass(frozen=True, kw_only=True)
class R3GANConfig(AdversarialConfig):
    """R3GAN, a modern baseline without tricks (Huang et al. 2024).

    Attributes:
        depth: residual blocks of each grid.
        patch: side in pixels of the square that is one place of the finest grid.
    """

    name: ClassVar[str] = "r3gan"

    width: Size = 32
    every: Every = 4
    depth: Size = 1
    patch: Annotated[int, Bound(ge=1, le=64)] = 2

    def nets(self, shape: tuple[int, ...], classes: int) -> tuple[Painter, nn.Module]:
        from reverie.families.r3gan import Critic, Generator

        sizes = (self.width, self.depth, self.patch)
        return Generator(shape, self.dims, classes, *sizes), Critic(shape, classes, *sizes)

    def task(self, model: GAN, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Duel:
        from reverie.families.gan import Duel

        return Duel(model, held_out, "relativistic", self.gamma, self.gamma, self.every)


@dataclass(frozen=True, kw_only=True)
class TruncatedConfig:
    """How styles are drawn.

    Attributes:
        truncation: how near they come to the mean of their class: 1 as drawn, 0 the mean; between, pictures are better and more alike.
    """

    truncation: Annotated[float, Bound(ge=0, le=1)] = 1.0


@dataclass(frozen=True, kw_only=True)
class StyledConfig(AdversarialConfig):
    """What both StyleGANs choose.

    Attributes:
        mapping: layers of the network that makes styles of noise.
        mixing: share of the pictures that are painted by two styles while training.
    """

    Sample: ClassVar[type] = TruncatedConfig

    mapping: Annotated[int, Bound(ge=1, le=64)] = 4
    mixing: Annotated[float, Bound(ge=0, le=1)] = 0.9

    def gan(self, net: Any, critic: nn.Module, spec: DataSpec) -> StyleGAN:
        from reverie.families.stylegan import StyleGAN

        return StyleGAN(net, critic, spec)

    def generator(self, opened: StyleGAN, sample: TruncatedConfig) -> StyleGAN:
        return opened.truncated(sample.truncation)

    def sweep(self, sample: TruncatedConfig) -> Sweep:
        return Sweep(
            "Truncation",
            "Styles nearer to the mean of their class: better pictures, and fewer different ones.",
            {f"{value:g}": TruncatedConfig(truncation=value) for value in TRUNCATIONS},
        )


@dataclass(frozen=True, kw_only=True)
class StyleGANConfig(StyledConfig):
    """StyleGAN: styles scale and shift normalised features (Karras et al. 2019)."""

    name: ClassVar[str] = "stylegan"

    def nets(self, shape: tuple[int, ...], classes: int) -> tuple[Painter, nn.Module]:
        from reverie.families.stylegan import Critic, Generator

        return Generator(shape, self.dims, classes, self.width, self.mapping), Critic(shape, classes, self.width)

    def task(self, model: StyleGAN, data: Dataset, held_out: Dataset, sample: TruncatedConfig, seed: int) -> StyleDuel:
        from reverie.families.stylegan import StyleDuel

        return StyleDuel(self.generator(model, sample), held_out, self.gamma, self.every, self.mixing)


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Config(StyledConfig):
    """StyleGAN2: styles scale the weights of convolutions (Karras et al. 2020), with adaptive augmentation for few pictures.

    Attributes:
        path: weight of the penalty on uneven path lengths.
        augment: how much more often the critic is to be right than wrong about real pictures, .6 in the paper: what it sees is changed the
            more often the surer it is; 0 for never.
    """

    name: ClassVar[str] = "stylegan2"

    every: Every = 16
    path: Weight = 2.0
    augment: Annotated[float, Bound(ge=0, lt=1)] = 0.6

    def nets(self, shape: tuple[int, ...], classes: int) -> tuple[Painter, nn.Module]:
        from reverie.families.stylegan import Critic
        from reverie.families.stylegan2 import Generator

        return Generator(shape, self.dims, classes, self.width, self.mapping), Critic(shape, classes, self.width)

    def task(self, model: StyleGAN, data: Dataset, held_out: Dataset, sample: TruncatedConfig, seed: int) -> StyleDuel2:
        from reverie.families.augment import Augment
        from reverie.families.stylegan2 import StyleDuel2

        augment = Augment(self.augment) if self.augment else None
        return StyleDuel2(
            self.generator(model, sample), held_out, self.gamma, self.every, self.mixing, self.path, augment
        )
