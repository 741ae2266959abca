"""``reverie ema RUN``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Average a run's weights anew, with any width, after training (Karras et al. 2024); or measure which width is best.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        std: width of the average relative to the training time.
        out: where the run with such an average goes; RUN-ema-STD without.
        curve: measure the run at several widths in place of making one; its report shows the curve.
        n: samples a width.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    std: Annotated[float, Bound(ge=0.001, le=0.28)] | None = None
    out: Path | None = None
    curve: bool = False
    n: Annotated[int, Bound(ge=2, le=10**6)] = 500


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "ema")
    if given.curve == (given.std is not None):
        raise InputError("give --std WIDTH, such as 0.1, for a run averaged so; or --curve to measure several widths")
    from reverie.recipes.averaging import curve, reaveraged

    run = given.open(given.run)
    if given.std is not None:
        out = given.out or run.folder.with_name(f"{run.folder.name}-ema-{given.std:g}")
        error = reaveraged(run, given.std, out)
        print(shown(f"{out}: its profile is {100 * error:.1f} % off; next: reverie evaluate {quote(str(out))}"))
        return
    rows = curve(run, n=given.n)
    measures = list(rows[0]["figures"])
    print("  ".join(["width", *(f"{name:>13}" for name in measures)]))
    for row in rows:
        print("  ".join([f"{row['std']:<5g}", *(f"{row['figures'][name]:>13.4g}" for name in measures)]))
    print(shown(f"{run.folder / 'ema.json'}; next: reverie report {quote(str(run.folder))}"))
