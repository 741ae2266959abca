"""l-DAE: a diffusion transformer taken apart until a denoising auto-encoder is left.

Chen, Liu, Xie & He, "Deconstructing denoising diffusion models for self-supervised learning", 2024 (arXiv:2401.14404). Each patch x of
a picture is coded as z = Vx, noise is added there, ``z_n = γ·z + σ·ε``, and the network is trained to undo it. At the end of their ablation

    the network sees the picture Vᵀz_n, gives a picture, and pays  λ·Σ_i w_i·r_i²,  r = V_full·(x − net),  w = 1 in V's plane, 0.1 off it

with γ = 1, σ uniform in [0, √2] and λ = 1/(1 + σ²). What it learns is read from the middle of the network. The paper does not print the
scale of z: here it has one standard deviation, 1, over all components together (:mod:`reverie.spaces`).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie import nets
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import VP, Schedule, lifted
from reverie.core.tensors import combine, onto
from reverie.core.times import TimeSampler, Uniform
from reverie.diffusion.denoising import Denoising, Weight, one
from reverie.nets.config import NetConfig
from reverie.spaces.latent import Latent
from reverie.spaces.pca import PatchPCA

Tokenizer = Literal["vqgan", "adversarial", "conv-vae", "patch-vae", "patch-ae", "pca"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One variant of the ablation. The defaults are where it begins: a diffusion transformer as it was published.

    Attributes:
        tokenizer: what makes the codes: a convolutional auto-encoder with perceptual and adversarial losses, without the first, without
            both; a variational or plain linear auto-encoder of each patch; principal components of each patch.
        dims: numbers per code.
        labels: whether the network is told the class.
        path: ``dit``, the linear β of Ho et al.; ``linear``, γ² falls linearly to 0; ``additive``, γ = 1 and σ rises linearly to √2.
        level: train at this one time of the path only; at all of them without.
        kind: predict the noise or the clean codes.
        weight: of the squared error: one, or ``signal``, γ²/(γ² + σ²), which is γ² on the first two paths and 1/(1 + σ²) on the third.
        sees, says: whether the network takes and gives codes, or the picture that they stand for.
        target: the clean codes, or the original picture with what the codes leave out.
        off: w off the plane of the codes, where the network gives a picture.
    """

    tokenizer: Tokenizer = "vqgan"
    dims: int = 16
    labels: bool = True
    path: Literal["dit", "linear", "additive"] = "dit"
    level: float | None = None
    kind: Literal["eps", "x0"] = "eps"
    weight: Literal["one", "signal"] = "one"
    sees: Literal["codes", "picture"] = "codes"
    says: Literal["codes", "picture"] = "codes"
    target: Literal["codes", "original"] = "codes"
    off: float = 0.1


@dataclass(frozen=True)
class Linear(Schedule):
    """``γ² = 1 − t``, ``σ² = t``: the signal's power falls linearly (section 4.2)."""

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return 0.5 * torch.log1p(-t)

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return 0.5 * torch.log(t)

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-2.0 * lam)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 / self.alpha(t)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return 0.5 / self.sigma(t)


@dataclass(frozen=True)
class Additive(Schedule):
    """``γ = 1``, ``σ = √2·t``: noise is added to data that stays as it is (section 4.3)."""

    largest: float = math.sqrt(2.0)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.largest * t)

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam) / self.largest

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.largest)


@dataclass(frozen=True)
class At:
    """All training at one time of the path."""

    t: float

    def __call__(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)


PATHS: dict[str, Schedule] = {"dit": VP(), "linear": Linear(), "additive": Additive()}


def signal(lam: Tensor) -> Tensor:
    """``γ²/(γ² + σ²)`` as a function of λ = log(γ/σ)."""
    return torch.sigmoid(2.0 * lam)


WEIGHTS: dict[str, Weight] = {"one": one, "signal": signal}


