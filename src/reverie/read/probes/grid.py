"""The grid: a probe at every site and noise level, from few labels, beside an untrained network and the pixels.

What a diffusion model knows lies in the middle of the network at little noise (Xiang et al. 2023, figure 2; Baranchuk et al. 2022,
figure 2), so a grid is read, not a cell. The best cell is chosen on one half of the held-out pictures and its accuracy measured on
the other: the best of many is too good on the pictures it was chosen by.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError, unknown
from reverie.core.files import write
from reverie.data import ImageSet
from reverie.read.extract import features, pooled
from reverie.read.maps import Noise, blocks
from reverie.read.probes import heads, probe
from reverie.read.store import Cell, Features, Kept
from reverie.spaces.latent import CHUNK, Latent

STEPS = 400
LEVELS = (8.0, 6.0, 4.0, 2.0, 0.0, -2.0, -5.0)
"""Log SNRs from nearly clean to nearly noise."""
CODE = "code"
"""What is read of a space."""
POOL, MAP = 2, 4
"""Places a side of the features of a probe, and of a head that looks at places."""


@dataclass(frozen=True)
class Grid:
    """Accuracies of probes by site, level and seed.

    Attributes:
        sites, levels, unit: rows and columns, and what the levels are ("logsnr" or "t").
        chosen_by: accuracy on the pictures that the best cell is chosen by, [site][level][seed].
        measured: accuracy on the others, alike.
    """

    sites: list[str]
    levels: list[float]
    unit: str
    chosen_by: list[list[list[float]]]
    measured: list[list[list[float]]]

    @property
    def best(self) -> Cell:
        """The cell that does best on the pictures to choose by."""
        rows = [(sum(s), i, j) for i, row in enumerate(self.chosen_by) for j, s in enumerate(row)]
        _, i, j = max(rows)
        return self.sites[i], self.levels[j]

    def at(self, cell: Cell) -> probe.Interval:
        """The accuracy of a cell on the pictures it was not chosen by, over seeds."""
        return probe.interval(self.measured[self.sites.index(cell[0])][self.levels.index(cell[1])])

    @property
    def score(self) -> probe.Interval:
        """The accuracy of the best cell."""
        return self.at(self.best)


@dataclass(frozen=True)
class Probed:
    """A grid with its controls: an untrained network of the same kind, and the pixels themselves.

    Attributes:
        data: what was classified.
        labels: how many labelled pictures a probe was fitted on.
        head: which probe.
        seeds: how many times, each with other labelled pictures and noise.
        classes: how many; the accuracy of guessing is one over it.
        pictures: how many held-out pictures in all.
        trained, untrained: the grids.
        pixels: accuracy of the probe on pixels, by seed.
        pool: places a side that the maps were averaged to.
    """

    data: str
    labels: int
    head: str
    seeds: int
    classes: int
    pictures: int
    trained: Grid
    untrained: Grid
    pixels: list[float]
    pool: int = 1

    def save(self, path: Path) -> None:
        write(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Probed:
        """What :meth:`save` wrote.

        Raises:
            InputError: when the file is something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            for name in ("trained", "untrained"):
                values[name] = Grid(**values[name])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no probe results: {error}") from error

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        (site, level), score, control = self.trained.best, self.trained.score, self.untrained.score
        pixels, gain = probe.interval(self.pixels), score.mean - control.mean
        name = "log SNR" if self.trained.unit == "logsnr" else "t"
        verdict = (
            f"{100 * gain:.1f} points above the best cell of an untrained network ({control})"
            if score.low > control.high
            else f"not clearly above the best cell of an untrained network ({control})"
        )
        return f"Best cell: {site} at {name} {level:g}, {score} right, {verdict}; pixels: {pixels}; guessing: {1 / self.classes:.1%}."


