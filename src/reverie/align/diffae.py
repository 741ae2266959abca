"""DiffAE: a diffusion auto-encoder. What a picture means is one vector, the rest is the noise it comes from.

Preechakul et al., "Diffusion autoencoders: toward a meaningful and decodable representation", CVPR 2022. An encoder gives
``z = E(x0)``, a denoiser conditioned on z learns to draw x0 (section 3.1); both are trained by the denoising error alone. The stochastic
code x_T is x0 taken along the deterministic solver under z (section 3.2), so that (z, x_T) is the picture. A second diffusion model draws
z (section 3.4), and the normal of a linear classifier of z is a direction in which a picture changes by that attribute (section 4.1).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie import nets
from reverie.align.config import DiffAEConfig
from reverie.core.batch import DataSpec
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import VP
from reverie.core.space import Space
from reverie.core.task import Preview
from reverie.core.tensors import combine, onto
from reverie.core.times import TimeSampler, Uniform
from reverie.diffusion import building
from reverie.diffusion.denoising import Denoising
from reverie.nets.embeddings import TimeEmbedding
from reverie.nets.encoder import Encoder
from reverie.nets.precision import KeepsPrecision
from reverie.solve import invert, sample

COLUMNS = 8
"""Pictures that training shows."""


class SemanticEncoder(Encoder):
    """The descending half of a U-Net and an attention pool: pictures (B, C, H, W) to vectors (B, ``classes``)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x.new_zeros(()))


