"""What a distillation trains: a flow map whose network begins as the teacher's, and the teacher beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reverie import guide
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.flow_map import UNTIL, NetFlowMap
from reverie.core.task import Player, Preview, Task
from reverie.core.tensors import combine, onto
from reverie.diffusion.building import unseen
from reverie.diffusion.taught import begin_reader
from reverie.diffusion.texts import reader_of
from reverie.nets.embeddings import TimeEmbedding
from reverie.nets.network import deaf

if TYPE_CHECKING:
    from reverie.distill.config import DistillConfig

SLOW = 10.0
"""What multiplies the time before its sinusoids where a loss differentiates in time, as that of a second time."""
COLUMNS = 10
"""Samples of each number of steps that training shows."""


class Student(NetFlowMap):
    """A flow map that is trained.

    Args:
        denoise: its network on the teacher's path.
        teaching: makes the teacher, called when it is first looked at.
        scale: of the teacher's guidance.
        trained: the numbers of steps that it is made for.
        below: guide only where the logsnr is below this; everywhere without.
    """

    def __init__(
        self,
        denoise: NetDenoiser,
        teaching: Callable[[], Denoiser],
        scale: float = 1.0,
        trained: tuple[int, ...] = (),
        below: float | None = None,
    ) -> None:
        super().__init__(denoise, trained)
        self.teaching, self.scale, self.below = teaching, scale, below

    @cached_property
    def teacher(self) -> Denoiser:
        """The teacher, frozen, unguided."""
        teacher = self.teaching()
        if isinstance(teacher, NetDenoiser):
            teacher.net.eval().requires_grad_(False)
            if (reader := reader_of(teacher)) is not None:
                reader.eval().requires_grad_(False)
            teacher.to(self.device)
        return teacher

    @property
    def guided(self) -> Denoiser:
        """The teacher as the student is to be: guided by label where it takes one."""
        if self.scale == 1.0 or not self.conditions:
            return self.teacher
        return guide.cfg(self.teacher, self.scale, None if self.below is None else (-math.inf, self.below))


def build(config: DistillConfig, spec: DataSpec, seed: int, folder: Path | None) -> Student:
    """The student: the teacher's network and weights, or fresh ones, and a second time where the method asks for one."""
    fresh = config.scratch or folder is None
    own = config.denoising.build(spec, seed, folder) if fresh else config.teaching(spec, seed, folder)
    if fresh and folder is not None:
        begin_reader(own, folder)
    if fresh and folder is not None and own.prior is not None:
        own.prior.load_state_dict(config.teaching(spec, seed, folder).prior.state_dict())
    if config.slow_time:
        for module in own.net.modules():
            if isinstance(module, TimeEmbedding):
                module.slow(SLOW, fit=not fresh)
    if (reader := reader_of(own)) is not None:
        reader.eval().requires_grad_(False)  # what a text means to the teacher it means to the student
    denoise = hearing(own, UNTIL, seed=seed) if config.second_time else own
    scale, below = (1.0, None) if config.scale is None else (config.scale, config.drawn and config.drawn.guide_below)
    return Student(denoise, lambda: config.teaching(spec, seed, folder), scale, below=below)


def hearing(denoise: NetDenoiser, *names: str, seed: int = 0) -> NetDenoiser:
    """The denoiser whose network is also told these numbers, and is otherwise what it was: its weights are not copied.

    Args:
        denoise: a model with a network of ours.
        names: of the numbers.
        seed: of the weights that are new.

    Raises:
        InputError: when the network has no place for them.
    """
    net: Any = denoise.net
    if not hasattr(net, "listen"):
        raise InputError(deaf(net, names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net.listen(*names)
    denoise.conditions = {**denoise.conditions, **{name: net.conditions[name] for name in names}}
    return denoise


def twin(denoise: NetDenoiser) -> NetDenoiser:
    """The same model with a network of its own, whose weights begin as the other's and may be trained."""
    new = copy.copy(denoise)
    new.net = copy.deepcopy(denoise.net).train().requires_grad_(True)
    new.prior = getattr(new.net, "prior", None)
    return new


class Distilling(Task):
    """What tasks of distillation share.

    Args:
        model: what is trained.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, held_out: Dataset | None = None) -> None:
        self.model = model
        self.held_out = None if held_out is None else unseen(held_out)
        self.players: dict[str, Player] = {"student": Player(model.denoise.net)}
        if (reader := reader_of(model.denoise)) is not None:
            self.players["reader"] = Player(reader, optim=None, average=False, train=False, saved="none")

    def pair(self, batch: Batch, rng: Draws) -> tuple[Tensor, Tensor]:
        """x0 and ε, both (B, …) in the diffused space."""
        x0 = self.model.space.to(batch.x.device).encode(batch.x)
        return x0, onto(rng.normal("noise", x0.shape[1:]), x0)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``α(t)·x0 + σ(t)·ε`` at float64 t (B,)."""
        point = self.model.schedule.point(t).align(x0)
        return combine((point.alpha, point.sigma), (x0, noise))

    def preview(self) -> Preview | None:
        """The same noise in 1, 2 and 4 steps."""
        from reverie.solve import Leaps

        if self.held_out is None or len(self.model.space.data_shape(self.model.shape)) != 3:
            return None
        label = self.model.conditions.get("label")
        count = min(COLUMNS, label.classes) if label is not None else COLUMNS  # pyright: ignore[reportAttributeAccessIssue]
        cond = None if label is None else Cond(label=torch.arange(count))
        if self.model.denoise.told is not None and self.held_out.cond is not None:
            cond = self.model.denoise.told(self.held_out.cond.index(slice(count)).to(self.model.device))
            count = len(cond)
        rows = [Leaps(self.model, steps).sample(count, cond).cpu() for steps in (1, 2, 4)]
        return Preview(torch.cat([self.held_out.x[:count], *rows]), count)
