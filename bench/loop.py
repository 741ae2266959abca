"""What a step costs in our loop, beside a bare one of torch: the same networks, losses, optimizers and batches, one thread.

    python bench/loop.py

A diffusion model of one player, and adversarial ones of two. The bare loop is what one would write by hand for one model: noise from
torch's generator, gradients clipped where ours are, no average of the weights (of which ours keeps one here), no log, no checks, no
resuming. Blocks of steps alternate between the two, so that both see the same machine, and are timed by the time of the processor; a
figure is the median over pairs of blocks.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from reverie import data
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.memory import keep_freed_memory
from reverie.core.task import Task
from reverie.diffusion.config import DenoisingConfig
from reverie.families.gan import GAN
from reverie.families.gan_config import AdversarialConfig, DCGANConfig, R3GANConfig
from reverie.learn import train
from reverie.learn.config import TrainConfig
from reverie.nets import UNetConfig

BATCH, BLOCK, PAIRS = 32, 4, 50
RATE, BETAS, CLIP = 2e-4, (0.0, 0.99), 1.0
DENOISING = DenoisingConfig(
    net=UNetConfig(width=32, multipliers=(1, 1), blocks=1, attention=(2,), patch=2, heads=2, groups=4)
)
"""The demo's network."""
Step = Callable[[Tensor, Tensor], None]
"""Of pictures (B, C, H, W) and labels (B,)."""


def flow(model: NetDenoiser) -> Step:
    """Rectified flow at logit-normal times, a tenth of the labels dropped (Esser et al. 2024), written out by hand."""
    net = model.net.train()
    optimizer = AdamW(net.parameters(), lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)

    def step(x0: Tensor, label: Tensor) -> None:
        noise, t = torch.randn_like(x0), torch.randn(len(x0)).sigmoid()
        at = t[:, None, None, None]
        out = net((1.0 - at) * x0 + at * noise, t, Cond(label=label).drop(torch.rand(len(x0)) >= DENOISING.drop))
        optimizer.zero_grad(set_to_none=True)
        (out - (noise - x0)).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()

    return step


class Adversaries:
    """Both players in turn, written out by hand."""

    def __init__(self, gan: GAN, relativistic: bool, gamma: float) -> None:
        self.gan, self.relativistic, self.gamma = gan, relativistic, gamma
        self.optimizers = [
            AdamW(net.parameters(), lr=RATE, betas=BETAS, weight_decay=0.0, fused=True) for net in (gan.critic, gan.net)
        ]

    def paint(self, label: Tensor) -> Tensor:
        return self.gan.net(torch.randn(len(label), self.gan.net.dims), label, torch.empty(len(label), 0))

    def turn(self, critic: bool) -> None:
        self.gan.critic.requires_grad_(critic)
        self.gan.net.requires_grad_(not critic)
        self.optimizers[not critic].zero_grad(set_to_none=True)

    def step(self, real: Tensor, label: Tensor) -> None:
        critic = self.gan.critic
        self.turn(True)
        with torch.no_grad():
            fake = self.paint(label)
        shown = [real.requires_grad_(self.gamma > 0), fake.requires_grad_(self.gamma > 0 and self.relativistic)]
        ratings = [critic(x, label) for x in shown]
        if self.relativistic:
            loss = F.softplus(ratings[1] - ratings[0]).mean()
        else:
            loss = F.softplus(-ratings[0]).mean() + F.softplus(ratings[1]).mean()
        for x, rating in zip(shown, ratings, strict=True):
            if x.requires_grad:
                (slope,) = torch.autograd.grad(rating.sum(), x, create_graph=True)
                loss = loss + 0.5 * self.gamma * slope.square().sum((1, 2, 3)).mean()
        loss.backward()
        self.optimizers[0].step()

        self.turn(False)
        rating = critic(self.paint(label), label)
        if self.relativistic:
            with torch.no_grad():
                other = critic(real, label)
            rating = rating - other
        F.softplus(-rating).mean().backward()
        self.optimizers[1].step()


def measure(task: Task, bare: Step, clip: float) -> tuple[float, float]:
    """Milliseconds of a bare step, and how many times as long ours takes, where both clip gradients, of no limit at 0."""
    digits = data.load("mnist5k")
    batches = [digits.batch(range(start, start + BATCH)) for start in range(0, 50 * BATCH, BATCH)]
    pairs: list[tuple[float, float]] = []
    begun = time.process_time()

    def feed(start: int, count: int) -> Batch:
        """The next batch of our loop; at the end of a block of its steps it lets the bare loop do as many."""
        nonlocal begun
        number = start // BATCH
        if number and number % BLOCK == 0:
            ours, begun = time.process_time() - begun, time.process_time()
            for batch in batches[:BLOCK]:
                assert batch.label is not None
                bare(batch.x.clone(), batch.label)
            pairs.append((ours, time.process_time() - begun))
            begun = time.process_time()
        batch = batches[number % len(batches)]
        return Batch(batch.x.clone(), batch.cond)

    images = BATCH * BLOCK * (PAIRS + 2)
    settings = TrainConfig(
        images=images,
        batch=BATCH,
        lr=RATE,
        betas=BETAS,
        weight_decay=0.0,
        clip=clip,
        save_every=images,
        ema_profiles=(),
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        train(task, feed, settings, Path(folder))
    warm = pairs[1:]
    step = statistics.median(theirs for _, theirs in warm) / BLOCK * 1e3
    return step, statistics.median(ours / theirs for ours, theirs in warm)


def adversarial(config: AdversarialConfig) -> tuple[Task, Step]:
    digits = data.load("mnist5k")
    ours, bare = (config.build(digits.spec, 0) for _ in range(2))
    return config.task(ours, digits, digits, None, 0), Adversaries(
        bare, isinstance(config, R3GANConfig), config.gamma
    ).step


def denoising() -> tuple[Task, Step]:
    digits, config = data.load("mnist5k"), DENOISING.resolved()
    ours, bare = (config.build(digits.spec, 0) for _ in range(2))
    return config.task(ours, digits, digits, config.Sample(), 0), flow(bare)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, (task, bare), clip in (
        ("denoising", denoising(), CLIP),
        ("dcgan", adversarial(DCGANConfig(width=64, gamma=0.0)), 0.0),
        ("r3gan", adversarial(R3GANConfig(every=1)), 0.0),
    ):
        step, ratio = measure(task, bare, clip)
        print(
            f"{name}: a bare step of {BATCH} pictures takes {step:.0f} ms, ours {ratio:.3f} times as long", flush=True
        )


if __name__ == "__main__":
    main()
