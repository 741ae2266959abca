"""The variational auto-encoder: ``log p(x|y) ≥ E_q log p(x|z,y) − KL(q(z|x,y) ‖ N(0, I))``.

Kingma & Welling, "Auto-encoding variational Bayes", ICLR 2014; under a label Sohn, Lee & Yan 2015; the second term weighted by β Higgins et
al. 2017. ``p(x|z,y) = N(D(z,y), σ²)`` with one σ for all pixels, learned with the rest, so that the two terms are weighed by the data and
not by hand (Rybkin, Daniilidis & Levine 2021). What is drawn is the mean D(z,y), without the noise of σ, which no picture has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Conditions
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.generator import Frame, Generator
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.task import Moment, Player, Preview, Task
from reverie.core.tensors import onto
from reverie.families.drawing import columns, drawn, labels_of
from reverie.solve.likelihood import bits_per_dimension, dequantise
from reverie.spaces.latent import divergence
from reverie.spaces.vector import Net, VectorVAE

if TYPE_CHECKING:
    from reverie.families.token_config import VAEConfig

HELD_OUT, CHUNK, SCALED = 512, 250, 5_000
"""Held-out pictures on which the bound is validated, how many are bounded at a time, and pictures whose codes set the scale of a space."""


class VAE(Generator):
    """Draws z from N(0, I) and decodes it.

    Args:
        net: a :class:`Net`, or what encodes, decodes and has a ``log_variance`` like one.
        shape: of a sample.
        dims: numbers of z.
        conditions: empty, or a label.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], dims: int, conditions: Conditions) -> None:
        self.net, self.shape, self.dims, self.conditions = net, tuple(shape), dims, conditions
        self.log_prob_bound = self._bound
        self.as_space = self._as_space

    def terms(self, x: Tensor, label: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``log p(x|z)`` at the ``z ~ q(z|x)`` of ``noise`` N(0, I) (B, dims), and ``KL(q(z|x) ‖ N(0, I))``; nats, each (B,).

        Their difference is the bound; its mean over the noise is at most log p(x), and equal where q is the posterior.
        """
        mean, log_variance = self.net.encode(x, label)  # pyright: ignore[reportCallIssue]
        restored = self.net.decode(mean + torch.exp(0.5 * log_variance) * noise, label)  # pyright: ignore[reportCallIssue]
        spread: Tensor = self.net.log_variance  # pyright: ignore[reportAssignmentType]
        distance = (x - restored).square() / spread.exp() + spread + math.log(2.0 * math.pi)
        return -0.5 * distance.flatten(1).sum(1), divergence(mean, log_variance)

    @torch.no_grad()
    def _bound(self, x: Tensor, cond: Cond | None = None, *, seed: Seeds = 0) -> Tensor:
        """The evidence lower bound at one z each, (B,)."""
        label = labels_of(cond, self.conditions, len(x))
        label = None if label is None else label.to(x.device)
        noise = onto(Tape(sample_seeds(seed, len(x))).draw("bound", 0, (self.dims,)), x)
        parts = []
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            likely, divergent = self.terms(x[rows], None if label is None else label[rows], noise[rows])
            parts.append(likely - divergent)
        return torch.cat(parts)

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
            z = onto(tape.draw("init", 0, (self.dims,)), next(self.net.parameters()))
            return self.net.decode(z, label).clamp(-1.0, 1.0)  # pyright: ignore[reportCallIssue]

        return drawn(self, draw, n, cond, seed, batch_size)

    def _as_space(self, data: Dataset) -> VectorVAE:
        """See :class:`reverie.core.generator.Generator`."""
        net = self.net
        if not isinstance(net, Net) or net.classes:
            raise InputError(
                "this VAE codes and decodes a picture under its label, which a space is not told: train one without labels "
                "(`reverie train vae --data.no-labels`); a diffusion model in its space may have them"
            )
        space = VectorVAE(*net.shape, self.dims, net.width)
        space.net.load_state_dict(net.state_dict())
        space.eval().requires_grad_(False)
        return space.to(next(net.parameters()).device).normalise(data.batch(range(min(SCALED, len(data)))).x)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"vae": self.net}


class Bounding(Task):
    """Ascends the bound; both terms in nats a dimension of the data.

    Args:
        model: what is trained.
        held_out: pictures to validate on.
        beta: weight of the divergence.
    """

    def __init__(self, model: VAE, held_out: Dataset, beta: float = 1.0) -> None:
        self.model, self.held_out, self.beta = model, held_out, beta
        self.players = {"vae": Player(model.net)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        dimensions = batch.x[0].numel()
        noise = onto(rng.normal("code", (self.model.dims,)), batch.x)
        likely, divergent = self.model.terms(batch.x, batch.label, noise)
        return {"surprise": -likely / dimensions, "divergence": self.beta * divergent / dimensions}

    def validate(self) -> dict[str, float | list[float]]:
        """The terms on held-out pictures in nats, and how many bits a dimension their difference says these have at most."""
        if not len(self.held_out):
            return {}
        some = self.held_out.batch(range(min(HELD_OUT, len(self.held_out)))).to(
            next(self.model.net.parameters()).device
        )
        noise = onto(Draws(0, 0, len(some)).normal("code", (self.model.dims,)), some.x)
        likely, divergent = self.model.terms(dequantise(some.x), some.label, noise)
        bits = bits_per_dimension(likely - divergent, self.model.shape).mean().item()
        return {"log_likelihood": likely.mean().item(), "divergence": divergent.mean().item(), "bits_at_most": bits}

    def preview(self) -> Preview | None:
        return columns(self.model, self.held_out)


def build(config: VAEConfig, spec: DataSpec, seed: int) -> VAE:
    """The model, freshly initialised.

    Raises:
        InputError: for data that is no pictures.
    """
    if len(spec.shape) != 3:
        raise InputError(f"a VAE draws pictures (C, H, W): got data of shape {spec.shape}")
    classes = len(spec.classes) if "label" in spec.conditions else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net((spec.shape[0], spec.shape[1], spec.shape[2]), config.dims, classes, config.width)
    return VAE(net, spec.shape, config.dims, {name: spec.conditions[name] for name in ("label",) if classes})
