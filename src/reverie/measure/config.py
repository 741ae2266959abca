"""The settings of the judge and of the picture-text model. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import TaskConfig
from reverie.nets.config import EncoderConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.measure.judge import Judge, Judging
    from reverie.measure.towers import Pairing, Towers


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


@dataclass(frozen=True, kw_only=True)
class TowersConfig(TaskConfig):
    """A picture-text model, which says how well pictures match captions: `reverie evaluate RUN --score TOWERS` (Radford et al. 2021).

    Attributes:
        encoder: the network of pictures.
        locked: look at pictures by EfficientNet-Lite0 instead, trained on ImageNet (`reverie prefetch` brings it), which stays as it is.
        width: features of a letter of a text.
        depth: blocks of the transformer that reads them.
        heads: of its attention.
        dim: numbers of the common vectors.
        objective: softmax over the batch as in CLIP, or a sigmoid a pair as in SigLIP.
        distort: whether pictures are turned, scaled, sheared, shifted and bent at random.
    """

    name: ClassVar[str] = "towers"

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    locked: bool = False
    width: Annotated[int, Bound(ge=1, le=8_192)] = 128
    depth: Annotated[int, Bound(ge=1, le=128)] = 3
    heads: Annotated[int, Bound(ge=1, le=128)] = 4
    dim: Annotated[int, Bound(ge=1, le=65_536)] = 128
    objective: Literal["softmax", "sigmoid"] = "softmax"
    distort: bool = True

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Towers:
        import torch

        from reverie.measure.towers import Towers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Towers(self, spec)

    def next(self, run: str, data: str) -> str:
        model = f"runs/{Path(data).name}"
        return (
            f"reverie train --data {quote(data)} --data.captions; reverie evaluate {quote(model)} --score {quote(run)}"
        )

    def modules(self, model: Towers) -> dict[str, nn.Module]:
        return {"towers": model}

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """The pictures told in all ways, and the held-out ones in the plain one."""
        from reverie.data.captions import Captioned, of

        captions = of(data)
        return (data if captions is None else Captioned(data, captions)), held_out

    def task(self, model: Towers, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Pairing:
        from reverie.measure.towers import Pairing

        return Pairing(model, held_out, self.objective, self.distort)
