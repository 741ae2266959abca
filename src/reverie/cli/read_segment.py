"""``reverie read segment RUN``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.labelled import labelled
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.text import shown

SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Label the pixels of held-out pictures by what a run says of them, learned from a few labelled pictures.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        data: pictures, a bundled set or a folder; the run's own by default.
        masks: folder of PNG files with the pictures' names and a class number a pixel (255 where unknown). Without it pixels
            brighter than the middle take the class of their picture, and others class 0: made for digits.
        labels: labelled pictures to learn from.
        least: pixels that a class must have in a picture to be learned from it, at the size the network reads.
        members: of the ensemble.
        sites: blocks to read; those in the middle by default.
        t: times to read at.
        pictures: held-out pictures to measure on, at most.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: str | None = None
    masks: Path | None = None
    labels: Annotated[int, Bound(ge=1, le=10**6)] = 60
    least: Annotated[int, Bound(ge=1, le=10**6)] = 20
    members: Annotated[int, Bound(ge=1, le=10**6)] = 10
    sites: tuple[str, ...] = ()
    t: tuple[float, ...] = (0.05, 0.15, 0.25)
    pictures: Annotated[int, Bound(ge=1, le=10**6)] = 100


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "read segment")
    from reverie.learn import grid
    from reverie.read.dense_prediction import segment
    from reverie.read.dense_prediction.pictures import segmentation
    from reverie.read.maps import knowing
    from reverie.read.probes.grid import untrained
    from reverie.recipes.sources import splits

    run = given.open(given.run)
    path = run.path("read/segment.png")
    train, test = splits(run.recipe, given.data)
    known, known_masks = labelled(train, given.masks, given.labels, run.recipe.data.fit, seed=0)
    asked, truth = labelled(test, given.masks, given.pictures, run.recipe.data.fit, seed=1)
    classes = int(known_masks.max()) + 1
    known_masks = segment.without_specks(known_masks, given.least)
    if not (known_masks != segment.IGNORE).any():
        raise InputError(f"no class has {given.least} labelled pixels in any picture: lower --least, or label more")
    trained = run.denoiser()
    sites, first, figures = given.sites or tuple(knowing(trained)), None, []
    for model in (trained, untrained(trained)):
        features = segment.pixels(model, known, sites, given.t)
        ensemble = segment.Ensemble(features.shape[1], classes, given.members)
        ensemble.fit(features, known_masks)
        found = ensemble(segment.pixels(model, asked, sites, given.t))
        figures.append(segment.miou(found.classes, truth, classes))
        first = found if first is None else first
    assert first is not None
    some = slice(None, SHOWN)
    grid.save(
        segmentation(asked[some], truth[some], first.classes[some], first.uncertainty[some], classes=classes), path
    )
    print(
        f"mean IoU {figures[0]:.3f} on {len(asked)} held-out pictures, learned from {len(known)}; "
        f"an untrained network {figures[1]:.3f}. {shown(path)}"
    )
