"""``reverie read match A.png B.png``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Find the places of one picture in another by what a run says of both, and draw the lines.

    Attributes:
        a: a picture.
        b: another.
        run: folder of a run; the latest in runs/ by default.
        out: the picture with the lines.
        points: how many places to look for.
        site: the block to read.
        t: the time to read at.
        noises: noises to average over.
    """

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A.png")]
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B.png")]
    run: Path | None = None
    out: Path = Path("matches.png")
    points: Annotated[int, Bound(ge=1, le=10**6)] = 12
    site: str | None = None
    t: float = 0.1
    noises: Annotated[int, Bound(ge=1, le=10**6)] = 8


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "read match")
    import torch

    from reverie.learn import grid
    from reverie.read.dense_prediction import correspond
    from reverie.read.dense_prediction.pictures import lines, salient
    from reverie.read.maps import knowing
    from reverie.recipes.sources import picture

    run = given.open(_latest() if given.run is None else given.run)
    if given.points < 1:
        raise InputError(f"--points is how many places to look for, at least 1: got {given.points}")
    a, b = (picture(path, run.recipe) for path in (given.a, given.b))
    denoise = run.denoiser()
    sites = knowing(denoise)
    site = given.site or sites[len(sites) // 2]
    fields = correspond.dift(denoise, torch.cat([a, b]), site, t=given.t, noises=given.noises)
    size = a.shape[-2:]
    points = salient(a[0], given.points)
    found, cosine = correspond.match(fields[0], fields[1], points, size)
    grid.save(lines(a[0], b[0], points, found), given.out)
    print(
        f"{len(points)} places matched at {site}, t {given.t:g}, mean cosine {float(cosine.mean()):.2f} "
        f"({shown(run.folder)}): {shown(given.out)}"
    )


def _latest() -> Path:
    found = [path.parent for path in Path("runs").glob("*/recipe.yaml") if any(path.parent.glob("checkpoints/step-*"))]
    if not found:
        raise InputError("no trained run in runs/: name one with --run")
    return max(found, key=lambda folder: (folder / "recipe.yaml").stat().st_mtime)