class InPicture(nn.Module):
    """A network of pictures as one of codes: it sees ``Vᵀz``, and what it gives is projected back.

    Args:
        net: of pictures.
        space: the principal components.
    """

    def __init__(self, net: nn.Module, space: PatchPCA) -> None:
        super().__init__()
        self.net, self.space = net, space
        self.conditions: Any = getattr(net, "conditions", {})

    @property
    def foreign(self) -> nn.Module:
        """Whose places are tapped (:mod:`reverie.nets.taps`)."""
        return self.net

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None, whole: bool = False) -> Tensor:
        """Codes (B, d, h, w) to codes, or to the ``whole`` picture (B, C, H, W)."""
        picture = self.net(self.space.decode(x), time, cond)
        return picture if whole else self.space.encode(picture)


class Deconstructed(Denoising):
    """Denoising in which the network gives a picture, weighted by component (equation 6 and section 4.3).

    Args:
        settings: ``says`` is "picture".
        others: as :class:`~reverie.diffusion.Denoising`.
    """

    def __init__(self, denoise: NetDenoiser, times: TimeSampler, settings: Settings, **others: Any) -> None:
        super().__init__(denoise, times, **others)
        space = denoise.space
        if not isinstance(space, PatchPCA) or settings.says != "picture":
            raise InputError(
                "a picture is weighted by its principal components: it needs tokenizer pca, and says picture"
            )
        self.space, self.original = space, settings.target == "original"
        self.components = torch.full((space.full, 1, 1), settings.off)
        self.components[: space.dims] = 1.0

    def errors(self, images: Tensor, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        """``λ·mean_i w_i·r_i²`` in units of the codes: (B, C, H, W) and float64 (B,) -> (B,)."""
        z = self.space.to(images.device).encode(images)
        noise = onto(rng.normal("noise", z.shape[1:]), z)
        point = self.denoise.schedule.point(t)
        weight = onto(self.weight(point.lam), z)
        point = point.align(z)
        time = onto(t, z)
        picture = self.denoise.net(combine((point.alpha, point.sigma), (z, noise)), time, cond, whole=True)
        r = self.space.rotate((images if self.original else self.space.decode(z)) - picture) / self.space.scale
        return weight * (self.components.to(r) * r.float().square()).flatten(1).mean(1)


def build(
    settings: Settings, space: Latent, picture: tuple[int, int, int], net: NetConfig, classes: int | None = None
) -> NetDenoiser:
    """The denoiser of a variant in its space; weights are drawn from torch's global generator.

    Args:
        settings: the variant.
        space: its tokenizer, trained.
        picture: (C, H, W).
        net: the transformer; its ``patch`` does not count, a token is a code.
        classes: how many, for a variant with labels.

    Raises:
        InputError: when a variant that sees or says pictures has another tokenizer than pca, or says pictures without seeing them.
    """
    number = classes if settings.labels else None
    shape = space.code_shape(picture)
    if settings.sees == "codes":
        if settings.says == "picture":
            raise InputError("a network that says pictures sees pictures: set sees=picture")
        network: nn.Module = nets.build(replace(net, patch=1), channels=shape[0], size=shape[1:], classes=number)
    else:
        if not isinstance(space, PatchPCA):
            raise InputError(f"codes are put back into pictures by principal components: got the space {space.name}")
        inner = nets.build(replace(net, patch=space.patch), channels=picture[0], size=picture[1:], classes=number)
        network = InPicture(inner, space)
    return NetDenoiser(network, PATHS[settings.path], settings.kind, shape=shape, space=space)


def task(settings: Settings, denoise: NetDenoiser, **others: Any) -> Denoising:
    """The training of a variant."""
    times: TimeSampler = Uniform() if settings.level is None else At(settings.level)
    others = {"weight": WEIGHTS[settings.weight], **others}
    if settings.says == "picture":
        return Deconstructed(denoise, times, settings, **others)
    return Denoising(denoise, times, **others)
