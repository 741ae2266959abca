"""``reverie convert FOLDER OUT``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a model to a new folder in diffusers' format, from which diffusers computes the same outputs.

    Of a run, the lines of Python that draw with it there are printed.

    Attributes:
        source: folder of a run, or of a pipeline in diffusers' format.
        out: the new folder.
        lora: adapters to merge on the way: files or folders in peft's or diffusers' format.
        scale: strength of the adapters.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    lora: tuple[Path, ...] = ()
    scale: float = 1.0


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "convert")
    from reverie import bridge
    from reverie.core.denoiser import NetDenoiser
    from reverie.core.errors import InputError
    from reverie.recipes.runs import Run, load

    model = load(given.source)
    if not isinstance(model, NetDenoiser):
        if bridge.is_folder(given.source):
            raise InputError(f"{given.source} holds an auto-encoder only, which is in diffusers' format already")
        task = Run(given.source).recipe.task.name
        raise InputError(
            f"{given.source} is a run of the task {task}, which gives a {type(model).__name__}: diffusers' format has no place for that, "
            "and takes diffusion models only (reverie train, of the task denoising)"
        )
    for path in given.lora:
        if not isinstance(model, bridge.Pretrained):
            raise InputError("adapters fit models in diffusers' format; this is a run")
        bridge.merge(model, path, given.scale)
    written = bridge.write(model, given.out)
    print(shown(written))
    if not isinstance(model, bridge.Pretrained) and "text" not in model.conditions:
        from reverie.bridge.using import lines

        how = {} if model.sampling is None else {"steps": model.sampling.steps, "scale": model.sampling.scale}
        print(f"\nIn diffusers:\n\n{lines(written, **how)}")
