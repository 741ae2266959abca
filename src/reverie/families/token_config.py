"""The settings of auto-encoders and of what is trained on their tokens. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from reverie.core.bounds import STEPS, Bound
from reverie.core.task import Given, TaskConfig
from reverie.families.config import ChoiceConfig, DropsLabels
from reverie.nets.config import TextConfig
from reverie.spaces.config import SpaceConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.diffusion.first_stage import FirstStage
    from reverie.families.autoregressive import Autoregressive, NextToken
    from reverie.families.drawing import Listening
    from reverie.families.maskgit import MaskGIT, Masking
    from reverie.families.vae import VAE, Bounding
    from reverie.families.var import VAR, Scaling
    from reverie.spaces.latent import Latent
    from reverie.spaces.tokenizing import Tokenizing


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(TaskConfig):
    """A space on its own, for other runs to work in (`--space RUN`): an auto-encoder, a VAE, a VQ-VAE; with a perceptual and an
    adversarial loss a KL auto-encoder or a VQ-GAN.

    Attributes:
        kind: a linear auto-encoder or variational one of each patch; a convolutional one, plain or variational; one whose codes are among
            few (VQ-VAE), or the same at growing scales (VAR's).
        patch: side in pixels of the square that one code stands for, 4 for f4.
        dims: numbers per code.
        kl: weight of the divergence of a variational code from N(0, 1), in units of the squared error of one pixel.
        width: channels of a convolutional one.
        codes: how many different codes there are, where they are among few.
        perceptual: also compare pictures in the features of a trained network: efficientnet-lite0 (`reverie prefetch` brings it), the
            folder of a run that trained a judge, or a bundled one (mnist5k).
        adversarial: how much a discriminator of patches moves the decoder's last layer, beside the distance to the picture (.8 in VQ-GAN,
            .5 in the KL auto-encoder); 0 for none.
    """

    name: ClassVar[str] = "autoencoder"

    kind: Literal["patch-ae", "patch-vae", "conv-ae", "conv-vae", "vq", "multiscale-vq"] = "conv-vae"
    patch: Annotated[int, Bound(ge=1, le=1024)] = 4
    dims: Annotated[int, Bound(ge=1, le=65_536)] = 4
    kl: Annotated[float, Bound(ge=0)] = 1e-3
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32
    codes: Annotated[int, Bound(ge=2, le=2**20)] = 256
    perceptual: str | None = None
    adversarial: Annotated[float, Bound(ge=0)] = 0.0

    @property
    def space(self) -> SpaceConfig:
        """What of it makes the space."""
        shared = (field.name for field in fields(SpaceConfig) if field.name in vars(self))
        return SpaceConfig(name=self.kind, **{key: getattr(self, key) for key in shared})

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.first_stage import keep_judge

        keep_judge(self.space, given)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> FirstStage:
        from reverie.diffusion.first_stage import build

        return build(self.space, spec, seed, folder)

    def next(self, run: str, data: str) -> str:
        if self.kind == "vq":
            return f"reverie train maskgit --data {quote(data)} --space {quote(run)}"
        if self.kind == "multiscale-vq":
            return f"reverie train var --data {quote(data)} --space {quote(run)}"
        return f"reverie train --data {quote(data)} --space {quote(run)} --net.patch 1"

    def modules(self, model: FirstStage) -> dict[str, nn.Module]:
        return {"space": model.space}

    def open(self, model: FirstStage, spec: DataSpec) -> Latent:
        return model.space

    def task(self, model: FirstStage, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Tokenizing:
        from reverie.diffusion.first_stage import tokenizing

        return tokenizing(self.space, model, data, held_out, seed)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(TaskConfig):
    """A variational auto-encoder that draws: one code a picture, from N(0, I), decoded under the label if there are classes.

    Attributes:
        dims: numbers of the code.
        beta: weight of the divergence in the bound; above 1 codes say less, each more of its own (Higgins et al. 2017).
        width: channels of the first level.
    """

    name: ClassVar[str] = "vae"

    dims: Annotated[int, Bound(ge=1, le=65_536)] = 32
    beta: Annotated[float, Bound(ge=0)] = 1.0
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> VAE:
        from reverie.families.vae import build

        return build(self, spec, seed)

    def modules(self, model: VAE) -> dict[str, nn.Module]:
        return {"vae": model.net}

    def task(self, model: VAE, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Bounding:
        from reverie.families.vae import Bounding

        return Bounding(model, held_out, self.beta)

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"


@dataclass(frozen=True, kw_only=True)
class OnTokens(DropsLabels):
    """What models of tokens share: the space whose tokens they are, and a transformer that is told the class or the caption.

    Attributes:
        space: what makes the tokens; it is trained first, unless it is that of another run.
        width: of the transformer.
        depth: how many blocks it has.
        heads: of its attention, a divisor of the width.
        text: how captions are read, for data that has them.
    """

    width: Annotated[int, Bound(ge=1, le=65_536)] = 128
    depth: Annotated[int, Bound(ge=1, le=1024)] = 4
    heads: Annotated[int, Bound(ge=1, le=1024)] = 4
    space: SpaceConfig = field(default_factory=SpaceConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def resolved(self) -> Self:
        return replace(self, text=self.text.resolved())

    def check(self, spec: DataSpec, sample: Any) -> None:
        if not Path(self.space.name).expanduser().is_dir():  # of another run's space nothing is known yet
            self.build(spec, 0)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.building import prepare_space
        from reverie.diffusion.reading import prepare_reading

        prepare_space(self.space, given)
        prepare_reading(self.text, given)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """The pictures, with what is said of them in words."""
        from reverie.diffusion.texts import captioned

        return captioned(self.text, data, data, folder), captioned(self.text, held_out, held_out, folder, plain=True)

    def modules(self, model: Listening) -> dict[str, nn.Module]:
        return {"net": model.net, **model.modules_beside()}  # pyright: ignore[reportAttributeAccessIssue]

    def describe(self, model: Listening, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), **getattr(model.texts, "described", {})}

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"


@dataclass(frozen=True, kw_only=True)
class MaskedSample:
    """How pictures are drawn.

    Attributes:
        steps: in which all tokens are found.
        order: keep the tokens that are surest, or those whose turn it is in a Halton sequence, which spreads them over the picture.
        temperature: of the noise on how sure a token is; it falls to 0 over the steps.
        scale: of guidance towards the label or the text; 1 is the model as it is.
    """

    steps: Annotated[int, STEPS] = 8
    order: Literal["confidence", "halton"] = "confidence"
    temperature: Annotated[float, Bound(ge=0)] = 4.5
    scale: float = 2.0


@dataclass(frozen=True, kw_only=True)
class MaskGITConfig(OnTokens):
    """A masked-token model: a VQ-VAE, and a transformer that tells masked tokens (Chang et al. 2022).

    Attributes:
        smoothing: share of the true token that is spread over all codes.
    """

    name: ClassVar[str] = "maskgit"
    Sample: ClassVar[type] = MaskedSample

    space: SpaceConfig = field(default_factory=lambda: SpaceConfig(name="vq", dims=8))
    smoothing: Annotated[float, Bound(ge=0, lt=1)] = 0.1

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> MaskGIT:
        from reverie.families.maskgit import build

        return build(self, spec, seed, folder)

    def task(self, model: MaskGIT, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Masking:
        from reverie.families.maskgit import Masking

        return Masking(model.drawing(sample), held_out, self.drop, self.smoothing)


@dataclass(frozen=True, kw_only=True)
class ScaledSample:
    """How pictures are drawn, a scale a step.

    Attributes:
        scale: of guidance towards the label or the text at the finest scale, 1 at the coarsest; 1 is the model as it is.
        temperature: divides the logits; below 1 the likely is drawn more often than the model says.
    """

    scale: float = 2.0
    temperature: Annotated[float, Bound(gt=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class VARConfig(OnTokens):
    """Next-scale prediction: a multi-scale VQ-VAE, and a transformer that draws its tokens coarse to fine (Tian et al. 2024).

    Attributes:
        dropout: in the blocks.
    """

    name: ClassVar[str] = "var"
    Sample: ClassVar[type] = ScaledSample

    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0

    space: SpaceConfig = field(default_factory=lambda: SpaceConfig(name="multiscale-vq", dims=8))

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> VAR:
        from reverie.families.var import build

        return build(self, spec, seed, folder)

    def task(self, model: VAR, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Scaling:
        from reverie.families.var import Scaling

        return Scaling(model.drawing(sample), held_out, self.drop)


@dataclass(frozen=True, kw_only=True)
class PartiConfig(OnTokens):
    """Text to image as a sequence: a VQ-VAE, and a transformer that draws its tokens in turn, told the caption (Yu et al. 2022).

    Attributes:
        dropout: in the blocks.
    """

    name: ClassVar[str] = "parti"
    Sample: ClassVar[type] = ChoiceConfig

    space: SpaceConfig = field(default_factory=lambda: SpaceConfig(name="vq", dims=8))
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.1

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Autoregressive:
        from reverie.families.parti import build

        return build(self, spec, seed, folder)

    def task(
        self, model: Autoregressive, data: Dataset, held_out: Dataset, sample: ChoiceConfig, seed: int
    ) -> NextToken:
        from reverie.families.autoregressive import NextToken

        return NextToken(model.drawing(sample), held_out, seed, self.drop)

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)} --text 'a red heart'; reverie report {quote(run)}"
