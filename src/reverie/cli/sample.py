"""``reverie sample RUN``."""

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.evaluate import drawn_with
from reverie.cli.layouts import beside, mapped, told_boxes, told_in_regions
from reverie.cli.placing import Placing
from reverie.cli.steering import enlarged, hinted, shortlist, steered, vectors
from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError, nearest
from reverie.core.image_files import WRITTEN
from reverie.core.memory import afford
from reverie.core.names import GridName
from reverie.core.text import shown

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.core.condition import Cond
    from reverie.core.generator import Generator
    from reverie.core.noise import SampleSeed
    from reverie.recipes.drawn import Drawn
    from reverie.recipes.recipe import Recipe

STRIDE = 2**32
"""Between the seeds of the stages of a cascade."""
Side = Annotated[int, Bound(ge=1, le=65_536)]


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Draw pictures from a run. What is not given is as its recipe says. A PNG says how it was drawn, and --like draws it again.

    Attributes:
        run: folder of a run, or of one of its checkpoints; with like, in place of the one that drew the picture.
        like: a PNG that this command wrote: what is not given is as it was drawn, so that it is drawn again.
        label: what to draw: a class or several (7 or 0,1,2, by name or number), all, or none; dealt out in turn. All without.
        text: what to draw, in words, for a model of captions; several are dealt out in turn.
        negative: with text, what guidance leads away from.
        rerank: keep of several candidates for each picture the one that shows its text or class best, by a picture-text model: a run of the
            task towers, or a folder of transformers with a CLIP.
        candidates: with rerank, how many; 16 without.
        map: what is to lie where, for a model of maps (data.maps): a file as those that it learned from, or several, dealt out in turn.
        box: in place of map, where something is to be: CLASS:TOP,LEFT,BOTTOM,RIGHT in shares of the picture's height and width, such as
            heart:0.1,0.1,0.6,0.6; as often as wanted. A run of gligen that reads texts takes any words before the colon.
        region: with text, which the whole is told, another text in a part of the picture, as often as wanted: "a red heart=left.png" (a
            mask, white there) or "a dog=0,0.5,1,1" (top, left, bottom and right in shares of height and width).
        query: in place of text, for a run of rdm or unclip: a picture whose neighbours, or whose like, are drawn.
        prior: with text, for a run of unclip: the run of unclip-prior that draws the vector of a picture for it.
        n: how many pictures; without it 16, or the next multiple of the number of labels or texts.
        out: a picture file, which gets all in a grid, or a folder, which gets a file each; samples.png without, with like NAME-again.png
            beside it.
        steps: of the solver.
        solver: auto, stochastic, or one by name, such as ddim, dpmpp2, unipc3 or heun.
        grid: where the steps are taken.
        scale: guidance; 1 is the model as it is.
        temperature: below 1 pictures are less varied: of the noise that a diffusion model begins from, or of the tokens that are drawn.
        seed: picture i of a seed is the same whatever n is.
        image: a picture to start from.
        start: with image, the time to start from: near 0 keeps the picture, 1 forgets it; 0.6 without.
        guide: what else to guide by, as often as wanted: cfg:3 or apg:3 (by label, in place of scale), auto:RUN:2 (away from a weaker
            model: a smaller run, or an early checkpoint of this one), classifier:RUN:2 (towards a label that a noisy classifier sees),
            energy:lowres, energy:edges, energy:colours or energy:mask (towards a target), with a rate at the end if the default of 0.3
            is not right.
        hint: for a run of controlnet or sketch, a map of the size of the pictures to draw by, white on black, as often as wanted:
            edges.png, edges.png:0.5 (a weight), or RUN=shapes.png of another such run on the same model.
        then: a run of palette that has learned superres, which enlarges what was drawn, as often as wanted: RUN, or RUN:0.2 with that much
            noise added to what it is shown (0.1 without, where it was trained with --augment).
        target: the picture that energies compare with.
        mask: a picture of its size, white where energy:mask compares.
        adapter: of reverie adapt, peft or kohya, with a strength at the end if 1 is not right, as often as wanted: mine.safetensors:0.8, or
            the folder of its run; its tokens are further labels.
        anyway: also adapters of another base, whose shapes fit.
        delay: of adapters that show a subject (reverie adapt --encoder), the share of the steps, at the beginning, in which it is told by
            its word alone; as the encoder has it without.
        canvas: height and width of pictures larger than the model's, drawn by overlapping windows: for data that looks alike everywhere.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    like: Path | None = None
    label: str | None = None
    text: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT …")] = ()
    negative: str | None = None
    rerank: Path | None = None
    candidates: Annotated[int, Bound(ge=1, le=10_000)] | None = None
    map: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE …")] = ()
    box: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    region: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    query: Path | None = None
    prior: Path | None = None
    n: Annotated[int, Bound(ge=1, le=10**6)] | None = None
    out: Path | None = None
    steps: Annotated[int, STEPS] | None = None
    solver: str | None = None
    grid: GridName | None = None
    scale: float | None = None
    temperature: float | None = None
    seed: int = 0
    image: Path | None = None
    start: float | None = None
    guide: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    hint: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    then: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    target: Path | None = None
    mask: Path | None = None
    adapter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    anyway: bool = False
    delay: Annotated[float, Bound(ge=0, le=1)] | None = None
    canvas: tuple[Side, Side] | None = None


