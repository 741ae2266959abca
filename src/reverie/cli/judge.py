"""``reverie judge DATA``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a classifier that judges samples of other data than the bundled digits: reverie evaluate RUN --judge FILE.

    Attributes:
        data: a bundled set or a folder of pictures with a sub-folder a class.
        out: its file; NAME-judge.safetensors by default. It is trained in the folder runs/NAME-judge, and the same command goes on.
        size: height and width of the pictures in pixels, or the side of squares, as in the runs it is to judge; inferred without.
        channels: 1 (grey) or 3 (RGB); inferred without.
        fit: how a picture becomes a square.
        images: how many distorted pictures it sees in training.
    """

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    out: Path | None = None
    size: Annotated[int, Bound(ge=1, le=8192)] | tuple[int, int] | None = None
    channels: Annotated[int, Bound(ge=1, le=3)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    images: Annotated[int, Bound(ge=1, le=10**12)] = 240_000


def main(arguments: list[str]) -> int:
    given = parse(Arguments, arguments, "judge")
    from dataclasses import replace

    from reverie.recipes import serialisation, sources
    from reverie.recipes.recipe import DataConfig
    from reverie.recipes.training import train

    recipe = serialisation.load(serialisation.find("judge"))
    name = f"{Path(given.data).name}-judge"
    settings = replace(recipe.train, images=given.images, warmup=given.images // 10)
    data = DataConfig(name=given.data, size=given.size, channels=given.channels, fit=given.fit)
    run, seen = train(replace(recipe, name=name, data=data, train=settings))
    if seen < given.images:
        print(f"stopped at {seen:,} of {given.images:,} pictures; the same command goes on", file=sys.stderr)
        return 130
    trained, held_out = run.open(), sources.load(run.recipe, "test")
    path = given.out or Path(f"{name}.safetensors")
    trained.save(path)
    right = f", {trained.accuracy(held_out):.1%} of {len(held_out):,} held-out pictures right" if len(held_out) else ""
    print(shown(f"{path}{right}; next: {run.recipe.task.next(str(path), given.data)}"))
    return 0