def run(
    model: NetDenoiser | Latent,
    train: ImageSet,
    test: ImageSet,
    *,
    labels: int = 300,
    seeds: int = 5,
    sites: Sequence[str] | None = None,
    logsnr: Sequence[float] | None = None,
    t: Sequence[float] | None = None,
    head: str = "linear",
    noise: Noise = "fresh",
    cond: Cond | None = None,
    pool: int | None = None,
    pictures: int = 1000,
) -> Probed:
    """Probe every cell, and do the same to an untrained network and to the pixels.

    Args:
        model: what to read: a denoiser, or the codes of a space, a grid of one cell.
        train: labelled pictures, of which a probe sees ``labels``.
        test: labelled pictures held out.
        labels: labelled pictures in all, classes balanced.
        seeds: repetitions with other labelled pictures and noise.
        sites, logsnr, t: the grid; every block and :data:`LEVELS` by default.
        head: "linear" (to its optimum), "knn", or "mlp", "conv", "attention" (trained in one sweep).
        noise, cond: as in :func:`reverie.read.features`.
        pool: places a side that maps are averaged to; :data:`POOL` by default, :data:`MAP` for the heads that look at places. A mean
            over the whole map (1, as in the papers) is for networks with many channels: of a small one it leaves too little.
        pictures: at most so many held-out ones.

    Raises:
        InputError: for data without labels, more classes than labels, an unknown site or head, or too few pictures.
    """
    if head not in (*heads.HEADS, "knn"):
        raise unknown("head", head, [*heads.HEADS, "knn"])
    if train.labels is None or test.labels is None:
        raise InputError(f"{train.name} has no labels to probe for: give pictures in one folder a class")
    if len(test) < 2:
        raise InputError(f"{test.name} holds out {len(test)} pictures: add pictures, so that some can be held out")
    if seeds < 1:
        raise InputError(f"seeds is how many repetitions, at least 1: got {seeds}")
    classes = len(train.classes) or int(train.labels.max()) + 1
    held = probe.few(test.labels, min(pictures, len(test)), seed=0) if len(test) > pictures else torch.arange(len(test))
    held = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(0))]
    known = [probe.few(train.labels, labels, seed) for seed in range(seeds)]
    levels = {"t": t} if t is not None else {"logsnr": list(LEVELS if logsnr is None else logsnr)}
    if isinstance(model, Latent):
        if sites is not None or logsnr is not None or t is not None:
            raise InputError("a space is read at its code, without noise: leave sites, logsnr and t out")
        levels = {"t": [0.0]}
    else:
        sites = blocks(model) if sites is None else list(sites)
    if pool is None:
        pool = MAP if head in ("conv", "attention") else POOL

    def grid(model: Denoiser | Latent) -> Grid:
        def look(images: ImageSet, rows: Tensor, seed: int) -> Features:
            if isinstance(model, Latent):
                return codes(model, _Some(images, rows), pool)
            return features(model, _Some(images, rows), sites, noise=noise, cond=cond, pool=pool, seed=seed, **levels)  # pyright: ignore[reportCallIssue, reportArgumentType, reportReturnType]

        assert train.labels is not None and test.labels is not None
        asked = look(test, held, seeds)
        found: dict[Cell, list[Tensor]] = {cell: [] for cell in asked}
        for seed, rows in enumerate(known):
            logits = predict(look(train, rows, seed), train.labels[rows], asked, classes, head, seed)
            for cell, value in logits.items():
                found[cell].append((value.argmax(1) == test.labels[held]).double())
        return _grid(asked, found, next(iter(levels)))

    trained, control = grid(model), grid(drawn_anew(model) if isinstance(model, Latent) else untrained(model))
    asked, truth, pixels = test.batch(held).x, test.labels[held], []
    for rows in known:
        pixels.append(_pixels(train.batch(rows).x, train.labels[rows], asked, truth, classes, head))
    return Probed(train.name, labels, head, seeds, classes, len(held), trained, control, pixels, pool)


