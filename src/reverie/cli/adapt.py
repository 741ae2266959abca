"""``reverie adapt RUN PICTURES``: a run of the task of a method, on the base of another run."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.adapt.config import METHODS as PLAIN
from reverie.adapt.encoder_config import EncodedConfig
from reverie.adapt.scene_config import SceneConfig
from reverie.cli.train import take
from reverie.core.errors import InputError, unknown
from reverie.core.text import shown
from reverie.recipes.recipe import DataConfig, Recipe, described

DEFAULT = "lora"
METHODS = {**PLAIN, SceneConfig.name: SceneConfig}
"""The settings of methods by name."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Teach a diffusion model, or one of tokens, a few pictures by a small adapter; the model itself stays. The result is a run: the same
    command resumes it, and its adapter.safetensors is what reverie sample RUN --adapter takes.

    --method NAME chooses how: lora without, or dreambooth, textual, xti, custom or svdiff; or scene, several things of one picture. Its own
    settings are flags, and so is any key of a recipe. With --encoder RUN training begins at what the encoder of a run (reverie train e4t)
    predicts of the pictures, and is a few steps; with --no-tune beside it that is the result.

    Attributes:
        run: folder of the run of the base, a diffusion model, maskgit or var; it comes first.
        pictures: folder of the pictures, three to five or more; or one picture.
        out: folder of the new run, runs/NAME-METHOD by default.
        fresh: start anew; the old run is renamed, not removed.
        budget: train for a time, such as 60s or 5m, in place of a number of images.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    pictures: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PICTURES")]
    out: Path | None = None
    fresh: bool = False
    budget: str | None = None
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    from reverie.adapt.applying import FILE
    from reverie.recipes.outlook import seconds
    from reverie.recipes.training import train

    if not Path(given.pictures).expanduser().exists():
        raise InputError(f"PICTURES is a folder of pictures to learn, or one: there is none at {shown(given.pictures)}")
    budget = None if given.budget is None else seconds(given.budget)
    task = given.recipe.task
    if isinstance(task, EncodedConfig) and not task.tune:
        if given.fresh or budget:
            raise InputError("--no-tune trains nothing: leave --fresh and --budget out")
        from reverie.recipes.adapting import encoded

        adapter, path = encoded(given.recipe, given.out)
        print(shown(f"{path}: {adapter}, {path.stat().st_size / 1e3:,.1f} kB"))
        print(shown(f"next: {task.next(str(path.parent), given.pictures)}"))
        return 0
    run, seen = train(given.recipe, given.out, given.fresh, budget)
    total, folder = run.recipe.train.images, str(run.folder)
    if seen < total:
        print(
            shown(f"stopped at {seen:,} of {total:,} images; go on with: reverie train {quote(folder)}"),
            file=sys.stderr,
        )
        return 130
    adapter = run.open()
    path = adapter.save(run.path(FILE))
    print(shown(f"{path}: {adapter}, {path.stat().st_size / 1e3:,.1f} kB"))
    print(shown(f"next: {run.recipe.task.next(folder, given.pictures)}"))
    return 0


def parse(arguments: list[str]) -> Arguments:
    """The run and the pictures first, then the method, then the flags that it has."""
    method, arguments = take("--method", arguments)
    encoded = any(word.split("=")[0] == "--encoder" for word in arguments)
    if encoded and method is not None:
        raise InputError("what an encoder predicts is trained as it is: give --encoder or --method")
    method = method or DEFAULT
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    config = EncodedConfig if encoded else METHODS[method]
    named = len(arguments) > 1 and not any(word.startswith("-") for word in arguments[:2])
    if not named and not {"-h", "--help"} & set(arguments):
        raise InputError(
            "the base's run and the folder of pictures come first: reverie adapt RUN PICTURES --token '<mine>'"
        )
    recipe = of(arguments[0], arguments[1], config) if named else Recipe(task=config())
    missing: str = tyro.MISSING  # pyright: ignore[reportAssignmentType]
    default = Arguments(
        run=arguments[0] if named else missing, pictures=arguments[1] if named else missing, recipe=recipe
    )
    return tyro.cli(
        Arguments, args=arguments, default=default, prog="reverie adapt", config=(tyro.conf.AvoidSubcommands,)
    )


def of(run: str, pictures: str, config: type) -> Recipe:
    """The recipe of an adapter: the pictures as the base takes them, and what the base's run says of its model.

    Raises:
        InputError: when there is no such run, or it trained no such model of its own data.
    """
    from reverie.diffusion.config import DenoisingConfig
    from reverie.diffusion.teacher import FromTeacher
    from reverie.families.token_config import MaskGITConfig, VARConfig
    from reverie.recipes.runs import Run

    base = Run(run)
    task = base.recipe.task
    model = task.model if isinstance(task, FromTeacher) else task
    if not isinstance(model, DenoisingConfig | MaskGITConfig | VARConfig):
        raise InputError(
            f"an adapter belongs to a diffusion model, or one of tokens (maskgit, var): {run} is a run of the task {task.name}"
        )
    data = base.recipe.data
    classes, length = described(data)
    own = config(run=str(base.folder), model=model, classes=classes, length=length)
    if isinstance(own, SceneConfig):
        own = replace(own, picture=str(Path(pictures).expanduser().absolute()), fit=data.fit)
    images = DataConfig(name=pictures, size=data.size, channels=data.channels, fit=data.fit, labels=False)
    where = Path(pictures).expanduser().absolute()
    name = f"{where.stem if where.is_file() else where.name}-{own.name}"
    train = replace(own.training(), device=base.recipe.train.device)
    return replace(Recipe(task=own), name=name, data=images, train=train)
