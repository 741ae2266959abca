"""``reverie train [WHAT]``."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli import train_help
from reverie.core.errors import InputError
from reverie.core.task import TaskConfig
from reverie.core.text import shown
from reverie.nets.presets import PRESETS
from reverie.recipes import serialisation, tasks
from reverie.recipes.recipe import Recipe

OWN = ("--net.", "--space", "--prior", "--schedule", "--kind", "--train.optimizer", "--train.lr", "--train.batch")
"""Flags of those who choose the method themselves: then what else is not given is plain, whatever the data."""
SHORT = {"--data": "--data.name", "--net": "--net.name", "--space": "--space.name"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe or a task, or go on with it where it stopped. Any key of a recipe is a flag, those of its task without a prefix.

    Without a recipe, a network or settings of the method, all of it suits the data: pixels, colours, number of pictures, classes, device.
    With --init alone, the network, its path and what it predicts are those of the model that is trained on.

    Short: --data X for --data.name X, --net unet (or dit-s/2, a published size) for --net.name unet, --space RUN for --space.name RUN.

    Attributes:
        spec: a recipe that comes along (demo, emoji, mnist5k, autoencoder, judge, …), a task (denoising, classifier, diffae, …), a YAML
            file, or a run's folder; it comes first. Without it, a diffusion model.
        out: folder of the run, runs/NAME by default.
        fresh: start anew; the old run is renamed, not removed.
        extend: go on with a run that is there by other settings of train and sample (more images, say); its recipe is rewritten, and the
            one before kept.
        budget: train for a time, such as 90s, 5m or 1h30m, in place of a number of images.
    """

    spec: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[WHAT]")] = None
    out: Path | None = None
    fresh: bool = False
    extend: bool = False
    budget: str | None = None
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    from reverie.learn.runtime import launched
    from reverie.recipes.outlook import seconds
    from reverie.recipes.training import train

    if given.extend and (given.fresh or given.budget):
        raise InputError("--extend goes on with a run, by a number of images: leave --fresh and --budget out")
    budget = None if given.budget is None else seconds(given.budget)
    run, seen = train(given.recipe, given.out, given.fresh, budget, given.extend)
    total, folder = run.recipe.train.images, quote(str(run.folder))
    if launched()[0] > 0:
        return 0
    if seen < total:
        print(shown(f"stopped at {seen:,} of {total:,} images; go on with: reverie train {folder}"), file=sys.stderr)
        return 130
    print(shown(f"{run.folder}: {seen:,} images; next: {run.recipe.task.next(str(run.folder), run.recipe.data.name)}"))
    return 0


def parse(arguments: list[str]) -> Arguments:
    """The recipe first, then the flags on top of it; ``--net.name`` decides which flags a network has."""
    arguments = [
        f"{SHORT[a.split('=')[0]]}{a[len(a.split('=')[0]) :]}" if a.split("=")[0] in SHORT else a for a in arguments
    ]
    spec = arguments[0] if arguments and not arguments[0].startswith("-") else None
    recipe, out = Recipe(), None
    if spec is not None and spec in tasks.names() and spec not in serialisation.named():
        recipe = Recipe(task=tasks.config(spec)())
    elif spec is not None:
        path = serialisation.find(spec)
        folder = path.parent if path.name == "recipe.yaml" and path != Path(spec).expanduser() else None
        recipe = serialisation.load(path, sealed=folder is not None)
        if folder is not None:
            out = folder
        elif not recipe.name and path.parent != serialisation.NAMED:
            recipe = replace(recipe, name=path.stem)
    init, _ = take("--init", arguments)
    if init is not None and spec is None:
        from reverie.recipes.starting import recipe_from

        recipe = recipe_from(init)
    name, arguments = take("--net.name", arguments)
    if name is not None:
        recipe = replace(recipe, task=with_network(recipe.task, name))
    suits = spec is None and init is None and name is None and not any(a.startswith(OWN) for a in arguments)
    if {"-h", "--help"} & set(arguments):
        print(train_help.text(str(Arguments.__doc__).split("\n\n    Short")[0], Arguments(), recipe, suits))
        raise SystemExit(0)
    arguments = ["--help" if a == "--help-all" else a for a in arguments]
    given = _flags(arguments, Arguments(out=out, recipe=recipe))
    if given.spec != spec:
        raise InputError(f"what to train comes first: reverie train {given.spec} …")
    if spec is None and init is not None:
        from reverie.recipes.starting import training
        from reverie.recipes.suited import pictures

        begun = replace(given.recipe, train=training(pictures(given.recipe), given.recipe))
        given = _flags(arguments, replace(given, recipe=begun))
    elif suits:
        from reverie.recipes.suited import suiting

        given = _flags(arguments, replace(given, recipe=suiting(given.recipe)))
    return given


def _flags(arguments: list[str], default: Arguments) -> Arguments:
    return tyro.cli(
        Arguments,
        args=arguments,
        default=default,
        prog="reverie train",
        config=(tyro.conf.AvoidSubcommands,),
    )


def with_network(task: TaskConfig, name: str) -> TaskConfig:
    """The settings with another network, at its defaults unless it is the one they have, or of a published size.

    The objective simple trains no variance, so that published sizes come without theirs.

    Raises:
        InputError: for an unknown network, or a task whose network is not chosen.
    """
    if type(getattr(task, "net", None)) not in serialisation.NAMES:
        raise InputError(f"the task {task.name} has no network to choose: leave --net out")
    if name in PRESETS:
        net = PRESETS[name].config
        return replace(task, net=replace(net, learn_sigma=False) if hasattr(net, "learn_sigma") else net)  # pyright: ignore
    chosen = serialisation.network(name, "--net")
    return task if type(task.net) is chosen else replace(task, net=chosen())  # pyright: ignore


def take(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of a flag, and the arguments without it."""
    rest, value, i = [], None, 0
    while i < len(arguments):
        if arguments[i] == flag and i + 1 < len(arguments):
            value, i = arguments[i + 1], i + 2
        elif arguments[i].startswith(f"{flag}="):
            value, i = arguments[i].partition("=")[2], i + 1
        else:
            rest.append(arguments[i])
            i += 1
    return value, rest
