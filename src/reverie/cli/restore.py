"""``reverie restore RUN``."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.cli.sample import choose, condition, write
from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError
from reverie.core.image_files import WRITTEN
from reverie.core.memory import afford
from reverie.core.text import shown
from reverie.diffusion.conditioned import PaletteConfig

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.inverse.operators import Operator
    from reverie.recipes.recipe import Recipe
    from reverie.recipes.runs import Run

SHOWN = 8
"""Restorations that are shown beside what was given, at most."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Restore a picture that is damaged, small, blurred or grey, with a run as what is known of such pictures, or one that has learned to
    restore (`reverie train palette`), which knows its task and takes no method.

    Beside what is asked for, NAME-before-after.png shows what was given and what came of it, side by side.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        image: the picture as it is: with holes, small, blurred or grey.
        task: what happened to it; with a run of palette, what it has learned to restore.
        method: pigdm is the usual choice, and taken without; dps, reddiff, repaint or dflow.
        reference: for a run of palette with --reference, a second picture of what the image shows.
        mask: for inpaint and uncrop, a picture of the same size as the image is seen, white where it is known, and black or erased where it
            is to be filled.
        factor: for superres, how much larger it becomes; 4 without.
        blur: for deblur, the standard deviation of the blur in pixels of the model.
        noise: standard deviation of noise in the image, where black to white is 2.
        label: what the picture shows, by number or name, if it is known and the model draws by label.
        scale: guidance towards the label.
        n: how many restorations to draw.
        steps: evaluations of the network a picture, about; 100 without, or as the recipe of palette says.
        seed: restoration i of a seed is the same whatever n is.
        out: a picture file, which gets one, or several in a grid, or a folder, which gets a file each.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    image: Path
    task: Literal["inpaint", "superres", "deblur", "colourise"] | None = None
    method: str | None = None
    reference: Path | None = None
    mask: Path | None = None
    factor: Annotated[int, Bound(ge=1, le=1024)] | None = None
    blur: Annotated[float, Bound(gt=0, le=1000)] = 1.5
    noise: Annotated[float, Bound(ge=0)] = 0.0
    label: str = "none"
    scale: float = 1.0
    n: Annotated[int, Bound(ge=1, le=10**6)] = 1
    steps: Annotated[int, STEPS] | None = None
    seed: int = 0
    out: Path = Path("restored.png")


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "restore")
    if given.out.suffix and given.out.suffix.lower() not in WRITTEN:
        raise InputError(f"--out is a file ending in {', '.join(WRITTEN)}, or a folder: got {given.out}")

    import torch

    from reverie.learn import grid

    run = given.open(given.run)
    afford(
        4 * given.n * math.prod(run.spec.shape), f"--n {given.n}", "draw fewer at a time, each time with another --seed"
    )
    by = learned if isinstance(run.recipe.task, PaletteConfig) else inferred
    y, images, said = by(given, run)
    single = bool(given.out.suffix) and given.n == 1  # the restored picture itself, pixel for pixel
    print(*map(shown, write(images[0] if single else images, given.out)), sep="\n")
    both = given.out.with_name(f"{given.out.stem}-before-after.png")
    after = images[:SHOWN]
    shown_beside = torch.cat([before(y, after), after])
    grid.save(grid.tile(shown_beside, len(shown_beside), ("before", *["after"] * len(after))), both)
    print(shown(both))
    if said:
        print(said)


def inferred(given: Arguments, run: "Run") -> "tuple[Tensor, Tensor, str]":
    """What was given (1, …), its restorations (n, …) by a posterior method, and what they cost."""
    from reverie.inverse import restore

    if given.task is None:
        raise InputError("say what happened to the picture: --task inpaint, superres, deblur or colourise")
    if given.reference is not None:
        raise InputError("--reference is for a run of the task palette that was trained with one: leave it out")
    masked(given, given.task)
    labels = choose(given.label, run.recipe) if run.recipe.data.classes or given.label != "none" else None
    if labels is None and given.scale != 1.0:
        raise InputError("--scale guides towards a label: give --label, or leave --scale out")
    denoise = run.guided(1.0 if labels is None else given.scale)
    operator, y = measurement(given, given.task, 4 if given.factor is None else given.factor, run.recipe)
    restored = restore(
        denoise,
        operator,
        y.expand(given.n, *y.shape[1:]),
        given.method or "pigdm",
        noise=given.noise,
        cond=condition(labels, given.n),
        steps=given.steps or 100,
        seed=given.seed,
    )
    said = (
        f"differs from the measurement by {float(restored.consistency.square().mean().sqrt()):.4f} rms, where black to white is 2; "
        f"{restored.evaluations:.0f} evaluations and {restored.backwards:.0f} backward passes a picture"
    )
    return y, restored.images, said


