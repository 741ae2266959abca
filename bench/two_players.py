"""What a step of two players costs in our loop, beside a bare one of torch: the same networks, losses, optimizers and batches, one thread.

    python bench/two_players.py

The bare loop is what one would write by hand for one model: noise from torch's generator, no average of the weights, no log, no checks, no
resuming. Blocks of steps alternate between the two, so that both see the same machine, and are timed by the time of the processor; a figure
is the median over pairs of blocks.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from reverie import data
from reverie.core.batch import Batch
from reverie.core.memory import keep_freed_memory
from reverie.families.gan import GAN
from reverie.families.gan_config import AdversarialConfig, DCGANConfig, R3GANConfig
from reverie.learn import train
from reverie.learn.config import TrainConfig

BATCH, BLOCK, PAIRS = 32, 4, 20
RATE, BETAS = 2e-4, (0.0, 0.99)


class Bare:
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


def measure(config: AdversarialConfig) -> tuple[float, float]:
    """Milliseconds of a bare step, and how many times as long ours takes."""
    digits = data.load("mnist5k")
    batches = [digits.batch(range(start, start + BATCH)) for start in range(0, 50 * BATCH, BATCH)]
    gan = config.build(digits.spec, 0)
    bare = Bare(config.build(digits.spec, 0), isinstance(config, R3GANConfig), config.gamma)
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
                bare.step(batch.x.clone(), batch.label)
            pairs.append((ours, time.process_time() - begun))
            begun = time.process_time()
        batch = batches[number % len(batches)]
        return Batch(batch.x.clone(), batch.cond)

    images = BATCH * BLOCK * (PAIRS + 2)
    settings = TrainConfig(
        images=images, batch=BATCH, lr=RATE, betas=BETAS, weight_decay=0.0, clip=0.0, save_every=images, device="cpu"
    )
    with tempfile.TemporaryDirectory() as folder:
        train(config.task(gan, digits, digits, None, 0), feed, settings, Path(folder))
    warm = pairs[1:]
    step = statistics.median(theirs for _, theirs in warm) / BLOCK * 1e3
    return step, statistics.median(ours / theirs for ours, theirs in warm)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    for config in (DCGANConfig(width=64, gamma=0.0), R3GANConfig(every=1)):
        step, ratio = measure(config)
        print(f"{config.name}: a bare step of {BATCH} pictures takes {step:.0f} ms, ours {ratio:.3f} times as long")


if __name__ == "__main__":
    main()
