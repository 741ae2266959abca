"""The settings of the judge. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from reverie.core.bounds import Bound
from reverie.core.task import TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.measure.judge import Judge, Judging


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(TaskConfig):
    """A classifier of clean pictures that judges what other runs draw: `reverie evaluate RUN --judge JUDGE`.

    Attributes:
        smoothing: share of the label that is spread over all classes.
        distort: whether pictures are turned, scaled, sheared, shifted and bent at random.
    """

    name: ClassVar[str] = "judge"

    smoothing: Annotated[float, Bound(ge=0, lt=1)] = 0.1
    distort: bool = True

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Judge:
        import torch

        from reverie.core.errors import InputError
        from reverie.measure.judge import Judge

        if len(spec.classes) < 2:
            raise InputError(
                f"a judge learns to tell classes apart, and the data has {len(spec.classes)}: use sub-folders"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Judge(spec.name, list(spec.classes), spec.shape[0], spec.shape[1:])

    def next(self, run: str, data: str) -> str:
        model = f"runs/{Path(data).name}"
        return f"reverie train --data {quote(data)}; reverie evaluate {quote(model)} --judge {quote(run)}"

    def modules(self, model: Judge) -> dict[str, nn.Module]:
        return {"judge": model}

    def task(self, model: Judge, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Judging:
        from reverie.measure.judge import Judging

        return Judging(model, held_out, smoothing=self.smoothing, distorted=self.distort)
