"""Four ways to learn to draw, as tasks of one loop that ends when its time is used up: what bench/train.py compares.

Time is all that is equal. The learning rate is a function of the share of it that is used, so that every method's schedule ends with its
budget whatever the machine does meanwhile. Each trains by its own recipe and draws by its own sampler:

* ``ours``: the recipe that comes along for the data, as ``reverie train`` runs it;
* ``diffusers``: UNet2DModel and DDPMScheduler as the library's example of unconditional generation trains them, told the class besides,
  on pixels folded two by two as ours, without which it sees a third as many pictures; ``diffusers_fast`` at ten times its learning rate,
  which suits so small a network better;
* ``dit``: a plain DiT with rectified flow, Adam and a cosine;
* ``edm``: the recipe of Karras et al. 2022 (tables 1 and 7, appendix F) on the U-Net of ours.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.noise import normal_rows
from reverie.core.task import Moment, Player, Task
from reverie.data import Loader
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig, optim
from reverie.learn.ema import Decay, power
from reverie.learn.runtime import Runtime
from reverie.learn.side import sides
from reverie.nets import DiTConfig
from reverie.recipes import serialisation, sources
from reverie.recipes.recipe import Recipe
from reverie.recipes.training import make

NAMED = {"mnist5k": "demo", "emoji": "emoji"}
"""The recipe that comes along for a data set; that of CIFAR-10 for others."""
NOMINAL = 1_000_000
"""Images of a peer's schedule, of which the warm-up is a share: its length is stretched to the time."""
Draw = Callable[[int, Tensor | None, float, int], Tensor]
"""(n, labels (n,), guidance scale, seed) -> samples (n, C, H, W)."""


@dataclass(frozen=True)
class Learner:
    """A method on its data.

    Attributes:
        task: whose first player draws; others move along with it or stand still.
        config: of optimizer and schedule; its number of images stands for the whole time.
        decay: of the average of the weights, which draws.
        draw: from the averaged weights, once they are in place.
        guided: whether samples can be drawn at several guidance scales.
    """

    task: Task
    loader: Loader
    config: TrainConfig
    decay: Decay
    draw: Draw
    guided: bool

    @property
    def net(self) -> nn.Module:
        return next(iter(self.task.players.values())).module


def learn(learner: Learner, seconds: float, clock: Callable[[], float], began: float, seed: int) -> int:
    """Train until the clock says that ``seconds`` have gone since ``began``, and leave the averaged weights in the network.

    Processes of a launcher share each batch, and go by the clock of the first.

    Returns:
        Images seen.
    """
    runtime, config = Runtime.choose("cpu"), replace(learner.config, ema_profiles=())
    images = step = 0
    with torch.random.fork_rng(), runtime.joined():
        torch.manual_seed(seed)
        side = next(iter(sides(learner.task, config, learner.decay, runtime).values()))
        assert side.turn is not None and side.ema is not None
        learner.net.train()
        while (used := _agreed((clock() - began) / seconds, runtime)) < 1.0:
            start, count = runtime.shard(images, config.batch)
            side.begin(optim.factor(config, int(used * config.images)))
            now = Moment(step, images, max(images, round(images / max(used, 1e-3))))
            parts = side.turn(learner.loader(start, count), Draws(seed, start, count), now)
            (torch.stack([part.sum() for part in parts.values()]).sum() * (runtime.world / config.batch)).backward()
            if side.clip:
                nn.utils.clip_grad_norm_(side.trained, side.clip)
            side.step()
            side.average(images, images + config.batch)
            learner.task.after_step(now)
            images, step = images + config.batch, step + 1
    learner.net.load_state_dict(side.ema.state_dict())
    learner.net.eval().requires_grad_(False)
    return images


def warm_up(learner: Learner) -> None:
    """A step, for what is imported meanwhile is no learning."""
    used = iter((0.0, 1.0))
    learn(learner, 1.0, lambda: next(used), 0.0, 0)


