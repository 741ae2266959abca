"""``reverie invert RUN PICTURE``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.cli.sample import choose
from reverie.core.bounds import STEPS
from reverie.core.errors import InputError
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.core.condition import Cond
    from reverie.core.denoiser import NetDenoiser
    from reverie.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Invert a picture: find what it is drawn from, and keep it in a file that reverie edit takes in place of the picture.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        picture: the picture.
        source: what it shows: a class by number or name, or a text; none without.
        method: edict is the usual choice; cycle, edit_friendly, fixed_point, negative_prompt, null_text, ode or regularised.
        steps: of the solver.
        scale: of guidance that edits decode with; that of the recipe without.
        out: the file, NAME.safetensors beside the picture without.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None
    method: str = "edict"
    steps: Annotated[int, STEPS] = 50
    scale: float | None = None
    out: Path | None = None


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "invert")
    out = given.out or given.picture.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"--out is a file ending in .safetensors: got {shown(out)}")

    from reverie.edit import invert, reconstruct
    from reverie.recipes.sources import picture

    run = given.open(given.run)
    denoise = run.denoiser()
    cond = condition(given.source, "--from", denoise, run.recipe)
    images = picture(given.picture, run.recipe).to(denoise.device)
    code = invert(denoise, images, cond, given.method, steps=given.steps, scale=given.scale)
    code.save(out)
    off = float((reconstruct(denoise, code).to(images) - images).square().mean().sqrt())
    print(shown(out))
    print(f"comes back to within {off:.4f} rms, where black to white is 2")
    if cond is not None and "label" in cond:
        classes = run.recipe.data.classes or ()
        other = classes[(int(cond["label"].value) + 1) % len(classes)]
        print(f"next: reverie edit {quote(str(given.run))} {quote(str(out))} --to {quote(other)}")


def condition(given: str | None, flag: str, denoise: "NetDenoiser", recipe: "Recipe") -> "Cond | None":
    """What ``--from`` or ``--to`` means to a model: a text if it reads texts, else one of its classes; None for none.

    Raises:
        InputError: for a class that it does not know, or several.
    """
    from reverie.core.condition import Cond

    if given in (None, "none"):
        return None
    if denoise.conditioner.text is not None:
        return denoise.conditioner(given)
    labels = choose(given, recipe)
    assert labels is not None
    if len(labels) != 1:
        raise InputError(f"{flag} is what one picture shows, one class: got {given}")
    return Cond(label=labels)
