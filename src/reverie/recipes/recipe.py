"""A recipe: nested settings that determine a run. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Suppress, arg

from reverie.core.bounds import Bound, FolderName
from reverie.core.task import TaskConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.learn.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to learn from.

    Attributes:
        name: a bundled set (mnist5k, emoji, digits8, scenes), one that `reverie prefetch` brought, or a folder or zip file of pictures,
            whose sub-folders are classes; shards of tar files (WebDataset); tables of Parquet or Arrow (of Hugging Face's datasets);
            hf://OWNER/NAME of their hub, once `reverie prefetch` has brought it.
        size: height and width of the pictures in pixels, or the side of squares; inferred without.
        channels: 1 (grey) or 3 (RGB); inferred without.
        fit: how a picture becomes one of that size.
        flip: mirror half of the pictures; not for digits or letters.
        labels: learn to draw by class, if the data has classes.
        codes: folder of the codes of a space, as `reverie data encode` makes them; the run's own without.
        captions: learn to draw by what the pictures are called, in place of classes: names of emoji; NAME.txt or NAME.json beside a
            picture; metadata.jsonl or .csv; a column of a table.
        templates: ways to say a caption, of which training takes one each time: {} stands for it, {category} for what that column says.
        caption_length: the most tokens of a caption, one a byte; those of the longest without, at most 256.
        maps: learn to draw by what lies where: a folder with a map of each picture, of its name and size (grey: a pixel is the number of
            its class, 255 none; colours: shown as they are), or a table of boxes (boxes.json, metadata.jsonl).
        classes: their names, inferred.
        map_classes: the names of the classes of maps, inferred; none for maps of colours.
        contents: how many pictures there were when the run began, and a hash of them; a run goes on with the same ones only.
    """

    name: str = "mnist5k"
    size: Annotated[int, Bound(ge=1, le=8192)] | tuple[int, int] | None = None
    channels: Annotated[int, Bound(ge=1, le=3)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    flip: bool = False
    labels: bool = True
    codes: str | None = None
    captions: bool = False
    templates: tuple[str, ...] = ("{}",)
    caption_length: Annotated[int, Bound(ge=2, le=65_536)] | None = None
    maps: str | None = None
    classes: Annotated[tuple[str, ...] | None, Suppress] = None
    map_classes: Annotated[tuple[str, ...] | None, Suppress] = None
    contents: Annotated[str | None, Suppress] = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that makes a run.

    Attributes:
        name: of the run's folder in runs/.
        seed: of all randomness.
        init: start from the weights of another run, or of a folder in diffusers' format: what fits by name and shape is taken.
        task: what is trained; its keys are flags without a prefix.
        sample: how what it trains is drawn from, an instance of the task's ``Sample``.
    """

    name: Annotated[str, FolderName()] = ""
    seed: Annotated[int, Bound(ge=0, lt=2**63)] = 0
    init: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    task: Annotated[TaskConfig, arg(name="")] = field(default_factory=DenoisingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: Any = None

    def __post_init__(self) -> None:
        if self.sample is None:
            object.__setattr__(self, "sample", self.task.Sample())

    @property
    def usual(self) -> Any:
        """``sample``, as far as the task can do it."""
        return self.task.usual(self.sample)


def described(data: DataConfig) -> tuple[tuple[str, ...], int]:
    """What the model of a resolved recipe is told of its data: the names of classes, and the most tokens of a text, 0 without."""
    return data.classes or (), (data.caption_length or 0) if data.captions else 0