def _agreed(used: float, runtime: Runtime) -> float:
    if runtime.world == 1:
        return used
    told = torch.tensor(used, dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)


def named(data: str) -> Recipe:
    """Our recipe for a data set or folder."""
    recipe = serialisation.load(serialisation.find(NAMED.get(data, "cifar10")))
    return replace(recipe, data=replace(recipe.data, name=data))


def by_recipe(recipe: Recipe, decay: Decay | None = None, change: Callable[[Any], Task] | None = None) -> Learner:
    """What a recipe of a diffusion model trains.

    Args:
        decay: of the average; the recipe's own by default.
        change: what becomes of the task, for what recipes do not say.
    """
    data, held_out = sources.load(recipe), sources.load(recipe, "test")
    recipe = sources.resolve(replace(recipe, task=recipe.task.resolved()), data, held_out)
    with tempfile.TemporaryDirectory() as folder:
        made = make(recipe, data, held_out, Path(folder))

    def draw(n: int, labels: Tensor | None, scale: float, seed: int) -> Tensor:
        generator = recipe.task.generator(made.model, replace(recipe.usual, scale=scale))  # pyright: ignore[reportAttributeAccessIssue]
        cond = None if labels is None else rv.Cond(label=labels)
        return generator.sample(n, cond, seed=[(seed, i) for i in range(n)], batch_size=250)

    recipe.task.open(made.model, data.spec)
    return Learner(
        made.task if change is None else change(made.task),
        made.loader,
        recipe.train,
        power(recipe.train.ema_std) if decay is None else decay,
        draw,
        "label" in data.spec.conditions,
    )


def ours(data: str, seed: int) -> Learner:
    return by_recipe(replace(named(data), seed=seed))


