"""A recipe becomes a run: a new one, or one that goes on where it stopped."""

import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from reverie.core.errors import InputError, RunError
from reverie.core.files import inside
from reverie.core.memory import afford
from reverie.core.task import Given, Task
from reverie.core.text import shown
from reverie.data import ImageSet, Loader, Mirrored
from reverie.data.codes import WHERE, of_codes
from reverie.data.packing import Source, kept
from reverie.diffusion.teacher import FromRun
from reverie.learn.checkpoint import Checkpoints
from reverie.learn.loop import train as loop
from reverie.learn.meeting import Meeting
from reverie.learn.observer import Observer, TensorBoard
from reverie.learn.runtime import Runtime, launched
from reverie.recipes import serialisation, sources, starting
from reverie.recipes.crew import Crew, hear, ready
from reverie.recipes.extending import extend, may_change
from reverie.recipes.outlook import as_begun, fitted, outlook, pace, stages_within, within
from reverie.recipes.recipe import DataConfig, Recipe, described
from reverie.recipes.runs import Run, load
from reverie.recipes.suited import suiting

FREE = {"train.workers", "train.tensorboard", "train.processes", "train.shard", "data.codes"}
"""Keys that may change while a run goes on: its weights do not depend on them, or by rounding only."""


def train(
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    budget: float | None = None,
    extending: bool = False,
    observers: Sequence[Observer] = (),
    *,
    data: Source | None = None,
    images: int | None = None,
) -> tuple[Run, int]:
    """Train a recipe to its end, from the latest checkpoint if its run has one.

    Under a launcher every process calls this; the first one decides, and the others train what it tells them.

    Args:
        recipe: what to train; without one, a diffusion model that suits the data, as ``reverie train --data X`` trains it, in one process.
        out: folder of the run, ``runs/NAME`` by default.
        fresh: start anew; a run that is there is renamed, not removed.
        budget: seconds of training, with what the task prepares before it, which decide the number of images of a new run; one that is
            there keeps its own.
        extending: a run that is there goes on by this recipe, see :func:`~reverie.recipes.extending.extend`.
        observers: told of what happens, besides TensorBoard where the recipe asks for it.
        data: what to train on in place of the recipe's data: a name or path; any data set of (picture, label), torch's or Hugging Face's,
            whose items :func:`reverie.data.items.samples` takes; or two of these by the names ``train`` and ``test``. Objects are kept as
            shards in the cache, so that the run can be gone on with, measured and shared by processes like any other.
        images: to see in all, in place of the recipe's number.

    Returns:
        The run, and the images it has seen (fewer than the recipe's if it was interrupted).

    Raises:
        InputError: when the data or the size do not fit, or the folder holds a run of another recipe.
        RunError: when training fails; what was saved stays.
    """
    if launched()[0] > 0:
        return follow()
    with Crew().leading() as crew:
        return _train(crew, _chosen(recipe, data, images), out, fresh, budget, extending, observers)


def _chosen(recipe: Recipe | None, data: Source | None, images: int | None) -> Recipe:
    """The recipe of a training from Python, its data by name."""
    chosen = recipe or Recipe()
    if data is not None:
        first = next(iter(data.values()), data) if isinstance(data, Mapping) else data
        called = Path(str(getattr(first, "name", None) or type(first).__name__.lower())).name
        given = data if isinstance(data, str | Path) else kept(data, called)
        chosen = replace(chosen, data=replace(chosen.data, name=str(given)))
    if images is not None:
        chosen = replace(chosen, train=replace(chosen.train, images=images))
    if recipe is not None:
        return chosen
    alone = suiting(chosen)  # a script that nothing guards from being run again cannot start another process
    return replace(alone, train=replace(alone.train, processes=1))


