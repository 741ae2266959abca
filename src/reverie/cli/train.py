"""``reverie train [RECIPE]``."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from reverie.core.errors import InputError
from reverie.nets.config import CONFIGS
from reverie.recipes import reading
from reverie.recipes.recipe import Recipe

SHORT = {"--data": "--data.name", "--net": "--net.name"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe, or go on with it where it stopped. Any key of a recipe is a flag; --data X is short for --data.name X.

    Attributes:
        spec: a recipe that comes along (demo, emoji, mnist5k), a YAML file, or a run's folder; it comes first.
        out: folder of the run, runs/NAME by default.
        fresh: start anew; the old run is renamed, not removed.
    """

    spec: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    out: Path | None = None
    fresh: bool = False
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    from reverie.recipes.training import train

    run, seen = train(given.recipe, given.out, given.fresh)
    total = run.recipe.train.images
    if seen < total:
        print(f"stopped at {seen:,} of {total:,} images; go on with: reverie train {run.folder}", file=sys.stderr)
        return 130
    classifier = reading.net_name(run.recipe) == "encoder"
    then = "reverie.guide.classifier" if classifier else f"reverie sample {run.folder}, reverie report {run.folder}"
    print(f"{run.folder}: {seen:,} images; next: {then}")
    return 0


def parse(arguments: list[str]) -> Arguments:
    """The recipe first, then the flags on top of it; ``--net.name`` decides which flags the network has."""
    arguments = [
        f"{SHORT[a.split('=')[0]]}{a[len(a.split('=')[0]) :]}" if a.split("=")[0] in SHORT else a for a in arguments
    ]
    spec = arguments[0] if arguments and not arguments[0].startswith("-") else None
    recipe, out = Recipe(), None
    if spec is not None:
        path = reading.find(spec)
        recipe = reading.read(path, sealed=Path(spec).is_dir())
        if Path(spec).is_dir():
            out = Path(spec)
        elif not recipe.name:
            recipe = replace(recipe, name=path.stem)
    name, arguments = _take("--net.name", arguments)
    if name is not None:
        if name not in CONFIGS:
            raise reading.unknown_net(name, "--net.name")
        recipe = recipe if name == reading.net_name(recipe) else replace(recipe, net=CONFIGS[name]())
    given = tyro.cli(
        Arguments,
        args=arguments,
        default=Arguments(out=out, recipe=recipe),
        prog="reverie train",
        config=(tyro.conf.AvoidSubcommands,),
    )
    if given.spec != spec:
        raise InputError(f"the recipe comes first: reverie train {given.spec} …")
    return given


def _take(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
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
