"""``reverie read probe RUN``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Probe every block of a run's network at several noise levels, or the codes of a space, and an untrained one beside it.

    Writes read/probe.json and read/heatmap.svg in the run; reverie report then shows them.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        data: labelled pictures, a bundled set or a folder with a sub-folder a class; the run's own by default.
        labels: labelled pictures that a probe learns from, in all.
        seeds: repetitions with other labelled pictures and other noise.
        head: linear, knn, mlp, conv or attention.
        sites: blocks to read; all by default.
        logsnr: noise levels, from little noise (8) to much (-5).
        pool: places a side that a block's map is averaged to; 2 by default, 4 for conv and attention.
        pictures: held-out pictures to measure on, at most.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: str | None = None
    labels: Annotated[int, Bound(ge=1, le=10**6)] = 300
    seeds: Annotated[int, Bound(ge=1, le=10**6)] = 5
    head: str = "linear"
    sites: tuple[str, ...] = ()
    logsnr: tuple[float, ...] = ()
    pool: Annotated[int, Bound(ge=1, le=10**6)] | None = None
    pictures: Annotated[int, Bound(ge=1, le=10**6)] = 1000


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "read probe")
    from reverie.core.files import write
    from reverie.read.probes import grid
    from reverie.read.probes.heatmap import heatmap
    from reverie.recipes.sources import splits
    from reverie.spaces.latent import Latent

    run = given.open(given.run)
    train, test = splits(run.recipe, given.data)
    path, drawing = run.path("read/probe.json"), run.path("read/heatmap.svg")
    opened = run.open()
    if (coded := getattr(opened, "as_space", None)) is not None:
        opened = coded(train)
    probed = grid.run(
        opened if isinstance(opened, Latent) else run.denoiser(),
        train,
        test,
        labels=given.labels,
        seeds=given.seeds,
        sites=given.sites or None,
        logsnr=given.logsnr or None,
        head=given.head,
        pool=given.pool,
        pictures=given.pictures,
    )
    probed.save(path)
    write(drawing, heatmap(probed))
    print(
        f"{probed.head} probes on {probed.labels} labels of {shown(probed.data)}, {probed.seeds} seeds. {probed.sentence}"
    )
    after = (
        "" if isinstance(opened, Latent) else f"; next: reverie report {quote(str(run.folder))}"
    )  # which shows what draws
    print(shown(f"{drawing}{after}"))
