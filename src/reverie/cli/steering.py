"""What ``reverie sample`` draws by besides its conditions: hints, guides, a picture to start from, the stages of a cascade."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.core.errors import InputError
from reverie.core.memory import afford
from reverie.diffusion.config import SampleConfig

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.cli.sample import Arguments
    from reverie.core.condition import Cond
    from reverie.core.denoiser import Denoiser
    from reverie.core.generator import Generator
    from reverie.core.noise import SampleSeed
    from reverie.recipes.recipe import Recipe
    from reverie.recipes.runs import Run

START = 0.6
"""The time that ``--image`` starts from."""


def hinted(given: "Arguments", opened: Any, run: "Run", config: SampleConfig) -> "Generator":
    """What draws by the maps ``--hint`` with the model that is opened.

    Raises:
        InputError: for a map of another size, a run that learned no hints, or one on another model.
    """
    from reverie.diffusion.control import Control
    from reverie.diffusion.sketch import BETA, Sketcher
    from reverie.recipes.sources import hint

    denoise = opened.base if isinstance(opened, Control | Sketcher) else opened
    for word in given.hint:
        name, _, rest = word.rpartition("=")
        file, weight = numbered(rest)
        learned = given.open(Path(name)).open() if name else opened
        if not isinstance(learned, Control | Sketcher):
            raise InputError(
                f"{name or run.folder} has learned no hints: train it with `reverie train controlnet --base RUN` or sketch, or name such "
                "a run before its hint, --hint RUN=FILE"
            )
        usual = 1.0 if isinstance(learned, Control) else BETA
        picture = hint(Path(file), run.recipe, learned.net.channels)
        denoise = learned(picture.to(denoise.device), usual if weight is None else weight, on=denoise)
    return run.recipe.task.generator(denoise, config)


def shortlist(given: "Arguments", told: bool) -> int | None:
    """How many candidates there are of each picture; None where nothing is chosen.

    Raises:
        InputError: for a number without what chooses, or a choice without what is to be shown.
    """
    if given.rerank is None:
        if given.candidates is not None:
            raise InputError(
                "--candidates are for --rerank, which chooses among them: give it a run of towers, or leave it out"
            )
        return None
    if not told:
        raise InputError("--rerank chooses by what is to be shown: give --text or --label")
    from reverie.measure.reranking import CANDIDATES

    return CANDIDATES if given.candidates is None else given.candidates


def vectors(given: "Arguments", recipe: "Recipe", generator: "Generator", n: int) -> "Cond":
    """What ``--text`` or ``--query`` ask of a model that is told vectors.

    Raises:
        InputError: for another model, or a picture of another size.
    """
    from reverie.recipes.asking import asked
    from reverie.recipes.sources import picture

    if given.negative is not None:
        raise InputError("--negative is for models that read texts themselves: this one is told vectors, leave it out")
    seen = None if given.query is None else picture(given.query, recipe)[0]
    prior = None if given.prior is None else str(given.prior)

    def load(run: str) -> Any:
        return given.open(Path(run)).open()

    return asked(recipe.task, generator, given.text, seen, n, load, prior, given.seed)


def numbered(word: str) -> tuple[str, float | None]:
    """``NAME:NUMBER`` apart, or ``NAME`` without one."""
    name, _, number = word.rpartition(":")
    try:
        return (name, float(number)) if name else (word, None)
    except ValueError:
        return word, None


def enlarged(given: "Arguments", images: "Tensor", word: str, seed: int) -> "Tensor":
    """What the stage ``--then`` makes of pictures.

    Raises:
        InputError: for a run that enlarges nothing, or draws other sizes.
    """
    from reverie.diffusion.building import solving
    from reverie.diffusion.cascade import enlarge
    from reverie.diffusion.conditioned import PaletteConfig

    name, level = numbered(word)
    run = given.open(Path(name))
    task = run.recipe.task
    if not isinstance(task, PaletteConfig) or task.op != "superres" or task.reference:
        raise InputError(
            f"{name} enlarges nothing: train a stage with `reverie train palette --op superres --factor 2 --augment`"
        )
    if (stage := math.prod(run.spec.shape)) != task.factor**2 * images[0].numel():
        raise InputError(
            f"{name} enlarges {task.factor} times to {'x'.join(map(str, run.spec.shape))}: what was drawn is "
            f"{'x'.join(map(str, images.shape[1:]))}"
        )
    afford(4 * len(images) * stage, f"--n {len(images)}", "draw fewer at a time, each time with another --seed")
    return enlarge(run.denoiser(), images, level=level, seed=seed, progress="enlarging", **solving(run.recipe.usual))


def steered(
    given: "Arguments",
    denoise: "Denoiser",
    config: SampleConfig,
    recipe: "Recipe",
    cond: "Cond | None",
    seeds: "list[SampleSeed]",
    bar: str | None,
) -> "Tensor":
    """Pictures drawn under ``--guide``, from ``--image``, on a ``--canvas``, one a seed."""
    from reverie.diffusion.building import solving
    from reverie.guide import windows
    from reverie.recipes.guiding import steer
    from reverie.recipes.sources import known, picture
    from reverie.solve import auto, sample

    target = None if given.target is None else picture(given.target, recipe)
    mask = None if given.mask is None else known(given.mask, given.target, recipe)
    source = None if given.image is None else picture(given.image, recipe).expand(len(seeds), -1, -1, -1)
    start = None if source is None else START if given.start is None else given.start
    guided = steer(denoise, given.guide, target, mask, given.open)
    denoise = guided.denoise
    if given.canvas is not None:
        if guided.correctors:
            raise InputError("energies compare with a target of the model's size: leave --canvas out")
        _, height, width = denoise.space.code_shape((recipe.data.channels or 1, *given.canvas))
        denoise = windows(denoise, (height, width))
    how = solving(config)
    temperature = how.pop("temperature")
    solver, how["grid"] = auto.choose(denoise, **how, whole=source is None)
    how |= {"solver": guided.correct(solver), "temperature": temperature if source is None else None}
    return sample(denoise, len(seeds), cond, seed=seeds, x=source, start=start, progress=bar, **how)
