"""``reverie judge DATA``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a classifier that judges samples of other data than the bundled digits: reverie evaluate RUN --judge FILE.

    Attributes:
        data: a bundled set or a folder of pictures with a sub-folder a class.
        out: its file; NAME-judge.safetensors by default.
        size: side of the pictures in pixels, as in the runs it is to judge; inferred without.
        channels: 1 (grey) or 3 (RGB); inferred without.
        fit: how a picture becomes a square.
        images: how many distorted pictures it sees in training.
    """

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    out: Path | None = None
    size: Annotated[int, Bound(ge=1, le=8192)] | None = None
    channels: Annotated[int, Bound(ge=1, le=3)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    images: Annotated[int, Bound(ge=1, le=10**12)] = 240_000


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "judge")
    from reverie import data
    from reverie.measure import judge

    train, held_out = (
        data.load(given.data, split, size=given.size, channels=given.channels, fit=given.fit)
        for split in ("train", "test")
    )
    trained = judge.train(train, images=given.images)
    path = given.out or Path(f"{train.name}-judge.safetensors")
    trained.save(path)
    right = f", {trained.accuracy(held_out):.1%} of {len(held_out):,} held-out pictures right" if len(held_out) else ""
    print(f"{path}{right}; next: reverie evaluate RUN --judge {path}")