def learned(given: Arguments, run: "Run") -> "tuple[Tensor, Tensor, str]":
    """The same by a run that has learned to restore."""
    from reverie.diffusion import palette
    from reverie.diffusion.building import solving
    from reverie.recipes.sources import known, picture

    task = run.recipe.task
    assert isinstance(task, PaletteConfig)
    plain = {field.name: field.default for field in fields(Arguments)}
    for flag in ("method", "factor", "blur", "noise", "label", "scale"):
        if getattr(given, flag) != plain[flag]:
            raise InputError(f"{given.run} has learned to restore, and takes no --{flag}: leave it out")
    if given.task not in (None, task.op):
        raise InputError(f"{given.run} has learned {task.op}: leave --task {given.task} out")
    if (given.reference is None) == task.reference:
        raise InputError(
            "this run is shown a second picture: give --reference"
            if task.reference
            else "this run was trained without a reference: leave --reference out"
        )
    masked(given, task.op)
    if task.op in palette.HOLES:
        assert given.mask is not None
        left = palette.holed(picture(given.image, run.recipe), known(given.mask, given.image, run.recipe))
        y = left.picture
    elif task.op == "jpeg":
        y = picture(given.image, run.recipe)
        left = palette.Shown(y)
    else:
        y = measurement(given, task.op, task.factor, run.recipe)[1]
        left = palette.grey(y) if task.op == "colourise" else palette.small(y, task.factor)
    sample = run.recipe.usual if given.steps is None else replace(run.recipe.usual, steps=given.steps)
    reference = None if given.reference is None else picture(given.reference, run.recipe)
    denoise = run.denoiser()
    images = palette.restore(
        denoise, left, given.n, reference=reference, seed=given.seed, progress="restoring", **solving(sample)
    )
    return y, images, ""


def masked(given: Arguments, task: str) -> None:
    """Raise an :class:`InputError` unless there is a mask where there are holes, and only there."""
    if (given.mask is None) == (task in ("inpaint", "uncrop")):
        raise InputError(
            "--mask goes with --task inpaint, and with uncrop: a picture of the image's size, white where it is known"
        )


def before(y: "Tensor", images: "Tensor") -> "Tensor":
    """The measurement (1, …) as a picture like ``images``: enlarged by repeating pixels, and in grey, where it is smaller or grey."""
    _, channels, height, width = images.shape
    y = y.repeat_interleave(height // y.shape[-2], -2).repeat_interleave(width // y.shape[-1], -1)
    return y.expand(1, channels, height, width).to(images)


def measurement(given: Arguments, task: str, factor: int, recipe: "Recipe") -> "tuple[Operator, Tensor]":
    """What happened to the picture, and the picture as its result, (1, …)."""
    from reverie.data import pixels
    from reverie.inverse import operators
    from reverie.recipes.sources import known, picture

    size, channels = recipe.data.size, recipe.data.channels
    assert size is not None and channels is not None
    if task == "inpaint":
        assert given.mask is not None
        image = picture(given.image, recipe)
        inpaint = operators.Inpaint(known(given.mask, given.image, recipe))
        return inpaint, inpaint(image)
    if task == "superres":
        small = operators.SuperResolution(factor)
        sides = pixels.sides(size)
        if any(side % factor for side in sides):
            raise InputError(
                f"--factor {factor} does not divide the model's {' x '.join(map(str, sides))} pixels: use a divisor"
            )
        return small, picture(given.image, recipe, size=(sides[0] // factor, sides[1] // factor))
    if task == "deblur":
        return operators.Blur.gaussian(given.blur), picture(given.image, recipe)
    if channels != 3:
        raise InputError(f"only models of colour pictures colourise: this one's have {channels} channel")
    return operators.Colourise(), picture(given.image, recipe, channels=1)
