"""Runs: folders with ``recipe.yaml``, ``log.jsonl``, ``checkpoints/``, ``samples/`` and ``report.html``."""

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie import bridge
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError, nearest
from reverie.core.files import inside
from reverie.guide.classifier import NetClassifier
from reverie.learn import journal
from reverie.learn.checkpoint import Checkpoint, Checkpoints, Damaged
from reverie.recipes import reading, tokenizer
from reverie.recipes.building import build, build_denoiser
from reverie.recipes.recipe import Recipe
from reverie.solve.calibrate import Calibrated


class Run:
    """A run on the disk, given by its folder or that of one of its checkpoints.

    Raises:
        InputError: when there is no run in that folder.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder).expanduser()
        self.chosen = Checkpoint(path) if path.name.startswith("step-") and path.parent.name == "checkpoints" else None
        self.folder = path.parent.parent if self.chosen else path
        if not (self.folder / "recipe.yaml").is_file():
            parent = self.folder.absolute().parent
            beside = (
                [str(self.folder.parent / p.parent.name) for p in parent.glob("*/recipe.yaml")]
                if parent.is_dir()
                else []
            )
            raise InputError(
                f"no run in {self.folder}: it has no recipe.yaml. `reverie runs` lists what there is.{nearest(str(self.folder), beside)}"
            )

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            InputError: when it is not as it was written.
        """
        return reading.read(self.folder / "recipe.yaml", sealed=True)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The entries of the log, each with ``images`` and either the training loss or ``validation``."""
        return list(journal.read(self.folder / "log.jsonl"))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The chosen checkpoint, or the newest whole one; the same one from then on.

        Raises:
            RunError: when there is none.
        """
        if self.chosen is not None:
            return self.chosen
        found = self.checkpoints.newest_whole()
        if found is None:
            raise RunError(f"{self.folder} has no checkpoint yet: train it with `reverie train {self.folder}`")
        return found

    def path(self, *parts: str) -> Path:
        """A file of the run to be written, see :func:`reverie.core.files.inside`."""
        return inside(self.folder, *parts)

    def denoiser(self, ema: bool = True) -> NetDenoiser:
        """See :func:`load`."""
        denoise = build_denoiser(self.recipe, tokenizer.read(self.recipe, self.folder))
        self._fill(denoise, "denoiser.", ema)
        calibrated = [Calibrated.load(path) for path in sorted(self.folder.glob("calibrated-*.json"))]
        denoise.calibrations = {(c.nfe, c.guidance): c for c in calibrated}
        denoise.conditioner = Conditioner(denoise.conditions, self.recipe.data.classes or ())
        return denoise

    def classifier(self, ema: bool = True) -> NetClassifier:
        """The classifier of noisy pictures that the run trained, frozen and in evaluation mode, for :func:`reverie.guide.classifier`.

        Raises:
            InputError: when the run trained no classifier; RunError as :func:`load`.
        """
        built = build(self.recipe, tokenizer.read(self.recipe, self.folder))
        if not isinstance(built, NetClassifier):
            raise InputError(f"{self.folder} is no classifier: train one with `reverie train --net encoder`")
        self._fill(built, "classifier.", ema)
        return built

    def _fill(self, model: NetDenoiser | NetClassifier, player: str, ema: bool) -> None:
        """Give a model the weights of the checkpoint, checked."""
        file = "ema" if ema else "model"
        weights, about = self._read(file)
        state = {key.removeprefix(player): value for key, value in weights.items() if key.startswith(player)}
        self._check(model.net.state_dict(), state)
        for key, value in describe(model).items():
            if (said := about.get(key)) != value:
                raise self._other(f"its {key} is {said}, the recipe's {value}")
        model.net.load_state_dict(state)
        model.net.eval().requires_grad_(False)

    def _read(self, file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of a file of the checkpoint and what its header says; of the newest one if training has removed it meanwhile."""
        try:
            return self.checkpoint.tensors(file), self.checkpoint.metadata(file)
        except Damaged:
            if self.chosen is not None or self.checkpoint.folder.exists():
                raise
            del self.checkpoint
            return self._read(file)

    def _check(self, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
        """Whether the weights are those of the recipe's network."""
        shapes = ({k: tuple(v.shape) for k, v in state.items()} for state in (expected, found))
        a, b = shapes
        for key in {**a, **b}:
            if a.get(key) != b.get(key):
                raise self._other(f"{key} has shape {b.get(key, 'none')}, in the recipe's network {a.get(key, 'none')}")

    def _other(self, how: str) -> InputError:
        return InputError(
            f"{self.checkpoint.folder} holds another network than {self.folder / 'recipe.yaml'} describes: {how}. "
            "Restore the recipe that made the checkpoint."
        )


def describe(model: NetDenoiser | NetClassifier) -> dict[str, str]:
    """What the header of a weight file says, and loading checks: the shape and range of the data, and what the network predicts."""
    kind = model.kind.name if isinstance(model, NetDenoiser) else f"{model.classes} classes"
    return {"shape": "x".join(map(str, model.shape)), "range": "-1 to 1", "kind": kind}


def load(folder: str | Path, ema: bool = True) -> Any:
    """The trained denoiser in a folder, frozen and in evaluation mode.

    Args:
        folder: of a run (its latest checkpoint is taken) or of one checkpoint; or of a pipeline or model in diffusers' format, see
            :func:`reverie.bridge.load`.
        ema: of a run, the averaged weights, or those of the last step.

    Returns:
        A :class:`~reverie.core.denoiser.NetDenoiser`; for the folder of an auto-encoder in diffusers' format, the space.

    Raises:
        InputError: when there is neither, or a checkpoint is of another network than its recipe.
        RunError: when there is no checkpoint, or it is damaged; the message names the file and what to do.
    """
    if bridge.is_folder(folder) and not (Path(folder).expanduser() / "recipe.yaml").is_file():
        return bridge.load(folder)
    return Run(folder).denoiser(ema)
