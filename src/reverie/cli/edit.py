"""``reverie edit RUN PICTURE``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.invert import condition
from reverie.cli.placing import Placing
from reverie.cli.sample import write
from reverie.core.bounds import STEPS
from reverie.core.errors import InputError
from reverie.core.image_files import WRITTEN
from reverie.core.text import counted, shown

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.core.condition import Cond
    from reverie.core.denoiser import NetDenoiser
    from reverie.data import ImageSet
    from reverie.edit import Alignment, Inversion


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Change a picture as told, and keep the rest.

    Beside the edited picture, NAME-before-after.png shows it and what was given, side by side. A PNG says how it was made.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        picture: the picture, or a file of reverie invert.
        source: what the picture shows: a class by number or name, or a text; none without.
        target: what it is to become; for a run of instruct, what to do with it.
        method: edict without, that of the inversion, or instruct for a run of that; cycle, dds, edit_friendly, fixed_point, imagic,
            masactrl, masked, negative_prompt, null_text, ode, p2p, pix2pix_zero, plug_and_play, regularised or sdedit.
        mask: a picture of the same size, white where the picture may change; elsewhere every pixel stays.
        references: in place of a method, a folder of pictures of the same scene, by which what is white in the mask is filled.
        drag: in place of a method, y,x:y,x moves what is at the first place to the second, in pixels of the model.
        steps: of the solver.
        scale: of guidance towards the target; that of the recipe without.
        start: for sdedit, the time to noise to: near 0 keeps the picture, 1 forgets it.
        seed: of what is drawn.
        out: the edited picture.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    target: Annotated[str | None, tyro.conf.arg(name="to")] = None
    method: str | None = None
    mask: Path | None = None
    references: str | None = None
    drag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    steps: Annotated[int, STEPS] = 50
    scale: float | None = None
    start: float = 0.5
    seed: int = 0
    out: Path = Path("edited.png")


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "edit")
    if given.out.suffix.lower() not in WRITTEN:
        raise InputError(f"--out is a file ending in {', '.join(WRITTEN)}: got {shown(given.out)}")

    import torch

    from reverie.edit import Inversion, edit
    from reverie.edit.methods import chosen
    from reverie.learn import grid
    from reverie.recipes.drawn import chunks
    from reverie.recipes.sources import known, other, picture

    run = given.open(given.run)
    denoise, kept = run.denoiser(), given.picture.suffix == ".safetensors"
    source, target = (
        condition(words, flag, denoise, run.recipe)
        for words, flag in ((given.source, "--from"), (given.target, "--to"))
    )
    _, *size = denoise.space.data_shape(denoise.shape)
    size = (size[0], size[1])
    images = Inversion.load(given.picture) if kept else picture(given.picture, run.recipe, size).to(denoise.device)
    mask = None
    if given.mask is not None:
        mask = known(given.mask, None if kept else given.picture, run.recipe, "edited", size).to(denoise.device)
    before = images.images.to(denoise.device) if isinstance(images, Inversion) else images
    if given.drag:
        edited, cost = dragged(given, denoise, images, source, mask)
    elif given.references is not None:
        edited, cost = filled(given, denoise, before, source or target, mask, other(run.recipe, given.references))
    else:
        how = {"steps": given.steps, "scale": given.scale, "start": given.start, "seed": given.seed}
        done = edit(
            denoise, images, source, target, given.method, mask=mask, alignment=alignment(given, denoise), **how
        )
        edited, cost = (
            done.images,
            f"{done.evaluations:.0f} evaluations and {done.backwards:.0f} backward passes a picture",
        )
    code = images if isinstance(images, Inversion) else None
    named = "drag" if given.drag else "realfill" if given.references is not None else given.method
    method = named or chosen(denoise, code)
    settings = {"from": given.source, "to": given.target, "method": method}
    settings |= {name: getattr(given, name) for name in ("steps", "scale", "start")}
    text = chunks(run, flags(given), settings, given.seed, verb="edit")
    print(*map(shown, write(edited[0], given.out, text=lambda i: text)), sep="\n")
    both = given.out.with_name(f"{given.out.stem}-before-after.png")
    grid.save(grid.tile(torch.cat([before.to(edited), edited]), 1 + len(edited), ("before", "after")), both, text)
    print(shown(both))
    off = float((edited - before.to(edited)).square().mean().sqrt())
    print(f"differs from the picture by {off:.4f} rms, where black to white is 2; {cost}")


def alignment(given: Arguments, denoise: "NetDenoiser") -> "Alignment | None":
    """Which words of ``--from`` stand for which of ``--to``, for p2p on a model that reads texts."""
    from reverie.edit import aligned

    if given.method != "p2p" or denoise.conditioner.text is None or given.source is None or given.target is None:
        return None
    return aligned(given.source, given.target, denoise.conditioner)


def dragged(
    given: Arguments,
    denoise: "NetDenoiser",
    images: "Tensor | Inversion",
    source: "Cond | None",
    mask: "Tensor | None",
) -> "tuple[Tensor, str]":
    """The picture with ``--drag``, and what became of the handles."""
    from reverie.edit import Inversion, drag, inversion, paste

    code = images if isinstance(images, Inversion) else inversion.ode(denoise, images, source, given.steps)
    handles, targets = zip(*map(places, given.drag), strict=True)
    done = drag(denoise, code, handles, targets, mask=mask)
    ends = ", ".join(f"({y:g}, {x:g})" for y, x in done.handles)
    edited = done.images if mask is None else paste(done.images, code.images.to(done.images), mask)
    return edited, f"the handles ended at {ends} after {done.iterations} iterations"


def filled(
    given: Arguments,
    denoise: "NetDenoiser",
    images: "Tensor",
    cond: "Cond | None",
    mask: "Tensor | None",
    references: "ImageSet",
) -> "tuple[Tensor, str]":
    """The picture with what the references show in its hole."""
    from reverie.edit import realfill

    if mask is None:
        raise InputError(
            "references say what is behind a mask: give one, --mask, white where the picture is to be filled"
        )
    seen = references.batch(range(len(references))).x
    edited = realfill(denoise, images, mask, seen, cond, steps=given.steps, seed=given.seed)
    return edited, f"filled by {counted(len(seen), 'reference')}"


def places(words: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """``y,x:y,x`` as two places.

    Raises:
        InputError: for anything else.
    """
    try:
        (a, b), (c, d) = (map(float, place.split(",")) for place in words.split(":"))
    except ValueError:
        raise InputError(f"--drag is from:to, each y,x in pixels, such as 10,12:10,20: got {words!r}") from None
    return (a, b), (c, d)


def flags(given: Arguments) -> list[str]:
    """What edits the same again, in words of the command line, with the picture's file."""
    words = [str(given.picture.absolute())]
    for field in fields(given):
        value, name = getattr(given, field.name), {"source": "from", "target": "to"}.get(field.name, field.name)
        if field.name in ("run", "picture", "out") or value == field.default:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words.append(f"--{name}={each.absolute() if isinstance(each, Path) else each}")
    return words
