"""``reverie read classify RUN``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Train a noise-conditional head on a run's frozen network: how often it is right at each time, beside an untrained network.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        data: labelled pictures, a bundled set or a folder with a sub-folder a class; the run's own by default.
        site: the block to read; one in the middle by default.
        t: times to measure at; the head learns at all.
        epochs: passes over the training pictures.
        batch: pictures a step.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: str | None = None
    site: str | None = None
    t: tuple[float, ...] = (0.02, 0.1, 0.25, 0.5, 0.75)
    epochs: Annotated[int, Bound(ge=1, le=10**4)] = 15
    batch: Annotated[int, Bound(ge=1, le=10**6)] = 128


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "read classify")
    from reverie.read.maps import knowing
    from reverie.read.probes import noise_conditional
    from reverie.read.probes.grid import untrained
    from reverie.recipes.sources import splits

    run = given.open(given.run)
    train, test = splits(run.recipe, given.data)
    trained = run.denoiser()
    sites = knowing(trained)
    site = given.site or sites[len(sites) // 2]
    found = []
    for model in (trained, untrained(trained)):
        judge = noise_conditional.train(model, train, site, epochs=given.epochs, batch=given.batch)
        found.append(noise_conditional.accuracy(judge, test, given.t))
    print(f"{'t':>5}  {'trained':>8}  untrained")
    for t in given.t:
        print(f"{t:>5g}  {found[0][t]:>8.1%}  {found[1][t]:>9.1%}")
    print(f"Right of {len(test)} held-out pictures, one head for all times at {site}: {shown(run.folder)}")
