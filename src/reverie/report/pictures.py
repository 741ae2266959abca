"""The pictures of a report, drawn once from the run's checkpoint and kept in ``samples/report/``."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.files import write
from reverie.core.generator import Frame, Generator
from reverie.core.progress import Progress
from reverie.learn import grid
from reverie.measure.pictures import cut, sheet
from reverie.recipes import sources
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run
from reverie.recipes.telling import told
from reverie.solve.likelihood import bits_per_dimension, dequantise
from reverie.solve.maps import MADE

FOLDER = "samples/report"
COLUMNS = 10
ROWS = 6
MOMENTS = 8
FILMS = 2
MEASURED = 32
"""Pictures of either split whose likelihood is measured."""
VERSION = 7


@dataclass(frozen=True)
class Pictures:
    """8-bit pictures, (n, C, H, W) row by row.

    Attributes:
        samples: :data:`ROWS` rows; a class or a caption a column if there are any; none of a model that draws nothing.
        classes: index of each column's class; empty without classes.
        texts: what each column is told in words, or its class beside a map; empty for a model that is told neither.
        maps: what lies where, as each column is told; None for a model that is told no maps.
        sweep: a row of one sample a column for each of ``scales``; None for a model with no setting to show.
        sweep_title, sweep_text: what the sweep shows.
        scales: the names of its settings.
        film: for each of :data:`FILMS` samples a row of states and, where the model expects something, a row of what it expects; None for a
            model that draws in one go.
        logsnr: of the film's columns, infinite at pure noise and for the finished picture; None for states without a noise level.
        parameters: of the networks.
        likely: held-out pictures, from the likeliest to the least likely; None for a model that knows no likelihood, or without data.
        bits: bits per dimension of :data:`MEASURED` held-out pictures and of as many training pictures, the former sorted; else empty.
        bound: whether these are what a lower bound on the likelihood says, so that the model's own are at most as many.
    """

    samples: UInt8[Tensor, "n c h w"]
    classes: tuple[int, ...]
    texts: tuple[str, ...]
    maps: UInt8[Tensor, "j 3 h w"] | None
    sweep: UInt8[Tensor, "m c h w"] | None
    sweep_title: str
    sweep_text: str
    scales: tuple[str, ...]
    film: UInt8[Tensor, "k c h w"] | None
    logsnr: tuple[float | None, ...]
    parameters: int
    likely: UInt8[Tensor, "l c h w"] | None
    bits: tuple[tuple[float, ...], ...]
    bound: bool

    @property
    def columns(self) -> int:
        """Of samples and of the sweep."""
        return len(self.classes) or len(self.texts) or (COLUMNS if self.maps is None else len(self.maps))

    def heads(self, classes: Sequence[str]) -> list[str]:
        """What stands above the columns: names of classes, or texts."""
        return [classes[k] for k in self.classes] or list(self.texts)


def pictures(run: Run) -> Pictures:
    """The pictures of a run's checkpoint: those kept from an earlier report if they still fit, otherwise drawn now."""
    folder = run.path(FOLDER)
    kept = _kept(folder, _key(run))
    if kept is not None:
        return kept
    drawn = _draw(run)
    if not len(drawn.samples):
        return drawn
    for name in ("samples", "maps", "sweep", "film", "likely"):
        images = getattr(drawn, name)
        if images is not None:
            grid.save(sheet(images, _columns(drawn, name)), run.path(FOLDER, f"{name}.png"))
    facts = {
        name: getattr(drawn, name)
        for name in ("classes", "texts", "scales", "sweep_title", "sweep_text", "logsnr", "parameters", "bits", "bound")
    }
    size, facts["mapped"] = list(drawn.samples.shape[2:]), drawn.maps is not None
    write(run.path(FOLDER, "pictures.json"), json.dumps({"key": _key(run), "size": size, **facts}))
    return drawn


def _key(run: Run) -> dict[str, Any]:
    """What the pictures depend on."""
    return {
        "version": VERSION,
        "checkpoint": run.checkpoint.folder.name,
        "files": run.checkpoint.state.get("files"),
        "sample": asdict(run.recipe.sample),
    }


def _columns(drawn: Pictures, name: str) -> int:
    return {"film": MOMENTS, "likely": COLUMNS}.get(name, drawn.columns)


