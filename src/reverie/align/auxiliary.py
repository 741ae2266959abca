"""Auxiliary losses of a denoising task, on what its network says inside in the same pass.

task = WithAuxiliary(Denoising(denoise, times), REPA("blocks.3", width, extractor, dim), Dispersive("blocks.1"))
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Preview, Task
from reverie.diffusion.denoising import Denoising
from reverie.nets import taps
from reverie.nets.layout import as_map


@dataclass(frozen=True)
class Observation:
    """What an auxiliary loss sees of a step.

    Attributes:
        denoise: the model that is trained.
        images: (B, C, H, W), clean.
        cond: its conditions, some dropped.
        t: float64 (B,), the times.
        rng: the step's randomness; stream "noise" is the noise that the images met.
        values: what passed through the network, by site.
    """

    denoise: NetDenoiser
    images: Tensor
    cond: Cond | None
    t: Tensor
    rng: Draws
    values: Mapping[str, Tensor]

    def map(self, site: str) -> Tensor:
        """The value at a site as a map (B, C, h, w)."""
        return as_map(self.values[site], self.denoise.shape[1:])


class AuxiliaryLoss(ABC):
    """A loss beside the denoising error.

    Attributes:
        name: of the loss in the log, and of its modules among the players.
        weight: of the loss.
        sites: what of the network it sees.
        trained: a module that is trained along with the network, if any.
        kept: modules that are saved but not stepped (a moving teacher), by name.
    """

    name: str
    weight: float
    sites: tuple[str, ...]
    trained: nn.Module | None = None
    kept: Mapping[str, nn.Module] = {}

    @abstractmethod
    def loss(self, seen: Observation) -> Tensor:
        """() or (B,)."""

    def after_step(self, progress: Moment) -> None:  # noqa: B027 - most need nothing here
        """When the network has stepped."""


class WithAuxiliary(Task):
    """A denoising task with auxiliary losses.

    What such a loss trains is stepped along with the network.

    Args:
        base: the denoising task.
        auxiliary: as many losses as wanted, each with a name of its own.

    Raises:
        InputError: for two losses of one name, or a site that the network does not have.
    """

    def __init__(self, base: Denoising, *auxiliary: AuxiliaryLoss) -> None:
        names = [loss.name for loss in auxiliary]
        if len(set(names)) < len(names):
            raise InputError(f"each auxiliary loss has a name of its own: got {', '.join(names)}; set its name")
        self.base, self.auxiliary, self.denoise = base, auxiliary, base.denoise
        self.sites = list(dict.fromkeys(site for loss in auxiliary for site in loss.sites))
        self.places = taps.find(self.denoise, self.sites)
        self.players = dict(base.players)
        for loss in auxiliary:
            if loss.trained is not None:
                self.players[loss.name] = Player(loss.trained, along="denoiser", average=False)
            for name, module in loss.kept.items():
                self.players[f"{loss.name}-{name}"] = Player(module, optim=None, average=False, train=False)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}

        def take(value: Tensor, at: taps.At) -> None:
            values.setdefault(at.site, value)  # a checkpointed block runs again on the way back

        watched = copy(self.base)
        watched.denoise = taps.changed(self.denoise, taps.Edit(self.places, dict.fromkeys(self.places, take)))  # pyright: ignore[reportAttributeAccessIssue]
        losses = watched.loss(player, batch, rng, progress)
        t = self.base.times(rng.even("time"))
        seen = Observation(self.denoise, batch.x, self.base.condition(batch, rng), t, rng, values)
        return {**losses, **{extra.name: extra.weight * extra.loss(seen) for extra in self.auxiliary}}

    def after_step(self, progress: Moment) -> None:
        self.base.after_step(progress)
        for loss in self.auxiliary:
            loss.after_step(progress)

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return self.base.describe(batch, rng, progress)

    def validate(self) -> dict[str, float | list[float]]:
        """The base's: the denoising error alone."""
        return self.base.validate()

    def preview(self) -> Preview | None:
        return self.base.preview()