def _train(
    crew: Crew,
    recipe: Recipe,
    out: str | Path | None,
    fresh: bool,
    budget: float | None,
    extending: bool,
    observers: Sequence[Observer],
) -> tuple[Run, int]:
    """What the first process does."""
    serialisation.check_recipe(recipe)
    if recipe.train.tensorboard and find_spec("tensorboard") is None:
        raise InputError(
            "train.tensorboard writes for TensorBoard, which is not installed: pip install reverie[tensorboard]"
        )
    recipe = _taught(recipe)
    recipe = replace(recipe, task=recipe.task.resolved())
    Runtime.choose(recipe.train.device)
    if recipe.data.maps is not None and not recipe.task.maps:
        raise InputError(f"the task {recipe.task.name} learns from no maps: leave data.maps out")
    data = sources.load(recipe)
    for note in data.notes:
        print(note, file=sys.stderr)
    held_out = sources.load(recipe, "test")
    recipe = sources.resolve(recipe, data, held_out)
    serialisation.check_recipe(recipe)  # its name may now be that of the data
    part = recipe.train.micro_batch or recipe.train.batch
    afford(4 * part * math.prod(data.shape), f"train.batch {part}", "choose fewer, or a train.micro_batch")
    spec = data.spec
    recipe.task.check(spec, recipe.sample)
    folder = Path("runs") / recipe.name if out is None else Path(out)
    if not fresh and (folder / "recipe.yaml").exists():
        begun = Run(folder).recipe
        if budget is not None:
            recipe = as_begun(recipe, begun)
        elif recipe.train.micro_batch is None:
            recipe = replace(recipe, train=replace(recipe.train, micro_batch=begun.train.micro_batch))
    if crew.launched > 1:
        recipe = replace(recipe, train=replace(recipe.train, processes=crew.launched))
    new = fresh or not folder.exists()
    run = _open(recipe, folder, fresh, extending)
    with _nothing_left(run.folder, new), _alone(run.folder):
        run = extend(run, recipe) if extending else run
        starting.prepare(recipe, run.folder)
        start = time.perf_counter()
        given = Given(spec, data, held_out, run.folder, recipe.seed, recipe.train.device, load)
        if budget is not None:
            recipe = stages_within(recipe, given, budget)
            serialisation.write(recipe, run.path("recipe.yaml"))
        recipe.task.prepare(given)
        made = make(recipe, data, held_out, run.folder)
        prepared = time.perf_counter() - start
        if not run.checkpoints.all():
            cost = pace(made.task, made.loader, recipe)
            if budget is not None:
                if prepared >= budget:
                    raise RunError(
                        f"what comes before training took {prepared:.0f} of {budget:.0f} s: give a larger --budget, or prepare less "
                        "(--space.images, or the --space of another run)"
                    )
                recipe = within(recipe, budget - prepared, cost.seconds)
            recipe = fitted(recipe, cost)
            serialisation.write(recipe, run.path("recipe.yaml"))
            for line in outlook(recipe, made, data, held_out, run.folder, cost):
                print(shown(line), file=sys.stderr)
        with crew.at_work(recipe, run.folder):
            seen = loop(
                made.task,
                made.loader,
                recipe.train,
                run.folder,
                seed=recipe.seed,
                metadata=recipe.task.describe(made.model, spec),
                observers=[*observers, *([TensorBoard()] if recipe.train.tensorboard else [])],
            )
    return run, seen


def follow() -> tuple[Run, int]:
    """What every other process does: the same loop on its share of each batch.

    Raises:
        Lost: when the first process, or another one, has stopped.
    """
    rank, world, _ = launched()
    meeting = Meeting("run", rank, world)
    try:
        recipe, folder = hear(meeting)
        made = make(recipe, sources.load(recipe), sources.load(recipe, "test"), folder)
        ready(meeting)
    except Exception as error:
        meeting.fail(error)
        raise
    return Run(folder), loop(made.task, made.loader, recipe.train, folder, seed=recipe.seed)


class Made(NamedTuple):
    """What a resolved recipe trains, how, and on what."""

    model: Any
    task: Task
    loader: Loader


