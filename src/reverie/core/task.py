"""The protocols of training: a :class:`Task` of named players, and the :class:`TaskConfig` that makes it from a recipe.

A method is a task; the loop knows none. Neither a loop nor an optimizer is needed here, so every room can hold the task of its method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reverie.core.batch import Batch, Dataset, DataSpec
    from reverie.core.draws import Draws
    from reverie.core.generator import Generator


class Moment(NamedTuple):
    """How far a run has come: optimizer steps done, images seen, images in all."""

    step: int
    images: int
    total: int

    @property
    def fraction(self) -> float:
        return self.images / self.total


class Preview(NamedTuple):
    """Images (N, C, H, W) in [−1, 1] that show the state of training, how many go in a row, and words above the columns."""

    images: Tensor
    columns: int
    headings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How a player's weights are stepped; what is None is as the recipe's section ``train`` says.

    Attributes:
        optimizer: AdamW, or Muon for the matrices with AdamW for the rest.
        lr: the highest learning rate.
        adam_lr: with Muon, that of what AdamW trains.
        betas: of Adam.
        weight_decay: decoupled.
        clip: largest norm of the gradient; 0 for no limit.
    """

    optimizer: Literal["adamw", "muon"] | None = None
    lr: float | None = None
    adam_lr: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None


@dataclass(frozen=True)
class Player:
    """One side of a task: a generator, a discriminator, a teacher, an adapter.

    The weights that require a gradient when training begins are the ones that are stepped; the rest of the module is frozen.

    Args:
        module: its weights; a few tensors are a ``nn.ParameterDict``.
        optim: how they are stepped; None for weights that only :meth:`Task.after_step` changes, such as a moving teacher's.
        along: the player in whose turn and by whose loss it is stepped too, such as a projection head beside its network.
        average: whether a moving average of the stepped weights is kept.
        train: whether it is in training mode while others step too (a frozen feature extractor is not).
        saved: what checkpoints hold of it: everything, only the stepped weights (an adapter inside a base model that is stored elsewhere),
            or nothing.
    """

    module: nn.Module
    _: KW_ONLY
    optim: Optim | None = Optim()
    along: str | None = None
    average: bool = True
    train: bool = True
    saved: Literal["all", "trained", "none"] = "all"


class Task(ABC):
    """A method. :meth:`loss` is all it must give; a player's loss is the sum of the means of its parts."""

    players: Mapping[str, Player]

    @abstractmethod
    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """The named parts of a player's loss, each of shape () or (B,). All randomness comes from ``rng``.

        Only this player's weights require a gradient meanwhile.
        """

    def turns(self, progress: Moment) -> Sequence[str]:
        """The players of a step in their order, all on one batch; a name may come several times (five critics, then the generator)."""
        return [name for name, player in self.players.items() if player.optim is not None and player.along is None]

    def after_step(self, progress: Moment) -> None:  # noqa: B027 - most methods need nothing here
        """Called when all players have stepped: moving teachers, prototypes, curricula."""

    def before_save(self) -> None:  # noqa: B027 - most methods need nothing here
        """Called before weights are saved: what is measured on them and stored with them, such as the scale of a space's codes."""

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """What distinguishes the samples of a batch besides their content, each (B,): named when a loss is not finite."""
        return {}

    def validate(self) -> dict[str, float | list[float]]:
        """Measures on held-out data, for the log. The averaged weights are in place."""
        return {}

    def preview(self) -> Preview | None:
        """What shows the state of training. The averaged weights are in place."""
        return None


@dataclass(frozen=True, kw_only=True)
class NoSample:
    """Nothing to choose: what the task trains draws nothing, or in one way only."""


@dataclass(frozen=True)
class Sweep:
    """One setting of drawing at several values: its title, a sentence on what it does, and the settings by their labels."""

    title: str
    text: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """What :meth:`TaskConfig.prepare` is given.

    Args:
        spec: of the data.
        data, held_out: to train on, and not.
        folder: of the run.
        seed: of the run.
        device: to work on, as the recipe's section ``train`` has it.
        load: opens another run by its folder.
    """

    spec: DataSpec
    data: Dataset
    held_out: Dataset
    folder: Path
    seed: int
    device: str
    load: Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class TaskConfig(ABC):
    """The settings of a task: a frozen keyword-only dataclass whose fields are the keys of a recipe's section ``task`` and flags.

    ``name`` is its name in recipes, ``Sample`` the dataclass of how what it trains is drawn from (the section ``sample``).
    """

    name: ClassVar[str]
    Sample: ClassVar[type] = NoSample
    maps: ClassVar[Literal["maps", "boxes"] | None] = None
    """Whether it learns from the maps of pictures, the condition "image", or from boxes as such."""

    def check(self, spec: DataSpec, sample: Any) -> None:
        """Raise an :class:`~reverie.core.errors.InputError` unless this can be trained on such data and drawn from by the settings
        ``sample``, before anything is made."""
        self.build(spec, 0)

    def resolved(self) -> Self:
        """The settings with what was left open filled in, as a run's recipe says them."""
        return self

    def prepare(self, given: Given) -> None:  # noqa: B027 - most tasks need nothing here
        """Make in the run's folder what :meth:`build` needs besides the data, such as a tokenizer, unless it is there already."""

    @abstractmethod
    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Any:
        """The model with fresh weights by ``seed``, with what :meth:`prepare` left in ``folder``; without, as good as can be said before.

        Raises:
            InputError: when the settings do not fit the data.
        """

    @abstractmethod
    def modules(self, model: Any) -> Mapping[str, nn.Module]:
        """What of a model checkpoints fill when it is opened, by the names of players."""

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """What is learned from and validated on: the run's data, what :meth:`prepare` made in ``folder``, or codes in ``codes``."""
        return data, held_out

    @abstractmethod
    def task(self, model: Any, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Task:
        """What trains the model on such :meth:`examples`."""

    def describe(self, model: Any, spec: DataSpec) -> dict[str, str]:
        """What the header of a weight file says, and opening checks."""
        low, high = spec.range
        return {"shape": "x".join(map(str, spec.shape)), "range": f"{low:g} to {high:g}"}

    def open(self, model: Any, spec: DataSpec) -> Any:
        """What a finished run gives, of the model with its weights, frozen: a Denoiser, Generator, Classifier, Space or adapter."""
        return model

    def next(self, run: str, data: str) -> str:
        """The commands that suit a run that is trained, for a message: its folder, and the name or folder of its data."""
        return f"reverie report {quote(run)}"

    @property
    def unlabelled(self) -> bool:
        """Whether what is trained on labelled data also draws without a label."""
        return False

    def usual(self, sample: Any) -> Any:
        """The settings of drawing as far as what was trained can do them."""
        return sample

    def measured(self, sample: Any) -> Sequence[Any]:
        """Settings of drawing that are measured when none is asked for, those of the recipe first."""
        return (sample,)

    def sweep(self, sample: Any) -> Sweep | None:
        """Settings around ``sample`` that are worth seeing side by side, if there are any."""
        return None

    def generator(self, opened: Any, sample: Any) -> Generator:
        """What draws by the settings ``sample``, an instance of ``Sample``.

        Raises:
            InputError: when this task trains nothing that draws, or the settings do not fit.
        """
        from reverie.core.errors import InputError
        from reverie.core.generator import Generator

        if not isinstance(opened, Generator):
            raise InputError(f"a run of the task {self.name} draws nothing: it gives a {type(opened).__name__}")
        return opened