class AutoEncoder(nn.Module):
    """The decoding network and its encoder as one: trained, averaged and saved together.

    Args:
        net: takes the condition "vector".
        encoder: clean pictures (B, C, H, W) -> (B, dim).

    Raises:
        InputError: when the network takes no vector.
    """

    def __init__(self, net: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.conditions: Any = getattr(net, "conditions", {})
        if "vector" not in self.conditions:
            raise InputError(
                f"the network takes a vector, the code: build it with vector=dim; it takes {', '.join(self.conditions) or 'nothing'}"
            )
        self.net, self.encoder = net, encoder

    @property
    def foreign(self) -> nn.Module:
        """Whose places are tapped (:mod:`reverie.nets.taps`)."""
        return self.net

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        return self.net(x, time, cond)


class SemanticDenoising(Denoising):
    """The denoising task under the code of the very picture: the error reaches the encoder through the condition.

    Args:
        denoise: its network is an :class:`AutoEncoder`.
        others: as :class:`~reverie.diffusion.Denoising`.
    """

    def __init__(self, denoise: NetDenoiser, times: TimeSampler, **others: Any) -> None:
        super().__init__(denoise, times, drop=0.0, **others)
        _encoder(denoise)
        self.shown = None if self.held_out is None else self.held_out.x[:COLUMNS]

    def errors(self, images: Tensor, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        return super().errors(images, t, rng, Cond(vector=_encoder(self.denoise)(images)))

    def preview(self) -> Preview | None:
        """Held-out pictures, and below each two that its code draws with other noise."""
        if self.shown is None:
            return None
        semantic = _encoder(self.denoise)(self.shown.to(self.denoise.device))
        drawn = [decode(self.denoise, semantic, steps=10, seed=seed).cpu() for seed in range(2)]
        return Preview(torch.cat([self.shown, *drawn]), len(self.shown))


def build(config: DiffAEConfig, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
    """The denoiser of an :class:`AutoEncoder`, freshly initialised.

    Raises:
        InputError: when the network takes no vector, or cannot take the size of the data.
    """
    space = building.space_of(config.space, spec, folder)
    shape = space.code_shape(spec.shape)
    if not hasattr(config.net, "vector"):
        raise InputError(
            f"a diffusion auto-encoder needs a network that takes a vector: use unet or dit, not {type(config.net).__name__}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nets.build(replace(config.net, vector=config.dim), channels=shape[0], size=shape[1:])
        size = (spec.shape[1], spec.shape[2])
        encoder = SemanticEncoder(config.encoder, channels=spec.shape[0], size=size, classes=config.dim)
    schedule = building.schedule_of(config)
    return NetDenoiser(AutoEncoder(net, encoder), schedule, config.kind, shape=shape, time=config.time, space=space)


class Code(NamedTuple):
    """A picture: ``semantic`` (B, dim) says what it shows, ``stochastic`` like the diffused state says the rest."""

    semantic: Tensor
    stochastic: Tensor


def _encoder(denoise: Denoiser) -> nn.Module:
    net = getattr(denoise, "net", None)
    if not isinstance(net, AutoEncoder):
        raise InputError(
            f"this needs a diffusion auto-encoder, a denoiser of align.diffae.AutoEncoder: got {type(net).__name__}"
        )
    return net.encoder


def encode(denoise: Denoiser, images: Tensor, steps: int = 50) -> Code:
    """Both codes of pictures (B, C, H, W) in [−1, 1].

    Raises:
        InputError: when the model is no diffusion auto-encoder.
    """
    semantic = _encoder(denoise)(images.to(denoise.device))
    return Code(semantic, invert(denoise, images, steps, Cond(vector=semantic)))


def decode(
    denoise: Denoiser, semantic: Tensor, stochastic: Tensor | None = None, steps: int = 50, seed: int = 0
) -> Tensor:
    """Pictures (B, C, H, W) of codes; without the stochastic one it is drawn, and only what the semantic one says stays."""
    n, cond = len(semantic), Cond(vector=semantic)
    return sample(denoise, n, cond, solver="heun", steps=steps, x=stochastic, seed=seed)


class Attributes:
    """Linear classifiers of the semantic code, one an attribute, on codes that are shifted and scaled to unit variance.

    Args:
        codes: (N, dim), of training pictures.
        labels: (N,) classes, or (N, K) of 0 and 1.

    Attributes:
        directions: (K, dim), unit normals.
    """

    def __init__(self, codes: Tensor, labels: Tensor) -> None:
        codes = codes.detach().float()
        self.mean, self.std = codes.mean(0), codes.std(0).clamp(min=1e-6)
        targets = (F.one_hot(labels) if labels.ndim == 1 else labels).float()
        self.layer = nn.Linear(codes.shape[1], targets.shape[1], device=codes.device)
        nn.init.zeros_(self.layer.weight)
        x = (codes - self.mean) / self.std
        optimizer = torch.optim.LBFGS(self.layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.binary_cross_entropy_with_logits(self.layer(x), targets) + 1e-3 * self.layer.weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # pyright: ignore[reportArgumentType]
        self.layer.requires_grad_(False)
        self.directions = F.normalize(self.layer.weight, dim=1)

    def scores(self, codes: Tensor) -> Tensor:
        """Log odds of each attribute, (B, K)."""
        return self.layer((codes - self.mean) / self.std)

    def move(self, codes: Tensor, attribute: int, amount: float) -> Tensor:
        """Codes moved by ``amount·√dim`` along the attribute; 0.3 is the paper's."""
        step = amount * codes.shape[1] ** 0.5 * self.directions[attribute]
        return codes + step * self.std


class CodeNet(nn.Module):
    """A perceptron of noisy codes (B, dim): every layer sees the input again and is scaled by the time (their table 8).

    They use 10 layers of 2048.
    """

    def __init__(self, dim: int, width: int = 2048, depth: int = 10) -> None:
        super().__init__()
        self.time = TimeEmbedding(64, width)
        self.layers = nn.ModuleList(nn.Linear((width if i else 0) + dim, width) for i in range(depth - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth - 1))
        self.out = nn.Linear(width + dim, dim)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        scale = self.time(time.expand(len(x)))
        h = x.new_zeros(len(x), 0)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.silu(norm(layer(torch.cat([h, x], 1)) * (1.0 + scale)))
        return self.out(torch.cat([h, x], 1))


class Standard(KeepsPrecision, nn.Module, Space):
    """The space in which codes (N, dim) have mean 0 and variance 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", codes.mean(0))
        self.register_buffer("std", codes.std(0).clamp(min=1e-6))

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        return (z * self.std + self.mean).to(z.dtype)

    def code_shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        return data

    def data_shape(self, code: tuple[int, ...]) -> tuple[int, ...]:
        return code


class PriorDenoising(Denoising):
    """Denoising codes under the mean absolute error of the noise (section 3.4)."""

    def errors(self, images: Tensor, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        x0 = self.denoise.space.to(images.device).encode(images)
        noise = onto(rng.normal("noise", x0.shape[1:]), x0)
        point = self.denoise.schedule.point(t).align(x0)
        estimate = self.denoise(combine((point.alpha, point.sigma), (x0, noise)), point, cond)
        return (estimate.out - noise).abs().mean(1)


def prior(codes: Tensor, width: int = 2048, depth: int = 10) -> NetDenoiser:
    """The diffusion model that draws semantic codes, untrained: ``sample`` of it gives codes, :func:`decode` makes them pictures.

    Its path is theirs, a constant β of 0.008 over 1,000 steps.

    Args:
        codes: (N, dim), of training pictures: they set its scale.
    """
    net = CodeNet(codes.shape[1], width, depth)
    return NetDenoiser(net, VP(8.0, 8.0), "eps", shape=(codes.shape[1],), space=Standard(codes.detach()))


def prior_task(denoise: NetDenoiser) -> PriorDenoising:
    """The training of :func:`prior`; its batches hold codes (B, dim) for images."""
    return PriorDenoising(denoise, Uniform(), drop=0.0)
