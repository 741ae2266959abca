"""``reverie read panoptic RUN``."""

from dataclasses import dataclass, replace
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
    """Find all things of held-out pictures, each with its outline and class, by a mask generator on a run's frozen network (ODISE).

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        data: pictures, a bundled set or a folder; the run's own by default.
        masks: folder of PNG files with the pictures' names and a class number a pixel (255 where unknown); connected pixels of a class
            are one thing. Without it pixels brighter than the middle take the class of their picture, and others class 0: made for digits.
        stuff: classes whose pixels in a picture are one segment, wherever they lie, such as the ground.
        names: of the classes, from class 0 on; their numbers by default.
        size: height and width to read pictures at, by windows of the network's size; the network's by default.
        labels: pictures to learn from.
        steps: of the training.
        batch: pictures a step.
        sites: blocks to read; the inputs of the way up by default.
        t: time to read at.
        least: a thing is kept from this probability on.
        pictures: held-out pictures to measure on, at most.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: str | None = None
    masks: Path | None = None
    stuff: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ()
    size: Annotated[tuple[int, int] | None, Bound(ge=1, le=10**5)] = None
    labels: Annotated[int, Bound(ge=1, le=10**6)] = 2000
    steps: Annotated[int, Bound(ge=1, le=10**7)] = 800
    batch: Annotated[int, Bound(ge=1, le=10**6)] = 8
    sites: tuple[str, ...] = ()
    t: float = 0.05
    least: float = 0.2
    pictures: Annotated[int, Bound(ge=1, le=10**6)] = 100


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "read panoptic")
    from reverie.learn import grid
    from reverie.read.dense_prediction.pictures import panoptics
    from reverie.read.odise import quality, training
    from reverie.read.odise.panoptics import components
    from reverie.read.probes.grid import untrained
    from reverie.recipes.sources import splits

    run = given.open(given.run)
    path, recipe = run.path("read/panoptic.png"), run.recipe
    if given.size is not None:
        recipe = replace(recipe, data=replace(recipe.data, size=given.size))
    train, test = splits(recipe, given.data)
    known, known_masks = labelled(train, given.masks, given.labels, recipe.data.fit, seed=0)
    asked, asked_masks = labelled(test, given.masks, given.pictures, recipe.data.fit, seed=1)
    classes = max(int(known_masks.max()), int(asked_masks.max())) + 1
    if given.names and len(given.names) < classes:
        raise InputError(
            f"the masks have {classes} classes, --names gives {len(given.names)}: one a class, from class 0 on"
        )
    words = training.closed(given.names or [str(k) for k in range(classes)])
    true, truth = ([components(m, given.stuff) for m in masks] for masks in (known_masks, asked_masks))
    trained, figures, first = run.denoiser(), [], None
    for denoise in (trained, untrained(trained)):
        model = training.train(
            denoise, known, true, words, at=given.sites or None, t=given.t, steps=given.steps, batch=given.batch
        )
        parts = asked.to(denoise.device).split(given.batch)
        found = [m for part in parts for m in model.segment(part, words, given.stuff, given.least)]
        figures.append(quality(found, truth, len(words.names)))
        first = found if first is None else first
    assert first is not None
    grid.save(panoptics(asked[:SHOWN], [truth[:SHOWN], first[:SHOWN]], classes=len(words.names)), path)
    for k, value in enumerate(figures[0].classes.tolist()):
        if value == value:
            print(f"{shown(words.names[k][0])}: {value:.2f}")
    print(
        f"Panoptic quality {figures[0].pq:.3f} on {len(asked)} held-out pictures, learned from {len(known)} in {given.steps} steps; "
        f"an untrained network {figures[1].pq:.3f}. {shown(path)}"
    )
