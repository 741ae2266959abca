"""``--adapter``: adapters on the model of a run."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from reverie import adapt
from reverie.adapt.adapter import fingerprint
from reverie.adapt.applying import FILE, check_base
from reverie.adapt.encoder import predicted
from reverie.adapt.encoder_config import EncodedConfig
from reverie.adapt.tokens import Model
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.families.token_model import TokenModel
from reverie.recipes import sources
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run, load


def strength(given: str) -> tuple[Path, float]:
    """``PATH`` or ``PATH:0.8`` as the file and its strength."""
    path, colon, scale = given.rpartition(":")
    if colon and not Path(given).expanduser().exists():
        with suppress(ValueError):
            return Path(path).expanduser(), float(scale)
    return Path(given).expanduser(), 1.0


def absolute(given: str) -> str:
    """The same from any folder."""
    path, scale = strength(given)
    return f"{path.absolute()}:{scale:g}"


def adapted(run: Run, given: Sequence[str], anyway: bool = False, delay: float | None = None) -> Model:
    """The run's model with adapters, cast as the run is to be after that: they know their base in the type of its file.

    Args:
        run, given, anyway: the model, the adapters with their strengths, and whether they may be of another base.
        delay: of the subjects that they show, see :meth:`reverie.adapt.Adapter.delayed`; their own without.

    Raises:
        InputError: as :func:`reverie.adapt.apply`, or for a run of another task.
    """
    plain = Run(run.chosen.folder if run.chosen else run.folder, run.device).open()
    if not isinstance(plain, NetDenoiser | TokenModel):
        raise InputError(
            f"--adapter is for diffusion models and those of tokens: {run.folder} is a run of the task {run.recipe.task.name}"
        )
    each = [(_loaded(path), scale) for path, scale in map(strength, given)]
    if delay is not None:
        each = [(a.delayed(delay) if isinstance(a, adapt.Adapter) else a, scale) for a, scale in each]
    return adapt.apply(plain, *each, anyway=anyway).to(dtype=run.dtype)


def _loaded(path: Path) -> "adapt.Adapter | adapt.Outside":
    """An adapter from a file, or what a run has trained so far."""
    if not (path / "recipe.yaml").is_file():
        return adapt.load(path)
    opened = Run(path).open()
    if not isinstance(opened, adapt.Adapter):
        raise InputError(
            f"{path} is a run of the task {Run(path).recipe.task.name}: --adapter takes one of reverie adapt"
        )
    return opened


def encoded(recipe: Recipe, out: Path | None) -> tuple["adapt.Adapter", Path]:
    """What an encoder predicts of the pictures of a recipe, in a file of its own: the adapter, and the file.

    Raises:
        InputError: when the folder is a run, or the encoder is none or belongs to another base.
    """
    task = recipe.task
    assert isinstance(task, EncodedConfig)
    folder = Path("runs") / recipe.name if out is None else out
    if (folder / "recipe.yaml").exists():
        raise InputError(f"{folder} is a run, trained on pictures: choose another --out for what is predicted")
    adapter = predicted(task, load(task.encoder), sources.load(recipe), sources.load(recipe, "test"))
    base = load(task.run)
    check_base(adapter, fingerprint(base.net))
    return adapter, adapter.save(folder / FILE)


def knowing(recipe: Recipe, model: Model) -> Recipe:
    """The recipe of a model that has learned tokens: they are classes behind its own."""
    if recipe.data.classes is None:
        return recipe
    return replace(recipe, data=replace(recipe.data, classes=tuple(model.conditioner.classes)))