def dit(data: str, seed: int) -> Learner:
    recipe = named(data)
    width, depth = (64, 6) if data == "mnist5k" else (96, 8)
    task = DenoisingConfig(net=DiTConfig(patch=4, width=width, depth=depth, heads=width // 32), times="uniform")
    plain = TrainConfig(
        images=NOMINAL, batch=32, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0, warmup=NOMINAL // 20, decay="cosine"
    )
    sample = SampleConfig(solver="euler", grid="time", steps=40)
    return by_recipe(replace(recipe, seed=seed, task=task, train=plain, sample=sample))


def edm(data: str, seed: int) -> Learner:
    """Their learning rate and average of weights, of lengths that are shares of the training as theirs are of 200 million images. The batch
    is that of ours, where theirs would leave a few dozen steps."""
    recipe = named(data)
    net = replace(recipe.task.net, dropout=0.13)  # pyright: ignore[reportAttributeAccessIssue]
    task = DenoisingConfig(
        net=net, schedule="edm", kind="edm", time="log_sigma", data_std=0.5, times="lognormal-sigma", augment=0.12
    )
    training = TrainConfig(
        images=NOMINAL,
        batch=32,
        lr=1e-3,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        warmup=NOMINAL // 20,
        decay="constant",
        clip=0.0,
    )
    sample = SampleConfig(solver="heun", grid="karras", steps=18)
    return by_recipe(replace(recipe, seed=seed, task=task, train=training, sample=sample), edm_decay)


def edm_decay(before: int, after: int) -> float:
    """Half is forgotten in half a million images, at first in a twentieth of those seen (their ``ema_rampup_ratio``)."""
    return 0.5 ** ((after - before) / min(500_000.0, 0.05 * after))


class DDPM(Task):
    """diffusers' example ``unconditional_image_generation/train_unconditional.py`` at its defaults, told the class.

    Args:
        size, channels: of the pictures.
        classes: 0 for data without labels. One more, the last, stands for none, and is told a tenth of the time.
        widths: channels by level.
    """

    DROP = 0.1

    def __init__(self, size: int, channels: int, classes: int, widths: tuple[int, ...]) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        levels = len(widths) - 1
        self.classes, self.folded = classes, (4 * channels, size // 2, size // 2)
        self.unet = UNet2DModel(
            sample_size=size // 2,
            in_channels=4 * channels,
            out_channels=4 * channels,
            layers_per_block=1,
            block_out_channels=widths,
            down_block_types=(*["DownBlock2D"] * levels, "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * levels),
            norm_num_groups=8,
            num_class_embeds=classes + 1 if classes else None,
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
        self.players = {"unet": Player(self.unet)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x, noise = F.pixel_unshuffle(batch.x, 2), rng.normal("noise", self.folded)
        t = (rng.uniform("time") * 1000).long()
        labels = None
        if self.classes and batch.label is not None:
            labels = torch.where(rng.uniform("drop") < self.DROP, self.classes, batch.label)
        said = self.unet(self.scheduler.add_noise(x, noise, t), t, class_labels=labels).sample  # pyright: ignore[reportArgumentType]
        return {"mse": (said - noise).square().flatten(1).mean(1)}

    @torch.inference_mode()
    def draw(self, n: int, labels: Tensor | None, scale: float, seed: int, steps: int = 25) -> Tensor:
        """By their DPM-Solver++, which draws better in 25 steps than their DDPM in as many. Its estimate of clean pixels stays in
        [−1, 1], as in the DDPM of the example: without, what is left of the noise at its first time is enlarged 158 times."""
        from diffusers import DPMSolverMultistepScheduler

        noise = torch.from_numpy(normal_rows([f"diffusers/{seed}/{i}" for i in range(n)], 4 * self._pixels()))
        drawn = []
        for part in torch.arange(n).split(250):
            scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler.config, thresholding=True)
            scheduler.set_timesteps(steps)
            x = noise[part].view(-1, *self.folded).float()
            for t in scheduler.timesteps:
                x = scheduler.step(self.guided(x, t, None if labels is None else labels[part], scale), t, x).prev_sample
            drawn.append(F.pixel_shuffle(x, 2))
        return torch.cat(drawn)

    def guided(self, x: Tensor, t: Tensor, labels: Tensor | None, scale: float) -> Tensor:
        """ε, with classifier-free guidance."""
        if labels is None or scale == 1.0:
            return self.unet(x, t, class_labels=labels).sample
        twice = torch.cat([labels, torch.full_like(labels, self.classes)])
        told, untold = self.unet(x.repeat(2, 1, 1, 1), t, class_labels=twice).sample.chunk(2)
        return untold + scale * (told - untold)

    def _pixels(self) -> int:
        return self.folded[0] * self.folded[1] * self.folded[2] // 4


def diffusers(data: str, seed: int, lr: float = 1e-4) -> Learner:
    """The example's optimizer, schedule and average: AdamW at 10⁻⁴ unless told otherwise, with (.95, .999) and 10⁻⁶, warm-up and cosine,
    batches of 16, gradients of norm 1 at most. Its 500 steps of warm-up would be most of the budget: here they are a twentieth."""
    recipe = named(data)
    images, net = sources.load(recipe), recipe.task.net  # pyright: ignore[reportAttributeAccessIssue]
    channels, size, _ = images.shape
    classes = len(images.classes) if images.labels is not None else 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = DDPM(size, channels, classes, tuple(net.width * m for m in net.multipliers))
    config = TrainConfig(
        images=NOMINAL, batch=16, lr=lr, betas=(0.95, 0.999), weight_decay=1e-6, warmup=NOMINAL // 20, decay="cosine"
    )
    return Learner(task, Loader(images, seed), config, warmed_up(config.batch), task.draw, classes > 0)


def warmed_up(batch: int) -> Decay:
    """The example's average of weights: ``1 − (1 + step)^(−3/4)`` of it stays, .9999 at most."""
    return lambda before, after: min(0.9999, 1.0 - (1.0 + before / batch) ** -0.75)


LEARNERS: dict[str, Callable[[str, int], Learner]] = {
    "ours": ours,
    "diffusers": diffusers,
    "diffusers_fast": partial(diffusers, lr=1e-3),
    "dit": dit,
    "edm": edm,
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
