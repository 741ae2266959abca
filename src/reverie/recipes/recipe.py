"""A recipe: nested settings that determine a run. Cheap to import: the command line makes its flags from these classes."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Suppress

from reverie.core.bounds import STEPS, Bound, FolderName
from reverie.learn.config import TrainConfig
from reverie.nets.config import DiTConfig, NetConfig
from reverie.spaces.config import SpaceConfig

GridName = Literal["time", "logsnr", "karras", "quadratic", "arctan", "logistic"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to learn from.

    Attributes:
        name: a bundled set (mnist5k, emoji, digits8) or a folder of pictures, whose sub-folders are classes.
        size: side of the square pictures in pixels; inferred without.
        channels: 1 (grey) or 3 (RGB); inferred without.
        fit: how a picture becomes a square.
        flip: mirror half of the pictures; not for digits or letters.
        labels: learn to draw by class, if the data has classes.
        classes: their names, inferred.
    """

    name: str = "mnist5k"
    size: Annotated[int, Bound(ge=1, le=8192)] | None = None
    channels: Annotated[int, Bound(ge=1, le=3)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    flip: bool = False
    labels: bool = True
    classes: Annotated[tuple[str, ...] | None, Suppress] = None


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """The path, what the network predicts on it, and where training looks.

    Attributes:
        schedule: the path from data to noise; ddpm is the table of Ho et al. 2020.
        kind: what the network predicts.
        time: what it is told of the time: t, or ¼·log(σ/α).
        data_std: scale the network's input to unit variance for data of this standard deviation; as it is without.
        loss_kind: the kind in which the error is measured; the network's own without.
        times: density of the training times.
        times_mean: mean of logit(t), for logit-normal times.
        times_std: standard deviation of logit(t), for logit-normal times.
        drop: share of the images whose label is dropped, so that guidance works.
        prior: correct the exact denoiser of one Gaussian a class with this many axes, fitted to the data, in place of learning all of it;
            needs a network that takes a picture as condition (dit, unet).
    """

    schedule: Literal["flow", "cosine", "vp", "subvp", "ve", "edm", "trigonometric", "ddpm"] = "flow"
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"
    time: Literal["t", "log_sigma"] = "t"
    data_std: Annotated[float, Bound(gt=0)] | None = None
    loss_kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] | None = None
    times: Literal["logit-normal", "uniform", "logsnr"] = "logit-normal"
    times_mean: float = 0.0
    times_std: Annotated[float, Bound(gt=0)] = 1.0
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1
    prior: Annotated[int, Bound(ge=1, le=65_536)] | None = None


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How pictures are drawn unless told otherwise.

    Attributes:
        solver: auto (the run's calibration for so many steps, or the measured best), stochastic, or one by name: ddim, ddpm, churn, deis2,
            deis3, dpmpp2, dpmpp3, dpmpp2s, euler, eulermaruyama, heun, sdedpmpp2, unipc2, unipc3.
        steps: of the solver.
        grid: where the steps are taken; as suits the solver without.
        scale: guidance for models of classes; 1 is the model as it is.
        guide_below: guide only where the logsnr is below this, where the picture is decided (Kynkäänniemi et al. 2024); everywhere without.
    """

    solver: str = "auto"
    steps: Annotated[int, STEPS] = 20
    grid: GridName | None = None
    scale: float = 2.0
    guide_below: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that makes a run.

    Attributes:
        name: of the run's folder in runs/.
        seed: of all randomness.
    """

    name: Annotated[str, FolderName()] = ""
    seed: Annotated[int, Bound(ge=0, lt=2**63)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    net: NetConfig = field(default_factory=DiTConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
