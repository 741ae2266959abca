"""Training a space: squared error and what the space adds, and if wanted a perceptual and an adversarial loss.

With both it is the first stage of latent diffusion (Esser et al. 2021, VQGAN; Rombach et al. 2022): distances between the features of
a trained network (Zhang et al. 2018, LPIPS) and a discriminator of overlapping patches under the hinge loss. What the discriminator says
is weighted so that it moves the decoder's last layer as much as the distance to the picture does (Esser et al., equation 7). It learns from
the first step, but the space listens only once it has learned something: one that is asked untrained ruins what the space can do.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Preview, Task
from reverie.core.tensors import onto
from reverie.spaces.codebook import usage
from reverie.spaces.latent import Latent
from reverie.spaces.vq import VQ

HELD_OUT, SCALED, COLUMNS = 256, 5_000, 10
"""Held-out pictures that are restored, pictures whose codes set the scale, and pictures shown."""
PERCEPTUAL = 0.1
"""Weight of the perceptual loss."""
WARM = 0.25
"""Share of the training in which the discriminator learns alone."""
SMALL, MOST = 1e-4, 1e4
"""What the adaptive weight's denominator is at least, and the weight at most."""
Stages = Callable[[Tensor], Sequence[Tensor]]
"""Pictures (B, C, H, W) -> feature maps of several depths of a trained network, each (B, C', H', W')."""


class Discriminator(nn.Sequential):
    """Says of each patch of a picture how real it looks: three strided convolutions, one number a position."""

    def __init__(self, channels: int, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(2 * width, 1, 3, padding=1))


class Tokenizing(Task):
    """The task of a space that is trained by descent; the scale of its codes is measured whenever it is saved.

    Args:
        space: a tokenizer, see :class:`reverie.spaces.Latent`.
        data: pictures to train on, whose codes set the scale.
        held_out: pictures to validate the reconstruction on, and to show.
        perceptual: features in which pictures and reconstructions are compared as well, at weight 0.1.
        discriminator: tells pictures and reconstructions apart.
        adversarial: how much it moves the last layer, beside the distance to the picture.

    Raises:
        InputError: for a codebook that is larger than the data.
    """

    def __init__(
        self,
        space: Latent,
        data: Dataset,
        held_out: Dataset,
        *,
        perceptual: Stages | None = None,
        discriminator: nn.Module | None = None,
        adversarial: float = 0.8,
    ) -> None:
        self.space, self.data, self.perceptual, self.adversarial = space, data, perceptual, adversarial
        if isinstance(space, VQ) and len(data) and space.codes > len(data) * space.token_count(data.spec.shape):
            places = len(data) * space.token_count(data.spec.shape)
            raise InputError(
                f"a codebook of {space.codes:,} codes is larger than the data: {len(data):,} pictures of {places // len(data)} tokens have "
                f"{places:,}. Choose fewer codes, or more pictures"
            )
        self.held_out = held_out.batch(range(min(HELD_OUT, len(held_out)))).x if len(held_out) else None
        self.players = {"space": Player(space, average=False)}
        if discriminator is not None:
            self.players["discriminator"] = Player(discriminator, average=False)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x = batch.x
        noise = onto(rng.normal("code", self.space.code_shape(tuple(x.shape[1:]))), x)
        with torch.set_grad_enabled(player == "space"):
            restored, others = self.space.reconstruct(x, noise)
        discriminator = self.players["discriminator"].module if "discriminator" in self.players else None
        if player == "discriminator":
            assert discriminator is not None
            real, made = discriminator(x), discriminator(restored)
            return {"hinge": 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean())}
        parts = {"mse": (x - restored).square().flatten(1).mean(1)}
        if self.perceptual is not None:
            parts["perceptual"] = PERCEPTUAL * distance(self.perceptual(x), self.perceptual(restored))
        if discriminator is not None and progress.fraction < WARM:
            parts["adversarial"] = x.new_zeros(())
        elif discriminator is not None:
            real = -discriminator(restored).mean()
            near = torch.stack([part.mean() for part in parts.values()]).sum()
            parts["adversarial"] = self.adversarial * balance(near, real, self.space.last) * real
        return {**parts, **others}

    def after_step(self, progress: Moment) -> None:
        self.space.settle(progress.step)

    def before_save(self) -> None:
        self.space.eval()
        self.space.normalise(self.data.batch(range(min(SCALED, len(self.data)))).x)
        self.space.train()

    def validate(self) -> dict[str, float | list[float]]:
        """Mean squared error per pixel of what is coded and restored; of a codebook, the share that occurs, and its perplexity."""
        if self.held_out is None:
            return {}
        x = self.held_out.to(self.space.scale.device)
        measures: dict[str, float | list[float]] = {
            "mse": (x - self.space.decode_raw(self.space.encode_raw(x))).square().mean().item()
        }
        if isinstance(self.space, VQ):
            measures["usage"], measures["perplexity"] = usage(self.space.tokens(x), self.space.codes)
        return measures

    def preview(self) -> Preview | None:
        """Pictures, and below each what is left of it."""
        if self.held_out is None:
            return None
        x = self.held_out[:COLUMNS].to(self.space.scale.device)
        return Preview(torch.cat([x, self.space.decode_raw(self.space.encode_raw(x))]).cpu(), len(x))


def balance(near: Tensor, real: Tensor, last: Tensor) -> Tensor:
    """``‖∂near/∂last‖ / (‖∂real/∂last‖ + 10⁻⁴)``, at most 10⁴: the weight at which both losses move the weights ``last`` alike."""
    (of_near,), (of_real,) = (torch.autograd.grad(loss, last, retain_graph=True) for loss in (near, real))
    return (of_near.norm() / (of_real.norm() + SMALL)).clamp(max=MOST).detach()


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Squared distance of features of unit length at each position, mean over positions, sum over depths: (B,) (LPIPS, eq. 1)."""
    depths = [
        (F.normalize(u, dim=1) - F.normalize(v, dim=1)).square().sum(1).flatten(1).mean(1)
        for u, v in zip(a, b, strict=True)
    ]
    return sum(depths[1:], depths[0])