def main(arguments: list[str]) -> None:
    given, drawn = parse(Arguments, arguments, "sample"), None
    if given.like is not None:
        given, drawn = alike(given, arguments)
    if given.run is None:
        raise InputError(
            "name the run to draw from, reverie sample RUN, or a picture to draw again, --like samples.png"
        )
    if given.start is not None and given.image is None:
        raise InputError("--start says how far a given picture is kept: give the picture with --image")
    out = given.out or Path("samples.png")
    if out.suffix and out.suffix.lower() not in WRITTEN:
        raise InputError(f"--out is a file ending in {', '.join(WRITTEN)}, or a folder: got {out}")
    with given.joined() as writes:
        draw(given, drawn, given.run, out, writes)


def draw(given: Arguments, drawn: "Drawn | None", where: Path, out: Path, writes: bool) -> None:
    """Draw, with the other processes if there are any, and write the pictures if this is the process that does."""
    from reverie.core import processes
    from reverie.core.noise import sample_seeds
    from reverie.measure.reranking import chosen
    from reverie.recipes import drawn as text
    from reverie.recipes.adapting import adapted, knowing
    from reverie.recipes.guiding import labelled, scaled, teacher
    from reverie.recipes.measuring import scorer
    from reverie.solve import Sampler, sample

    run = given.open(where)
    if given.anyway and not given.adapter:
        raise InputError("--anyway is for an adapter of another base: give --adapter, or leave it out")
    if given.delay is not None and not given.adapter:
        raise InputError("--delay is for subjects that adapters show: give --adapter, or leave it out")
    changed = adapted(run, given.adapter, given.anyway, given.delay) if given.adapter else None
    recipe, teaching = run.recipe if changed is None else knowing(run.recipe, changed), teacher(given.guide)
    labels = choose(given.label, recipe if teaching is None or recipe.data.classes else teaching.recipe)
    if given.negative is not None and not given.text:
        raise InputError("--negative says what to lead away from: say with --text what to draw")
    if given.text and given.label is not None:
        raise InputError("--text and --label both say what to draw: give one of them")
    if given.query is not None and (given.text or given.label is not None):
        raise InputError("--query, --text and --label each say what to draw: give one of them")
    if given.prior is not None and not given.text:
        raise InputError("--prior draws the vector of a picture for a text: give --text")
    labels = None if given.text or given.query is not None else labels
    told, layouts = len(labels or given.text) or int(given.query is not None), mapped(given, recipe)
    each = max(1, told) * (1 if layouts is None else len(layouts))
    n = math.ceil(16 / each) * each if given.n is None else given.n
    if given.canvas is not None and given.image is not None:
        raise InputError("--image starts from a picture of the model's size: leave --canvas out")
    choosing = shortlist(given, bool(told))
    values = math.prod(run.spec.shape[:-2]) * math.prod(given.canvas or run.spec.shape[-2:])
    afford(4 * n * (choosing or 1) * values, f"--n {n}", "draw fewer at a time, each time with another --seed")
    bound = told > 0 or layouts is not None
    if not bound and given.scale is not None and given.scale != 1.0:
        raise InputError("--scale guides towards a label or a text: give --label or --text, or leave --scale out")
    if labelled(given.guide) and not bound:
        raise InputError("--guide cfg, apg and classifier guide towards a label or a text: give --label or --text")
    if scaled(given.guide) and given.scale is not None:
        raise InputError(
            "--guide cfg, apg, auto and classifier have a scale of their own, in place of --scale: leave that out"
        )
    asked = {key: getattr(given, key) for key in ("steps", "solver", "grid", "scale", "temperature")}
    if (not bound or scaled(given.guide)) and hasattr(recipe.usual, "scale"):
        asked["scale"] = 1.0
    was = recipe if drawn is None or type(drawn.recipe.sample) is not type(recipe.sample) else drawn.recipe
    config = drawn_with(replace(recipe, sample=was.sample), asked)
    opened = run.open() if changed is None else changed
    opened = told_boxes(given, opened, recipe) if recipe.task.maps == "boxes" else opened
    opened = told_in_regions(given, opened, recipe) if given.region else opened
    generator = hinted(given, opened, run, config) if given.hint else recipe.task.generator(opened, config)
    steers = bool(given.guide) or given.image is not None or given.canvas is not None
    if steers and not isinstance(generator, Sampler):
        raise InputError(f"--guide, --image and --canvas are for diffusion models: this is a run of {recipe.task.name}")
    if given.query is not None or given.prior is not None or (given.text and getattr(recipe.task, "embed", None)):
        cond = vectors(given, recipe, generator, n)
    else:
        cond = said(generator, given.text, given.negative, n) if given.text else condition(labels, n)
    if layouts is not None:
        cond = beside(cond, layouts[[i // max(1, told) % len(layouts) for i in range(n)]])
    seeds, bar = sample_seeds(given.seed, n), "sampling" if writes else None
    known = (recipe if recipe.data.classes else teaching.recipe).data.classes if labels else ()  # pyright: ignore
    names = [known[i] for i in labels or []] or given.text  # pyright: ignore[reportOptionalSubscript]

    def draw(some: "Cond | None", own: "list[SampleSeed]") -> "Tensor":
        if isinstance(generator, Sampler) and steers:
            return steered(given, generator.denoise, config, recipe, some, own, bar)
        return sample(generator, len(own), some, seed=own, progress=bar)

    def part(which: slice) -> "Tensor":
        some, own = None if cond is None else cond.index(which), seeds[which]
        if choosing is None or given.rerank is None:
            return draw(some, own)
        texts = [names[i % len(names)] for i in range(n)][which]
        return chosen(draw, some, own, texts, scorer(given.rerank, run.device), choosing)

    images = processes.drawn(n, part)
    if not writes:
        return
    for number, word in enumerate(given.then, 1):
        images = enlarged(given, images, word, given.seed + number * STRIDE)
    words, index = flags(replace(given, n=n)), None if drawn is None else drawn.index
    for path in write(images, out, names, lambda i: text.chunks(run, words, config, given.seed, i), index):
        print(shown(path))


def alike(given: Arguments, arguments: list[str]) -> "tuple[Arguments, Drawn]":
    """The arguments that drew the picture ``--like``, with the given ones on top, and what else it says."""
    from reverie.recipes.drawn import find, read

    assert given.like is not None
    drawn = read(given.like)
    out = given.out or given.like.with_name(f"{given.like.stem}-again.png")
    again = parse(Arguments, [*drawn.flags, *arguments], "sample")
    return replace(again, run=find(drawn, given.run), like=given.like, out=out), drawn


def flags(given: Arguments) -> list[str]:
    """What draws the same from the same run, in words of the command line."""
    from reverie.recipes.adapting import absolute

    words = ["--anyway"] if given.anyway else []
    for field in fields(given):
        value = getattr(given, field.name)
        if field.name in ("run", "like", "out", "anyway") or (value == field.default and field.name != "seed"):
            continue
        several = value if field.name in ("guide", "hint", "then", "adapter", "box", "region") else (value,)
        for each in several:
            each = absolute(each) if field.name == "adapter" else each
            parts = [
                part.absolute() if isinstance(part, Path) else part
                for part in (each if isinstance(each, tuple) else (each,))
            ]
            words += [f"--{field.name}={parts[0]}", *map(str, parts[1:])]
    return words


def choose(given: str | None, recipe: "Recipe") -> list[int] | None:
    """The class numbers that ``--label`` means; None for no label.

    Raises:
        InputError: for a label that is missing, unknown or out of range; it says which there are.
    """
    classes = recipe.data.classes
    if classes is None:
        if given in (None, "none"):
            return None
        raise InputError(f"this model was trained without labels: leave --label {given} out")
    count = len(classes)
    numbered = all(name == str(i) for i, name in enumerate(classes))
    there_is = f"0 to {count - 1}" if numbered else f"0 to {count - 1}: {_listed(classes)}"
    if given == "none":
        if not recipe.task.unlabelled:
            raise InputError(
                f"this model cannot draw without a label: give --label with one or more of {there_is}, or all"
            )
        return None
    if given in (None, "all"):
        return list(range(count))
    return [_number(word, classes, there_is) for word in _words(given, classes)]


def _words(given: str, classes: tuple[str, ...]) -> list[str]:
    """What stands between the commas; the name of a class that has commas itself is one word."""
    pieces, words = given.split(","), []
    while pieces:
        starts = [",".join(pieces[:n]) for n in range(len(pieces), 0, -1)]
        word = next((word for start in starts for word in (start, start.strip()) if word in classes), pieces[0].strip())
        words.append(word)
        del pieces[: word.count(",") + 1]
    return words


def _number(word: str, classes: tuple[str, ...], there_is: str) -> int:
    if word in classes:
        return classes.index(word)
    if word.lstrip("-").isdigit():
        if 0 <= int(word) < len(classes):
            return int(word)
        raise InputError(f"label {word} is out of range: there is {there_is}")
    raise InputError(f"unknown label {word!r}: there is {there_is}.{nearest(word, classes)}")


def _listed(classes: tuple[str, ...], most: int = 20) -> str:
    names = (repr(name) if "," in name else name for name in classes[:most])
    return ", ".join(names) + (f", … ({len(classes) - most} more)" if len(classes) > most else "")


def condition(labels: list[int] | None, n: int) -> "Cond | None":
    """The labels, dealt out in turn to n pictures."""
    from reverie.core.condition import Cond

    return None if labels is None else Cond(label=[labels[i % len(labels)] for i in range(n)])


def said(generator: "Generator", texts: Sequence[str], negative: str | None, n: int) -> "Cond":
    """The texts, dealt out in turn to n pictures; of one that is too long it is printed how much is read."""
    import torch

    from reverie.core.conditioner import conditioner_of

    with warnings.catch_warnings(record=True) as cut, torch.no_grad():
        warnings.simplefilter("always")
        cond = conditioner_of(generator)(text=list(texts), negative=negative)
    for warning in cut:
        print(shown(warning.message), file=sys.stderr)
    return cond.index([i % len(texts) for i in range(n)])


def write(
    images: "Tensor",
    out: Path,
    names: Sequence[str] = (),
    text: Callable[[int | None], dict[str, str] | None] = lambda i: None,
    only: int | None = None,
) -> list[str]:
    """One picture (C, H, W) as it is; of several one grid, a column a name if there are names, or a file each, or the picture ``only``.

    Args:
        text: what the picture of a number, or the grid of all (None), says of itself.

    Raises:
        InputError: when there is no picture ``only``.
    """
    from reverie.learn import grid

    if images.ndim == 3:
        grid.save(grid.to_picture(grid.to_bytes(images)), out, text(None))
        return [str(out)]
    if only is not None and only >= len(images):
        raise InputError(f"the picture was number {only} of those drawn: --n is more than that, got {len(images)}")
    if out.suffix and only is None:
        headings = names if len(names) > 1 else ()
        columns = len(headings) or math.ceil(math.sqrt(len(images)))
        grid.save(grid.tile(images, min(columns, len(images)), headings[: len(images)]), out, text(None))
        return [str(out)]
    if out.suffix and only is not None:
        grid.save(grid.to_picture(grid.to_bytes(images[only])), out, text(only))
        return [str(out)]
    for i in range(len(images)) if only is None else (only,):
        path = out / f"{i:0{max(4, len(str(len(images))))}d}.png"
        grid.save(grid.to_picture(grid.to_bytes(images[i])), path, text(i))
    return [f"{out}{os.sep}"]
