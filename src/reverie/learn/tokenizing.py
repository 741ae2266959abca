"""Training a space: the losses it names, on pictures and fresh noise for its code."""

from torch import Tensor
from torch.optim import Optimizer

from reverie.learn.draws import Draws
from reverie.learn.task import Batch, Moment, Player, Task
from reverie.spaces.latent import Latent


class Tokenizing(Task):
    """The task of a space that is trained by descent.

    Args:
        space: a tokenizer, see :class:`reverie.spaces.Latent`.
        optimizer: steps it.
        held_out: pictures (N, C, H, W) to validate the reconstruction on.
    """

    def __init__(self, space: Latent, optimizer: Optimizer | None, held_out: Tensor | None = None) -> None:
        self.space, self.held_out = space, held_out
        self.players = {"space": Player(space, optimizer, average=False)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x = batch.images
        return self.space.losses(x, rng.normal("code", self.space.shape(tuple(x.shape[1:]))).to(x))

    def validate(self) -> dict[str, float | list[float]]:
        """Mean squared error per pixel of what is coded and restored."""
        if self.held_out is None:
            return {}
        x = self.held_out.to(self.space.scale.device)
        return {"mse": (x - self.space.decode(self.space.encode(x))).square().mean().item()}
