"""Runs: folders with ``recipe.yaml``, ``log.jsonl``, ``checkpoints/``, ``samples/`` and ``report.html``."""

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError, nearest
from reverie.learn import journal
from reverie.learn.checkpoint import Checkpoint, Checkpoints
from reverie.recipes import reading, tokenizer
from reverie.recipes.building import build_denoiser
from reverie.recipes.recipe import Recipe
from reverie.solve.calibrate import Calibrated

PLAYER = "denoiser."


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
        """The resolved recipe."""
        return reading.read(self.folder / "recipe.yaml")

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The entries of the log, each with ``images`` and either the training loss or ``validation``."""
        return list(journal.read(self.folder / "log.jsonl"))

    @property
    def checkpoint(self) -> Checkpoint:
        """The chosen checkpoint, or the latest one.

        Raises:
            RunError: when there is none.
        """
        found = self.checkpoints.latest() if self.chosen is None else self.chosen
        if found is None:
            raise RunError(f"{self.folder} has no checkpoint yet: train it with `reverie train {self.folder}`")
        return found

    def denoiser(self, ema: bool = True) -> NetDenoiser:
        """See :func:`load`."""
        denoise = build_denoiser(self.recipe, tokenizer.read(self.recipe, self.folder))
        file = "ema" if ema else "model"
        weights = self.checkpoint.tensors(file)
        state = {key.removeprefix(PLAYER): value for key, value in weights.items() if key.startswith(PLAYER)}
        self._check(denoise.net.state_dict(), state)
        for key, value in describe(denoise).items():
            if (said := self.checkpoint.metadata(file)[key]) != value:
                raise self._other(f"its {key} is {said}, the recipe's {value}")
        denoise.net.load_state_dict(state)
        denoise.net.eval().requires_grad_(False)
        calibrated = [Calibrated.load(path) for path in sorted(self.folder.glob("calibrated-*.json"))]
        denoise.calibrations = {c.nfe: c for c in calibrated}
        return denoise

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


def describe(denoise: NetDenoiser) -> dict[str, str]:
    """What the header of a weight file says, and loading checks: the shape and range of the data, and what the network predicts."""
    return {"shape": "x".join(map(str, denoise.shape)), "range": "-1 to 1", "kind": denoise.kind.name}


def load(folder: str | Path, ema: bool = True) -> NetDenoiser:
    """The trained denoiser of a run, frozen and in evaluation mode.

    Args:
        folder: of the run (its latest checkpoint is taken) or of one checkpoint.
        ema: the averaged weights, or those of the last step.

    Raises:
        InputError: when there is no run, or its checkpoint is of another network than its recipe.
        RunError: when there is no checkpoint, or it is damaged; the message names the file and what to do.
    """
    return Run(folder).denoiser(ema)