def make(recipe: Recipe, data: ImageSet, held_out: ImageSet, folder: Path) -> Made:
    """The model of a resolved recipe, initialised by its seed and the weights it starts from, its task and its data in order."""
    model = recipe.task.build(data.spec, recipe.seed, folder)
    if recipe.init is not None and not Checkpoints(folder / "checkpoints").all():
        starting.begin(recipe, model)
    kept = inside(folder, WHERE) if recipe.data.codes is None else Path(recipe.data.codes)
    seen, unseen = recipe.task.examples(data, held_out, folder, kept)
    task = recipe.task.task(model, seen, unseen, recipe.usual, recipe.seed)
    flip = recipe.data.flip
    if flip:  # mirrored codes are no codes of mirrored pictures
        codes = of_codes(seen)
        seen = recipe.task.examples(Mirrored(data), held_out, folder, kept)[0] if codes else Mirrored(seen)
    return Made(model, task, Loader(seen, recipe.seed, flip=flip, workers=recipe.train.workers))


def _taught(recipe: Recipe) -> Recipe:
    """The recipe of a task that begins with the model of another run, with what that run's recipe says of it: the model, and unless it is
    told otherwise the data.

    Raises:
        InputError: when there is no such run, or it trained no diffusion model.
    """
    task = recipe.task
    if not isinstance(task, FromRun) or task.model is not None:
        return recipe
    if not task.source:
        raise InputError(f"the task {task.name} begins with a trained model: give --{task.by} RUN")
    teacher = Run(task.source).recipe
    data = teacher.data if recipe.data == DataConfig() else recipe.data
    if task.elsewhere:
        data = replace(data, size=data.size or teacher.data.size, channels=data.channels or teacher.data.channels)
    told = task.of(teacher.task, teacher.sample).told(*described(teacher.data))
    return replace(
        recipe,
        name=recipe.name or f"{teacher.name}-{task.name}",
        data=data,
        task=told,
        sample=task.drawing(recipe.sample, teacher.usual),
    )


@contextmanager
def _nothing_left(folder: Path, new: bool) -> Iterator[None]:
    """Removes a new folder if what was given cannot be trained after all, so that the same command corrected finds none in its way."""
    try:
        yield
    except InputError:
        if new and not Checkpoints(folder / "checkpoints").all():
            shutil.rmtree(folder)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's ``.lock`` while training, where the system has file locks; its end, however it comes, frees it.

    Raises:
        RunError: when another process is training there.
    """
    if fcntl is None:
        yield
        return
    with inside(folder, ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process is training in {folder}: wait for it, or take another --out") from error
        yield


def _open(recipe: Recipe, folder: Path, fresh: bool, extending: bool) -> Run:
    """The run in a folder, new or the same recipe's, or one that may go on by this recipe."""
    if extending and not (folder / "recipe.yaml").exists():
        raise InputError(f"--extend goes on with a run that is there: there is none in {folder}")
    if fresh and folder.exists():
        number = 1
        while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.rename(old)
        print(shown(f"the old run is now {old}"), file=sys.stderr)
    if (folder / "recipe.yaml").exists():
        begun = Run(folder).recipe
        changes = [change for change in serialisation.difference(begun, recipe) if change[0] not in FREE]
        if begun.data.contents is None:
            changes = [change for change in changes if change[0] != "data.contents"]
        if any(not (extending and may_change(key)) for key, *_ in changes):
            raise InputError(_changed(folder, changes))
    elif folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise InputError(f"{folder} holds other files and no run: choose another --out")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        serialisation.write(recipe, folder / "recipe.yaml")
    return Run(folder)


def _changed(folder: Path, changes: list[tuple[str, object, object]]) -> str:
    rows = [("key", "that run", "now"), *((key, str(old), str(new)) for key, old, new in changes)]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    table = "\n".join(f"  {key:<{widths[0]}}  {old:<{widths[1]}}  {new}" for key, old, new in rows)
    others = {key for key, *_ in changes} == {"data.contents"}
    what = (
        "began with other pictures (some were added, removed, renamed or changed since)"
        if others
        else "is a run of another recipe"
    )
    extendable = all(may_change(key) for key, *_ in changes)
    return (
        f"{folder} {what}:\n{table}\n"
        f"{'--extend goes on with that run by these. ' if extendable else ''}"
        "--fresh starts anew and keeps the old run beside it; --out or --name takes another folder."
    )
