"""The task of Break-A-Scene as recipes name it. Cheap to import: the command line makes its flags from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from tyro.conf import Suppress

from reverie.adapt.config import AdaptConfig
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given
from reverie.learn.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.adapt.break_a_scene import BreakAScene, Pictured
    from reverie.adapt.change import Change
    from reverie.core.batch import Dataset, DataSpec

MASKS = "masks.safetensors"
"""In a run's folder, where each thing is."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig(AdaptConfig):
    """Several things of one picture, each a token of its own, by masks that show them (Avrahami et al. 2023); then all weights.

    Attributes:
        picture: its file, inferred.
        fit: how it becomes one of the model's size, inferred.
        masks: TOKEN=FILE for each thing, such as "<a>=a.png": a picture of the same size, white where the thing is.
        likes: the words that the tokens begin at, in the same order; the word a without. Prior preservation draws pictures of them.
        first: share of the training in which the tokens move alone.
        token_rate: of learning, of the tokens while they move alone.
        attend: weight of the squares between what a token looks at and where its thing is.
    """

    name: ClassVar[str] = "scene"
    rate: ClassVar[float] = 1e-4

    token: Annotated[str | None, Suppress] = None
    like: Annotated[str | None, Suppress] = None
    picture: Annotated[str, Suppress] = ""
    fit: Annotated[Literal["crop", "pad", "stretch"], Suppress] = "crop"
    masks: tuple[str, ...] = ()
    likes: tuple[str, ...] = ()
    first: Annotated[float, Bound(ge=0, le=1)] = 0.5
    token_rate: Annotated[float, Bound(ge=0)] = 2e-2
    attend: Annotated[float, Bound(ge=0)] = 0.01

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.likes

    @property
    def files(self) -> dict[str, Path]:
        """The mask of each token.

        Raises:
            InputError: when one is not of the form TOKEN=FILE, or a token comes twice.
        """
        found: dict[str, Path] = {}
        for each in self.masks:
            token, _, file = each.partition("=")
            if not file or token in found:
                raise InputError(f"masks are TOKEN=FILE, each token once, such as '<a>=a.png': got {each!r}")
            found[token] = Path(file).expanduser().absolute()
        return found

    def resolved(self) -> Self:
        masks = tuple(f"{token}={file}" for token, file in self.files.items())
        return replace(super().resolved(), masks=masks)

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.dreambooth import changes

        return changes(net)

    def training(self) -> TrainConfig:
        return replace(super().training(), decay="constant")

    def prepare(self, given: Given) -> None:
        import torch

        from reverie.core import files
        from reverie.core.files import inside
        from reverie.data import pixels

        if (count := len(given.data) + len(given.held_out)) != 1:
            raise InputError(f"scene learns from one picture: got {count}. Give its file in the place of a folder")
        super().prepare(given)
        path = inside(given.folder, MASKS)
        if not path.exists():
            size = (given.spec.shape[-2], given.spec.shape[-1])
            of = Path(self.picture)
            seen = {t: pixels.read_mask(file, of, "its thing", size, self.fit) for t, file in self.files.items()}
            files.write_tensors(path, {t: torch.from_numpy(mask) for t, mask in seen.items()}, {"what": "masks"})

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Pictured:
        from reverie.adapt.break_a_scene import begin
        from reverie.core import files

        base, drawn = self.prepared(spec, seed, folder)
        masks = {} if folder is None else files.read_tensors(folder / MASKS)
        return begin(self, base, list(self.files), masks, drawn)

    def task(self, model: Pictured, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> BreakAScene:
        from reverie.adapt.break_a_scene import BreakAScene
        from reverie.diffusion.building import times

        density = times(self.base, model.base.schedule)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        return BreakAScene(model, self, density, self.base.loss_kind)  # pyright: ignore[reportAttributeAccessIssue]

    def next(self, run: str, data: str) -> str:
        told = self.prompt.replace("{}", next(iter(self.files)))
        return f"reverie sample {quote(self.run)} --adapter {quote(run)} --text {quote(told)}"
