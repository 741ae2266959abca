"""``reverie data encode PATH OUT --space RUN``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make the codes of a data set in a space, once for all runs in that space: train with --data.codes OUT then finds them.

    Pictures are brought to the size and colours that the space was trained on. The files are named after the pictures and the weights of
    the space, so that one folder serves many and none is taken for another.

    Attributes:
        path: the pictures: a bundled set, a folder, a zip file, shards, or Parquet or Arrow files.
        out: folder for the codes.
        space: folder of the run that trained the space.
        flip: also those of the mirror images, for training with --data.flip.
        labels: with the labels of the pictures; without for training with --data.no-labels.
        device: where the space works: cpu, cuda, mps, …; auto takes the first accelerator there is.
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    space: Path
    flip: bool = False
    labels: bool = True
    device: str = "auto"


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "data encode")
    from reverie.core import devices
    from reverie.recipes.coding import encode
    from reverie.recipes.runs import Run

    run = Run(given.space, devices.choose(given.device))
    made = encode(run, given.path, given.out, flip=given.flip, labels=given.labels)
    shape = "x".join(map(str, made.spec.shape))
    config = run.recipe.data
    size = " ".join(map(str, config.size)) if isinstance(config.size, tuple) else config.size
    flags = f" --data.size {size} --data.channels {config.channels} --data.fit {config.fit}"
    flags += f"{' --data.flip' if given.flip else ''}{'' if given.labels else ' --data.no-labels'}"
    print(
        shown(
            f"{given.out}: {len(made):,} codes of {shape}; next: reverie train --data {quote(given.path)} "
            f"--space {quote(str(run.folder))} --data.codes {quote(str(given.out))}{flags}"
        )
    )
