"""``reverie data pack PATH OUT``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write pictures as shards of a WebDataset, as they are: tar files, which copy fast and are read from their place.

    Attributes:
        path: a folder of pictures, a zip file, shards, or Parquet or Arrow files.
        out: a new folder for the shards.
        most: pictures a shard.
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    most: Annotated[int, Bound(ge=1, le=10**9)] = 10_000


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "data pack")
    from reverie.data.loading import existing
    from reverie.data.packing import pack

    packed = pack(existing(given.path), given.out, given.most)
    for item in packed.skipped:
        print(shown(f"left out {item.path}: {item.reason}"))
    print(
        shown(
            f"{given.out}: {packed.pictures:,} pictures in {packed.shards:,} shards; next: reverie train --data {quote(str(given.out))}"
        )
    )
