"""A generator G of noise and a critic D of pictures, each the other's loss.

Goodfellow et al., "Generative adversarial networks", NeurIPS 2014: ``min_G max_D E_x log σ(D(x)) + E_z log(1 − σ(D(G(z))))``, with the
non-saturating loss of its section 3 as the usual one. The relativistic pairing loss is Jolicoeur-Martineau 2019, the penalties R1 and R2 on
the critic's slope at real and at drawn pictures are Mescheder, Geiger & Nowozin 2018, and the critic is told the class by a projection
(Miyato & Koyama 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.generator import Frame, Generator
from reverie.core.noise import Seeds, Tape
from reverie.core.task import Moment, Player, Preview, Task
from reverie.core.tensors import onto
from reverie.families.drawing import columns, drawn, labels_of

Loss = Literal["minimax", "non-saturating", "relativistic"]
SMALLEST, LARGEST = 4, 16
"""Sides of the coarsest grid: it is halved down to no less than the first, and must come down to the second."""


class Painter(nn.Module):
    """The network of a generator: noise becomes a code, a code a picture.

    Attributes:
        dims: numbers of z, which is N(0, I).
        noise: further N(0, 1) numbers of a picture, for its details.
        straight: whether codes are joined by straight lines; else they are points of a sphere, as z is.
    """

    dims: int
    noise: int = 0
    straight: bool = False

    def apart(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, dims) and noise (B, noise) of N(0, 1) numbers, both in one."""
        z, noise = numbers.split([self.dims, self.noise], 1)
        return z, noise

    def codes(self, z: Tensor, label: Tensor | None) -> Tensor:
        """The codes (B, …) of z (B, dims) and classes (B,): here z itself."""
        return z

    def paint(self, codes: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        """Pictures (B, C, H, W) of codes and noise (B, noise)."""
        raise NotImplementedError

    def forward(self, z: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        return self.paint(self.codes(z, label), label, noise)


class GAN(Generator):
    """Draws z from N(0, I) and paints it.

    Args:
        net: the generator.
        critic: ``(x, label) -> (B,)``, high for real pictures; only training needs it.
        spec: of the data.
    """

    def __init__(self, net: Painter, critic: nn.Module, spec: DataSpec) -> None:
        self.net, self.critic, self.shape = net, critic, tuple(spec.shape)
        self.conditions = {name: spec.conditions[name] for name in ("label",) if name in spec.conditions}

    def inputs(self, tape: Tape) -> tuple[Tensor, Tensor]:
        """z (B, dims) and noise (B, noise) of a tape, on the device of the network."""
        both = tape.draw("init", 0, (self.net.dims + self.net.noise,))
        return self.net.apart(onto(both, next(self.net.parameters())))

    def codes(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What is painted for z: the network's codes, as the settings of drawing change them."""
        return self.net.codes(z, label)

    @torch.no_grad()
    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        def draw(tape: Tape, cond: Cond | None, count: int) -> Tensor:
            label = labels_of(cond, self.conditions, count)
            z, noise = self.inputs(tape)
            return self.net.paint(self.codes(z, label), label, noise).clamp(-1.0, 1.0)

        return drawn(self, draw, n, cond, seed, batch_size)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"generator": self.net}


def critic_loss(loss: Loss, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What the critic descends, of its ratings of real and drawn pictures (B,); each part (B,)."""
    if loss == "relativistic":
        return {"real_over_fake": F.softplus(fake - real)}
    return {"real": F.softplus(-real), "fake": F.softplus(fake)}


def generator_loss(loss: Loss, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """What the generator descends, (B,). Only the relativistic loss looks at the rating of a real picture."""
    if loss == "minimax":
        return -F.softplus(fake)
    return F.softplus(-fake if real is None else real - fake)


def slope(rating: Tensor, x: Tensor) -> Tensor:
    """``‖∇D(x)‖²`` (B,) of ratings (B,) of x, itself differentiable."""
    (gradient,) = torch.autograd.grad(rating.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


class Duel(Task):
    """Critic and generator in turn, once each a step.

    Args:
        gan: whose network and critic are trained.
        held_out: real pictures to show beside the drawn ones.
        loss: of both.
        r1: weight γ of the penalty ``γ/2·‖∇D‖²`` at real pictures.
        r2: the same at drawn ones.
        every: steps from one penalty to the next, each so many times as strong (lazy regularisation, Karras et al. 2020).
    """

    def __init__(
        self,
        gan: GAN,
        held_out: Dataset,
        loss: Loss = "non-saturating",
        r1: float = 0.0,
        r2: float = 0.0,
        every: int = 1,
    ) -> None:
        self.gan, self.held_out, self.r1, self.r2, self.every = gan, held_out, r1, r2, every
        self.objective: Loss = loss
        self.players: dict[str, Player] = {"critic": Player(gan.critic, average=False), "generator": Player(gan.net)}

    def codes(self, z: Tensor, label: Tensor | None, rng: Draws) -> Tensor:
        """The codes that pictures are painted of while training."""
        return self.gan.net.codes(z, label)

    def draw(self, batch: Batch, rng: Draws) -> tuple[Tensor, Tensor]:
        """Codes, and pictures painted of them, of the classes of a batch."""
        net = self.gan.net
        z, noise = net.apart(onto(rng.normal("z", (net.dims + net.noise,)), batch.x))
        codes = self.codes(z, batch.label, rng)
        return codes, net.paint(codes, batch.label, noise)

    def seen(self, x: Tensor, rng: Draws, stream: str) -> Tensor:
        """What the critic gets to see of pictures."""
        return x

    def rated(self, real: Tensor) -> None:
        """Told of the critic's ratings (B,) of real pictures in its turn."""

    def regular(self, codes: Tensor, fake: Tensor, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """Further parts of the generator's loss, of codes and the pictures painted of them."""
        return {}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        if player == "generator":
            return self._fooling(batch, rng, progress)
        with torch.no_grad():
            _, fake = self.draw(batch, rng)
            shown = {"r1": self.seen(batch.x, rng, "real").detach(), "r2": self.seen(fake, rng, "fake")}
        due = progress.step % self.every == self.every - 1
        weights = {"r1": self.r1, "r2": self.r2} if due else {}
        for name, x in shown.items():
            x.requires_grad_(weights.get(name, 0.0) > 0.0)
        ratings = {name: self.gan.critic(x, batch.label) for name, x in shown.items()}
        self.rated(ratings["r1"].detach())
        penalties = {
            name: 0.5 * weight * self.every * slope(ratings[name], shown[name])
            for name, weight in weights.items()
            if weight
        }
        return {**critic_loss(self.objective, ratings["r1"], ratings["r2"]), **penalties}

    def _fooling(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        codes, fake = self.draw(batch, rng)
        rating = self.gan.critic(self.seen(fake, rng, "fake"), batch.label)
        real = None
        if self.objective == "relativistic":
            with torch.no_grad():
                real = self.gan.critic(self.seen(batch.x, rng, "real"), batch.label)
        return {"fool": generator_loss(self.objective, rating, real), **self.regular(codes, fake, rng, progress)}

    def preview(self) -> Preview | None:
        return columns(self.gan, self.held_out)


class Told(nn.Module):
    """z beside an embedding of the class as large as z: (B, dims) and (B,) become (B, size)."""

    def __init__(self, dims: int, classes: int) -> None:
        super().__init__()
        self.size = 2 * dims if classes else dims
        self.classes = nn.Embedding(classes, dims) if classes else None

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return z if self.classes is None else torch.cat([z, self.classes(label)], 1)


class Verdict(nn.Module):
    """Features (B, F) become ratings (B,): one direction for all, and one of the class (projection, Miyato & Koyama 2018)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, 1)
        self.classes = nn.Embedding(classes, features) if classes else None

    def forward(self, h: Tensor, label: Tensor | None) -> Tensor:
        rating = self.out(h)[:, 0]
        return rating if self.classes is None else rating + (self.classes(label) * h).sum(1) / math.sqrt(h.shape[1])


def pyramid(shape: tuple[int, ...], patch: int = 1) -> tuple[int, tuple[int, int]]:
    """How often the grid of pictures (C, H, W) is halved, and the coarsest grid.

    Args:
        patch: side of the square of pixels that is one place of the finest grid.

    Raises:
        InputError: for data that is no pictures, or sides that do not come down to a coarse grid by halving.
    """
    if len(shape) != 3:
        raise InputError(f"an adversarial model draws pictures (C, H, W): got data of shape {tuple(shape)}")
    height, width = shape[1:]
    if height % patch or width % patch:
        raise InputError(
            f"pictures of {height}x{width} are not made of squares of {patch} pixels: give another --patch"
        )
    grid, halvings = (height // patch, width // patch), 0
    while all(side % 2 == 0 and side // 2 >= SMALLEST for side in grid):
        grid, halvings = (grid[0] // 2, grid[1] // 2), halvings + 1
    if max(grid) > LARGEST:
        raise InputError(
            f"pictures of {height}x{width} come down to {grid[0]}x{grid[1]} by halving, which is more than {LARGEST}: "
            f"resize them to a multiple of a power of 2, such as {2 ** round(math.log2(max(height, width)))}"
        )
    return halvings, grid


def widths(width: int, halvings: int) -> list[int]:
    """Channels from the finest grid to the coarsest: twice as many a halving, at most 8 times."""
    return [width * min(2**level, 8) for level in range(halvings + 1)]


def coarser(x: Tensor) -> Tensor:
    """Half the height and width, by means of four."""
    return F.avg_pool2d(x, 2)


def finer(x: Tensor) -> Tensor:
    """Twice the height and width, by linear interpolation."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
