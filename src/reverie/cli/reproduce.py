"""``reverie reproduce PAPER``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run the ablation of a paper, variant by variant, and print what was measured beside the paper's figures; the same again goes on.

    Attributes:
        paper: l-dae, from a diffusion transformer to a denoising auto-encoder (Chen et al. 2024).
        scale: small, some minutes a variant on a CPU; tiny, seconds, to see that it runs; paper, the paper's own size.
        data: a bundled set or a folder with a sub-folder a class, in place of the scale's.
        dims: in place of the ablation, every tokenizer at every number of dimensions.
        images: of the training of each variant, in place of the scale's.
        out: folder of all runs.
        seed: of weights, order and noise.
    """

    paper: Annotated[tyro.conf.Positional[Literal["l-dae"]], tyro.conf.arg(metavar="PAPER")]
    scale: Literal["tiny", "small", "paper"] = "small"
    data: str | None = None
    dims: bool = False
    images: Annotated[int, Bound(ge=1, le=10**12)] | None = None
    out: Path | None = None
    seed: int = 0


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "reproduce")
    from dataclasses import replace

    from reverie.reproduce import ladder
    from reverie.reproduce.ablation import ablation

    scale = ladder.SCALES[given.scale]
    if given.images is not None:
        scale = replace(scale, images=given.images, warmup=min(scale.warmup, given.images))
    variants, name = (ladder.sweep(scale), "dims") if given.dims else (ladder.variants(scale), "ablation")
    source = given.data or scale.data
    out = given.out or Path("runs") / f"{given.paper}-{given.scale}-{Path(source).name}"
    figures = ablation(variants, scale, out, name=name, source=given.data, seed=given.seed)
    show(figures, f"l-DAE on {Path(source).name}: linear probe, top-1 %", given.scale)
    print(f"the figures: {out / name}.json")


def show(figures, title: str, scale: str) -> None:
    """Print figures as a table, the paper's beside ours."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=f"scale {scale}, ± one standard error; the paper's: ImageNet at 256 pixels")
    for column in ("variant", "here", "±", "paper", "paper's FID"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for f in figures:
        theirs = ["" if value is None else f"{value:.1f}" for value in (f.paper, f.fid)]
        table.add_row(f.name, f"{f.accuracy:.1f}", f"{f.error:.1f}", *theirs)
    Console(width=100).print(table)