def _kept(folder: Path, key: object) -> Pictures | None:
    try:
        facts = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
        if facts["key"] != key:
            return None
        size = tuple(facts["size"])
        return Pictures(
            samples=cut(folder / "samples.png", size),
            classes=tuple(facts["classes"]),
            texts=tuple(facts["texts"]),
            maps=cut(folder / "maps.png", size) if facts["mapped"] else None,
            sweep=cut(folder / "sweep.png", size) if facts["scales"] else None,
            scales=tuple(facts["scales"]),
            sweep_title=facts["sweep_title"],
            sweep_text=facts["sweep_text"],
            film=cut(folder / "film.png", size) if facts["logsnr"] else None,
            logsnr=tuple(facts["logsnr"]),
            parameters=facts["parameters"],
            likely=cut(folder / "likely.png", size) if facts["bits"] else None,
            bits=tuple(map(tuple, facts["bits"])),
            bound=facts["bound"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@torch.no_grad()
def _draw(run: Run) -> Pictures:
    recipe, opened = run.recipe, run.open()
    try:
        generator = recipe.task.generator(opened, recipe.usual)
    except InputError:  # what is trained draws nothing by itself
        parameters = run.checkpoint.state.get("parameters", 0)
        nothing = torch.zeros(0, 1, 1, 1, dtype=torch.uint8)
        return Pictures(nothing, (), (), None, None, "", "", (), None, (), parameters, None, (), False)
    names = recipe.data.classes or ()
    asked, texts, maps = _asked(generator, recipe)
    classes = _spread(len(names), COLUMNS) if "label" in generator.conditions and maps is None else ()
    columns = len(classes) or len(texts) or (COLUMNS if maps is None else len(maps))
    asked = Cond(label=list(classes)) if classes else asked
    sweep = recipe.task.sweep(recipe.usual) if asked is not None else None
    settings = {} if sweep is None else sweep.settings
    total = columns * (ROWS + len(settings)) + FILMS
    with Progress("drawing the report's pictures", total, "pictures") as bar:
        parts = []
        for row in range(ROWS):
            rows = slice(row * columns, (row + 1) * columns)
            addresses = [(recipe.seed, i) for i in range(rows.start, rows.stop)]
            parts.append(grid.to_bytes(generator.sample(columns, asked, seed=addresses)))
            bar.advance(columns)
        swept = []
        for other in settings.values():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", MADE)
                images = recipe.task.generator(opened, other).sample(columns, asked, seed=recipe.seed)
            swept.append(grid.to_bytes(images))
            bar.advance(columns)
        film, logsnr = _film(generator, asked, recipe.seed)
        bar.advance(FILMS)
        likely, bits = _likelihood(generator, recipe)
    return Pictures(
        samples=torch.cat(parts),
        classes=classes,
        texts=texts,
        maps=maps,
        sweep=torch.cat(swept) if swept else None,
        sweep_title="" if sweep is None else sweep.title,
        sweep_text="" if sweep is None else sweep.text,
        scales=tuple(settings),
        film=film,
        logsnr=logsnr,
        parameters=sum(p.numel() for module in generator.modules().values() for p in module.parameters()),
        likely=likely,
        bits=bits,
        bound=generator.log_prob is None,
    )


def _asked(generator: Generator, recipe: Recipe) -> tuple[Cond | None, tuple[str, ...], Tensor | None]:
    """What a model that reads texts or is told maps is told in the columns, its words, and the maps to look at: those of held-out pictures,
    else of training pictures."""
    told_of = {"text": recipe.data.captions, "image": recipe.data.map_classes is not None}
    if not any(there and name in generator.conditions for name, there in told_of.items()):
        return None, (), None
    try:
        images = next(each for each in (sources.load(recipe, "test"), sources.load(recipe)) if len(each))
    except InputError:  # the run came without its data
        return None, (), None
    rows = _spread(len(images), COLUMNS)
    maps = None if images.layout is None else grid.to_bytes(images.layout.seen(torch.tensor(rows)))
    said: tuple[str, ...] = ()
    if images.captions is not None:
        said = tuple(images.captions.say(row) for row in rows)
    elif images.labels is not None and "label" in generator.conditions:
        said = tuple(images.classes[int(images.labels[row])] for row in rows)
    return told(generator, images, rows), said, maps


def _likelihood(generator: Generator, recipe: Recipe) -> tuple[Tensor | None, tuple[tuple[float, ...], ...]]:
    """Some held-out pictures from the likeliest to the least likely, their bits per dimension, and those of as many training pictures."""
    density = generator.log_prob or generator.log_prob_bound
    if density is None:
        return None, ()
    try:
        held_out, training = sources.load(recipe, "test"), sources.load(recipe, "train")
    except InputError:  # the run came without its data
        return None, ()
    if not len(held_out):
        return None, ()
    seen, bits = [], []
    for split in (held_out, training):
        chosen = torch.linspace(0, len(split) - 1, min(MEASURED, len(split))).long()
        batch = split.batch(chosen)
        cond = told(generator, split, chosen.tolist()) or (batch.cond if generator.conditions else None)
        nats = density(dequantise(batch.x, seed=recipe.seed), cond)
        seen.append(batch.x)
        bits.append(bits_per_dimension(nats, generator.shape).cpu())
    order = bits[0].argsort()
    columns = order[torch.linspace(0, len(order) - 1, min(COLUMNS, len(order))).long()]
    return grid.to_bytes(seen[0][columns]), (tuple(bits[0][order].tolist()), tuple(bits[1].sort().values.tolist()))


def _film(generator: Generator, asked: Cond | None, seed: int) -> tuple[Tensor | None, tuple[float | None, ...]]:
    """States and what the model expected at :data:`MOMENTS` − 1 moments, and the finished pictures last; None if it shows no steps."""
    cond = None if asked is None else asked.index(list(_spread(len(asked), FILMS + 1)[-FILMS:]))
    moments: list[tuple[Tensor, Tensor | None, float | None]] = []

    def keep(frame: Frame) -> None:
        expected = None if frame.estimate is None else grid.to_bytes(frame.estimate())
        moments.append((grid.to_bytes(frame.state()), expected, frame.logsnr))

    final = grid.to_bytes(generator.sample(FILMS, cond, seed=seed, on_step=keep))
    if not moments:
        return None, ()
    chosen = [moments[round(i * (len(moments) - 1) / (MOMENTS - 2))] for i in range(MOMENTS - 1)]
    rows = []
    for i in range(FILMS):
        rows += [state[i] for state, _, _ in chosen] + [final[i]]
        if all(expected is not None for _, expected, _ in chosen):
            rows += [expected[i] for _, expected, _ in chosen if expected is not None] + [final[i]]
    noisy = chosen[0][2] is not None
    return torch.stack(rows), (*(at for _, _, at in chosen), math.inf if noisy else None)


def _spread(n: int, most: int) -> tuple[int, ...]:
    """At most ``most`` of 0 … n − 1, evenly."""
    return tuple(range(n)) if n <= most else tuple(round(i * (n - 1) / (most - 1)) for i in range(most))
