"""Runs: folders with ``recipe.yaml``, ``log.jsonl``, ``checkpoints/``, ``samples/`` and ``report.html``."""

from dataclasses import replace
from functools import cached_property, partial
from html import escape
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from reverie import bridge
from reverie.core import describe, image_files
from reverie.core.batch import DataSpec
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError, RunError, nearest
from reverie.core.files import inside
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Generator
from reverie.core.sampling import Sampling
from reverie.core.task import TaskConfig
from reverie.diffusion.config import SampleConfig
from reverie.learn import journal
from reverie.learn.checkpoint import Checkpoint, Checkpoints, Damaged, quiet
from reverie.recipes import serialisation, sources
from reverie.recipes.recipe import Recipe
from reverie.solve import probe
from reverie.solve.calibrate import Calibrated


class Run:
    """A run on the disk, given by its folder or that of one of its checkpoints.

    Args:
        folder: where it is; a name alone may be that of a run in ``runs/``.
        device, dtype: where its models go, and what they compute in: the CPU, and what their weights are stored in, by default.

    Raises:
        InputError: when there is no run in that folder.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.device, self.dtype = device, dtype
        path = serialisation.located(folder)
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

    def __repr__(self) -> str:
        return f"Run({', '.join([repr(str(self.folder)), *self._said])})"

    def _repr_html_(self) -> str:
        pictures = sorted((self.folder / "samples").glob("*.png"), key=lambda path: path.stat().st_mtime)
        shown = describe.html(image_files.open_image(pictures[-1])) if pictures else ""
        return f"<p><b>{escape(str(self.folder))}</b>: {escape(', '.join(self._said))}</p>{shown}"

    @property
    def _said(self) -> list[str]:
        """What it trains, on what, and how far it is."""
        seen = self.chosen.state["images"] if self.chosen else self.checkpoints.newest(_images, quiet)
        far = "no checkpoint yet" if seen is None else f"{seen:,} images"
        return [serialisation.describe(self.recipe.task), Path(self.recipe.data.name).name, far]

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            InputError: when it is not as it was written.
        """
        return serialisation.load(self.folder / "recipe.yaml", sealed=True)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The entries of the log, each with ``images`` and either the training loss or ``validation``."""
        return list(journal.entries(self.folder / "log.jsonl"))

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
            raise RunError(
                f"{self.folder} has no checkpoint yet: train it with `reverie train {quote(str(self.folder))}`"
            )
        return found

    def path(self, *parts: str) -> Path:
        """A file of the run to be written, see :func:`reverie.core.files.inside`."""
        return inside(self.folder, *parts)

    @property
    def spec(self) -> DataSpec:
        """What the run's model knows of its data."""
        return sources.spec(self.recipe.data)

    def open(self, ema: bool = True) -> Any:
        """What the run has trained, frozen and in evaluation mode: see :func:`load`."""
        config, spec = self.recipe.task, self.spec
        model = config.build(spec, self.recipe.seed, self.folder)
        weights, header = self._tensors("ema" if ema else "model")
        for key, value in config.describe(model, spec).items():
            if (said := header.get(key, value)) != value:
                raise self._other(f"its {key} is {said}, the recipe's {value}")
        for player, module in config.modules(model).items():
            prefix = f"{player}."
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            self._check_weights(module.state_dict(), state)
            module.load_state_dict(state)
            module.eval().requires_grad_(False)
        opened = config.open(model, spec).to(device=self.device, dtype=self.dtype)
        if isinstance(opened, NetDenoiser):
            calibrated = [Calibrated.load(path) for path in sorted(self.folder.glob("calibrated-*.json"))]
            opened.calibrations = {(c.nfe, c.guidance): c for c in calibrated}
            opened.sampling = _sampling(self.recipe)
            file = "ema" if ema else "model"
            probe.keep(opened, self.path(f"probe-{file}.json"), self.checkpoint.digest(file))
        if isinstance(opened, FlowMap):
            opened.steps = self.recipe.usual.steps
            opened.trained = (self.recipe.usual.steps,) if getattr(config, "fixed", False) else ()
        return opened

    def denoiser(self, ema: bool = True) -> NetDenoiser:
        """The diffusion model that the run trained.

        Raises:
            InputError: when it trained something else.
        """
        opened = self.open(ema)
        if not isinstance(opened, NetDenoiser):
            raise InputError(
                f"{self.folder} is a run of the task {self.recipe.task.name}: this needs a diffusion model"
            )
        return opened

    def guided(self, scale: float | None = None) -> Denoiser:
        """The diffusion model at a guidance scale, the recipe's own by default.

        Raises:
            InputError: when the run trained something else, or its model cannot be guided.
        """
        denoise = self.denoiser()
        sample = self.recipe.usual if scale is None else replace(self.recipe.usual, scale=scale)
        return self.recipe.task.generator(denoise, sample).denoise  # pyright: ignore[reportAttributeAccessIssue]

    def generator(self, sample: Any = None, ema: bool = True) -> Generator:
        """What draws by the settings ``sample``, by the recipe's own by default.

        Raises:
            InputError: when the run trained nothing that draws.
        """
        return self.recipe.task.generator(self.open(ema), self.recipe.usual if sample is None else sample)

    def _tensors(self, file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of a file of the checkpoint and what its header says; of the newest one if training has removed it meanwhile."""
        try:
            return self.checkpoint.tensors(file), self.checkpoint.metadata(file)
        except Damaged:
            if self.chosen is not None or self.checkpoint.folder.exists():
                raise
            del self.checkpoint
            return self._tensors(file)

    def _check_weights(self, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
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


def _images(checkpoint: Checkpoint) -> int:
    return checkpoint.state["images"]


def _sampling(recipe: Recipe) -> Sampling | None:
    """How the recipe of a diffusion model draws, for the model to remember."""
    usual = recipe.usual
    if not isinstance(usual, SampleConfig):
        return None
    guided = partial(_at_scale, recipe.task, usual)
    return Sampling(usual.solver, usual.steps, usual.grid, usual.scale, usual.temperature, guided)


def _at_scale(task: TaskConfig, usual: SampleConfig, denoise: Denoiser, scale: float) -> Denoiser:
    return task.generator(denoise, replace(usual, scale=scale)).denoise  # pyright: ignore[reportAttributeAccessIssue]


def load(
    folder: str | Path,
    ema: bool = True,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """What a run has made, frozen and in evaluation mode.

    Args:
        folder: of a run (its latest checkpoint is taken) or of one checkpoint; or of a pipeline or model in diffusers' format, see
            :func:`reverie.bridge.load`.
        ema: of a run, the averaged weights, or those of the last step.
        device: where the model goes, with its space and text encoder; the CPU by default.
        dtype: what its weights are cast to; they stay in that of the file by default. Sampling keeps its state in float32.

    Returns:
        What its task trains: a :class:`~reverie.core.denoiser.NetDenoiser`, unguided when called, which :func:`reverie.sample` draws
        from as its recipe says (``denoise.sampling``); another
        :class:`~reverie.core.generator.Generator`, bound to what its recipe says; a classifier, a space …; for the folder of an
        auto-encoder in diffusers' format, the space.

    Raises:
        InputError: when there is neither, or a checkpoint is of another network than its recipe.
        RunError: when there is no checkpoint, or it is damaged; the message names the file and what to do.
    """
    if not isinstance(folder, str | PathLike):
        raise InputError(f"rv.load takes the path of a folder, of a run, a checkpoint or a pipeline: got {folder!r}")
    if bridge.is_folder(folder) and not (Path(folder).expanduser() / "recipe.yaml").is_file():
        return bridge.load(folder, device=device, dtype=dtype)
    run = Run(folder, device, dtype)
    opened = run.open(ema)
    draws = isinstance(opened, Generator) and not isinstance(opened, Denoiser | FlowMap)
    return run.recipe.task.generator(opened, run.recipe.usual) if draws else opened