def _pixels(known: Tensor, labels: Tensor, asked: Tensor, truth: Tensor, classes: int, head: str) -> float:
    """Accuracy of the pixels on the second half of the pictures. The penalty is chosen on the first, as the best cell is."""
    half = len(asked) // 2
    if head == "knn":
        return probe.accuracy(probe.neighbours(known, labels, asked[half:], classes=classes), truth[half:])
    return probe.tuned(known, labels, (asked[:half], truth[:half]), classes).accuracy(asked[half:], truth[half:])


def probed_once(known: Tensor, labels: Tensor, asked: Tensor, classes: int, head: str) -> Tensor:
    """Logits of a linear or nearest-neighbour probe."""
    if head == "knn":
        return probe.neighbours(known, labels, asked, classes=classes)
    return probe.linear(known, labels, classes).logits(asked)


def predict(
    known: Features, labels: Tensor, asked: Features, classes: int, head: str = "linear", seed: int = 0
) -> dict[Cell, Tensor]:
    """Fit a probe on every cell and ask it: logits (M, classes) by cell.

    Args:
        known: features of the labelled pictures.
        labels: (N,).
        asked: features of the others, of the same cells.
        classes: how many there are.
        head: as in :func:`run`.
        seed: of the heads that are trained step by step.
    """
    if head in ("linear", "knn"):
        return {cell: probed_once(known[cell], labels, asked[cell], classes, head) for cell in known}
    values = {cell: _square(known[cell]) for cell in known}
    centre = {cell: value.mean((0, 2, 3), keepdim=True) for cell, value in values.items()}
    spread = {cell: value.std((0, 2, 3), keepdim=True) + 1e-6 for cell, value in values.items()}
    values = {cell: (value - centre[cell]) / spread[cell] for cell, value in values.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {cell: heads.build(head, value.shape[1], value.shape[2], classes) for cell, value in values.items()}
    batches = heads.shuffled(values, labels, 64, seed)
    heads.fit(built, islice(batches, STEPS), STEPS)
    with torch.no_grad():
        return {cell: net((_square(asked[cell]) - centre[cell]) / spread[cell]) for cell, net in built.items()}


@torch.no_grad()
def codes(space: Latent, images: _Some, pool: int) -> Features:
    """The codes of pictures as features of one cell."""
    device = next((value.device for value in space.state_dict().values()), None)
    kept, pool = Kept([(CODE, 0.0)], len(images)), min(pool, *space.code_shape(images.shape)[1:])
    rows = [range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK)]
    kept.write(
        range(len(images)),
        ((part, {(CODE, 0.0): pooled(space.encode(images.batch(part).x.to(device)), pool).cpu()}) for part in rows),
    )
    return kept


def untrained(denoise: NetDenoiser, seed: int = 0) -> NetDenoiser:
    """The same network with every parameter drawn anew, also those that training starts at zero, so that every branch takes part.

    What an untrained network of the same kind reads off is the control of every reading: convolutions at random are good features.
    """
    other = copy.copy(denoise)
    other.net = drawn_anew(denoise.net, seed)
    return other


N = TypeVar("N", bound=nn.Module)


def drawn_anew(net: N, seed: int = 0) -> N:
    """A copy of a network with all parameters drawn anew."""
    net = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    nn.init.normal_(parameter, std=0.02)
    return net


class _Some:
    """Chosen rows of a data set, as a data set to read."""

    def __init__(self, images: ImageSet, rows: Tensor) -> None:
        self.images, self.rows, self.name, self.shape = images, rows, images.name, images.shape

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        return self.images.batch(self.rows[torch.as_tensor(positions, dtype=torch.int64)])


def _square(value: Tensor) -> Tensor:
    return value[:, :, None, None] if value.ndim == 2 else value


def _grid(asked: Features, right: dict[Cell, list[Tensor]], unit: str) -> Grid:
    half = len(next(iter(right.values()))[0]) // 2

    def table(part: slice) -> list[list[list[float]]]:
        return [[[float(r[part].mean()) for r in right[s, at]] for at in asked.levels] for s in asked.sites]

    return Grid(asked.sites, asked.levels, unit, table(slice(None, half)), table(slice(half, None)))
