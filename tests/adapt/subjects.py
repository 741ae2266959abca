"""A made world of subjects: a subject is a colour, and a picture of it shows the left or the right half painted in it, the class."""

from functools import cache

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion.denoising import Denoising
from reverie.nets import DiTConfig, build
from reverie.nets.config import EncoderConfig

LOOK = EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)
NET = DiTConfig(patch=4, width=48, depth=2, heads=2)


def colours(n: int, seed: int) -> Tensor:
    """Bright colours of n subjects, (n, 3) in [−1, 1]."""
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def painted(colour: Tensor, side: Tensor, seed: int) -> Tensor:
    """Pictures (B, 3, 8, 8) of subjects (B, 3), on the left where ``side`` (B,) is 0, with a little noise."""
    noise = 0.05 * torch.randn(len(colour), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    right = (torch.arange(8) >= 4) == (side[:, None] == 1)
    return torch.where(right[:, None, None], colour[:, :, None, None], torch.tensor(-1.0)) + noise


class Painted(Dataset):
    """Eight pictures of each of n subjects, labelled by subject, all on the left."""

    name = "painted"

    def __init__(self, n: int, seed: int) -> None:
        self.colours = colours(n, seed)
        self.labels = torch.arange(n).repeat_interleave(8)
        self.x = painted(self.colours[self.labels], torch.zeros(8 * n), seed)

    @property
    def spec(self) -> DataSpec:
        return DataSpec((3, 8, 8), {"label": Label(len(self.colours))}, tuple(map(str, range(len(self.colours)))))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions) -> Batch:
        rows = torch.as_tensor(positions)
        return Batch(self.x[rows], Cond(label=self.labels[rows]))


def trained(task, feed, steps: int, rate: float, batch: int = 32, player: str | None = None) -> None:
    """A few hundred steps of Adam of a player, the first one without, by the task's own loss."""
    name = player or next(iter(task.players))
    player = task.players[name]
    parameters = [p for p in player.module.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, rate)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, 2.0 * (1.0 - step / steps))
        rows = torch.arange(batch * step, batch * (step + 1))
        parts = task.loss(name, feed(rows), Draws(0, batch * step, batch), Moment(step, batch * step, batch * steps))
        adam.zero_grad()
        sum(part.mean() for part in parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()


@cache
def base(steps: int = 600) -> NetDenoiser:
    """A model of the two sides, in all colours."""
    torch.manual_seed(0)
    net = build(NET, channels=3, size=8, classes=2)
    denoise = NetDenoiser(net, Flow(), "flow", shape=(3, 8, 8))

    def feed(rows: Tensor) -> Batch:
        side = rows % 2
        return Batch(painted(colours(len(rows), int(rows[0])), side, int(rows[0])), Cond(label=side))

    trained(Denoising(denoise, Uniform(), drop=0.1), feed, steps, 4e-3, 64)
    net.eval().requires_grad_(False)
    return denoise


def colour_of(images: Tensor) -> Tensor:
    """The colour of the left halves, (B, 3)."""
    return images[..., :4].mean((2, 3))
