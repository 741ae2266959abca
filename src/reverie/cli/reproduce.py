"""``reverie reproduce PAPER``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound
from reverie.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reverie.reproduce.ddpm import Figure, Row


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train what a paper compares, variant by variant, and print what was measured beside the paper's figures; the same again goes on.

    Attributes:
        paper: l-dae, from a diffusion transformer to a denoising auto-encoder (Chen et al. 2024); ddpm, the mean or the noise predicted,
            by the bound or the simple loss (Ho et al. 2020, table 2).
        scale: small, some minutes a variant on a CPU; tiny, seconds, to see that it runs; paper, the paper's own size.
        data: a bundled set or a folder with a sub-folder a class, in place of the scale's.
        dims: of l-dae, in place of the ablation, every tokenizer at every number of dimensions.
        images: of the training of each variant, in place of the scale's.
        out: folder of all runs.
        seed: of weights, order and noise.
    """

    paper: Annotated[tyro.conf.Positional[Literal["l-dae", "ddpm"]], tyro.conf.arg(metavar="PAPER")]
    scale: Literal["tiny", "small", "paper"] = "small"
    data: str | None = None
    dims: bool = False
    images: Annotated[int, Bound(ge=1, le=10**12)] | None = None
    out: Path | None = None
    seed: int = 0

    def folder(self, source: str) -> Path:
        return self.out or Path("runs") / f"{self.paper}-{self.scale}-{Path(source).name}"


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "reproduce")
    (ldae if given.paper == "l-dae" else ddpm)(given)


def ldae(given: Arguments) -> None:
    from reverie.reproduce import ladder
    from reverie.reproduce.ablation import ablation

    scale = ladder.SCALES[given.scale]
    if given.images is not None:
        scale = replace(scale, images=given.images, warmup=min(scale.warmup, given.images))
    variants, name = (ladder.sweep(scale), "dims") if given.dims else (ladder.variants(scale), "ablation")
    source = given.data or scale.data
    out = given.folder(source)
    figures = ablation(variants, scale, out, name=name, source=given.data, seed=given.seed)
    show(figures, f"l-DAE on {Path(source).name}: linear probe, top-1 %", given.scale)
    print(f"the figures: {out / name}.json")


def ddpm(given: Arguments) -> None:
    from reverie.reproduce.ddpm import SCALES, run

    if given.dims:
        raise InputError("--dims is of l-dae: leave it out")
    scale = SCALES[given.scale]
    if given.images is not None:
        warmup = min(scale.train.warmup, given.images)
        scale = replace(scale, train=replace(scale.train, images=given.images, warmup=warmup))
    source = given.data or scale.data
    out = given.folder(source)
    figures = list(run(scale, out, source=given.data, seed=given.seed))
    show_ablation(figures, f"DDPM on {Path(source).name}: what is predicted, and by which loss", given.scale)
    print(f"the figures: {out / 'ablation.json'}")


def show(figures, title: str, scale: str) -> None:
    """Print figures as a table, the paper's beside ours."""
    caption = f"scale {scale}, ± one standard error; the paper's: ImageNet at 256 pixels"
    rows = []
    for f in figures:
        theirs = ["" if value is None else f"{value:.1f}" for value in (f.paper, f.fid)]
        rows.append((f.name, f"{f.accuracy:.1f}", f"{f.error:.1f}", *theirs))
    _print(title, caption, ("variant", "here", "±", "paper", "paper's FID"), rows)


PREDICTS = {"mean": "μ̃", "eps": "ε"}
LOSSES = {"learned": "L, learned diagonal Σ", "fixed": "L, fixed isotropic Σ", "simple": "squared error"}


def show_ablation(figures: "Sequence[tuple[Row, Figure]]", title: str, scale: str) -> None:
    """Print the ablation as a table, the paper's figures beside ours."""
    caption = f"scale {scale}; Fréchet distance in units of that of training pictures; the paper's: CIFAR-10"
    columns = ("predicts", "loss", "right class", "Fréchet", "bits/dim ≤", "±", "seconds", "paper's FID", "IS")
    rows = []
    for row, f in figures:
        theirs = ["–" if value is None else f"{value:.2f}" for value in (row.fid, row.inception)]
        accuracy = "" if f.accuracy is None else f"{100.0 * f.accuracy:.1f} %"
        frechet = "diverged" if f.frechet is None else f"{f.frechet:.1f}"
        ours = (accuracy, frechet, f"{f.bits:.2f}", f"{f.error:.2f}", f"{f.seconds:.0f}")
        rows.append((PREDICTS[row.predicts], LOSSES[row.loss], *ours, *theirs))
    _print(title, caption, columns, rows, words=2)


def _print(title: str, caption: str, columns: "Sequence[str]", rows: "Sequence[Sequence[Any]]", words: int = 1) -> None:
    """A table whose first columns are words, the others figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < words else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
