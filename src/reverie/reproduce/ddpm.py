"""DDPM's ablation (Ho et al. 2020, table 2): what the network predicts, μ̃ or ε, and by which loss it is trained.

Everything lies in one folder: ``settings.json``, a folder a row with its checkpoints and ``figure.json``, and ``ablation.json`` with all
figures. The same call again goes on where it stopped.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from reverie import data, guide, nets
from reverie.core import files
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError, RunError
from reverie.core.paths import Table
from reverie.core.predictions import kind, mean
from reverie.core.task import Task
from reverie.core.times import Steps
from reverie.data import ImageSet
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.vlb import VLB, OnChain
from reverie.learn import TrainConfig
from reverie.measure.evaluation import evaluate
from reverie.nets.config import NetConfig
from reverie.nets.presets import DDPM as NETWORK
from reverie.nets.presets import DDPM_SMALL as SMALL
from reverie.recipes.measuring import extractor
from reverie.reproduce.learning import learn
from reverie.solve import DDPM, Sampler, grids


@dataclass(frozen=True)
class Row:
    """A row of the table and the paper's figures, CIFAR-10's inception score and Fréchet distance; they have none where training was
    unstable and samples were poor."""

    predicts: Literal["mean", "eps"]
    loss: str
    inception: float | None = None
    fid: float | None = None

    @property
    def name(self) -> str:
        return f"{self.predicts}-{self.loss}"


ROWS = (
    Row("mean", "learned", 7.28, 23.69),
    Row("mean", "fixed", 8.06, 13.22),
    Row("mean", "simple"),
    Row("eps", "learned"),
    Row("eps", "fixed", 7.67, 13.51),
    Row("eps", "simple", 9.46, 3.17),
)
"""learned and fixed: the bound L with a learned diagonal and with the small isotropic variance, t uniform; simple: the squared error of the
prediction."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size to run the ablation at.

    Attributes:
        data: a bundled set or a folder.
        net: the network.
        train: its training.
        levels: β of the table, in training as in drawing: μ̃ is the mean of one move. They grow as their number falls.
        n: pictures drawn.
        passes: estimates of the bound of each held-out picture, of two evaluations.
    """

    data: str = "mnist5k"
    net: NetConfig
    train: TrainConfig
    levels: int
    n: int
    passes: int

    @property
    def path(self) -> Table:
        """The paper's linear table, or one of as much noise in fewer moves."""
        factor = 1000 / self.levels
        return Table.linear(self.levels, 1e-4 * factor, 0.02 * factor)


MUON = partial(TrainConfig, batch=32, optimizer="muon", lr=0.02, weight_decay=0.0, decay="linear")
SCALES = {
    "tiny": Scale(
        net=replace(SMALL, width=8, multipliers=(1,), attention=()), train=MUON(images=256, warmup=64), levels=60, n=20, passes=1,
    ),
    "small": Scale(net=SMALL, train=MUON(images=48_000, warmup=1_600), levels=100, n=400, passes=4),
    "paper": Scale(
        data="cifar10", net=NETWORK, levels=1000, n=50_000, passes=16,
        train=TrainConfig(
            images=800_000 * 128, batch=128, lr=2e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=5_000 * 128, decay="constant",
            ema_half_life=887_000,
        ),
    ),
}  # fmt: skip
"""tiny: seconds, to see that it runs; small: a CPU; paper: theirs, on CIFAR-10 as `reverie prefetch` brings it."""


@dataclass(frozen=True)
class Figure:
    """What was measured of a row.

    Attributes:
        accuracy: share of the pictures drawn that the judge sees the right class in; None without a judge of the data.
        frechet: Fréchet distance to the held-out pictures, in units of that of training pictures; None where drawing diverged, or
            fewer pictures are drawn than there are features.
        bits, error: the bound on held-out pictures in bits per dimension, and the standard error of their mean.
        seconds: of training.
    """

    name: str
    accuracy: float | None
    frechet: float | None
    bits: float
    error: float
    seconds: float


def run(
    scale: Scale, out: Path, *, source: str | None = None, seed: int = 0, rows: Sequence[Row] = ROWS
) -> Iterator[tuple[Row, Figure]]:
    """Train, draw and measure row after row, by class.

    Args:
        scale: at which size.
        out: folder for all of it.
        source: data in place of the scale's.
        seed: of weights, order and noise.
        rows: which ones.

    Raises:
        InputError: when the data holds out no pictures, nothing can measure it, or the folder is of other settings.
        RunError: when training was interrupted; the same call goes on.
    """
    scale = scale if source is None else replace(scale, data=source)
    train, test = (data.load(scale.data, split) for split in ("train", "test"))
    looks = extractor(scale.data, train, None)
    _begin(out, {**asdict(scale), "seed": seed})
    figures: dict[str, Any] = {}
    for row in rows:
        path = out / row.name / "figure.json"
        if path.exists():
            figure = Figure(**json.loads(path.read_text()))
        else:
            print(f"{row.name}:", file=sys.stderr)
            denoise = network(row, scale, train, seed)
            seconds = learn(denoise, objective(denoise, row, scale), scale.train, train, out / row.name, seed)
            try:
                evaluation, _ = evaluate(sampler(denoise, row, scale), train, test, looks, n=scale.n, seeds=(seed,))
                drawn = (evaluation.figure(measure) for measure in ("accuracy", "frechet_ratio"))
            except RunError as error:  # the pictures are not finite
                print(error, file=sys.stderr)
                drawn = (None, None)
            accuracy, frechet = (None if figure is None else figure.value for figure in drawn)
            figure = Figure(row.name, accuracy, frechet, *bound(denoise, test, scale.passes, seed), seconds)
            files.write(path, json.dumps(asdict(figure), indent=1))
        figures[row.name] = asdict(figure)
        files.write(out / "ablation.json", json.dumps(figures, indent=1))
        yield row, figure


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """The folder of such settings, new or begun."""
    path, text = out / "settings.json", json.dumps(settings, indent=1)
    if path.exists() and path.read_text() != text:
        raise InputError(f"{out} was begun with other settings, see {path}: take another --out")
    out.mkdir(parents=True, exist_ok=True)
    files.write(path, text)


def network(row: Row, scale: Scale, images: ImageSet, seed: int) -> NetDenoiser:
    """The network of a row, freshly initialised."""
    learned, path = row.loss == "learned", scale.path
    classes = None if images.labels is None else len(images.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = replace(scale.net, learn_sigma=learned)  # pyright: ignore[reportCallIssue]
        net = nets.build(config, channels=images.channels, size=images.shape[1:], classes=classes)
    predicts = mean(path, scale.levels) if row.predicts == "mean" else kind("eps")
    return NetDenoiser(net, path, predicts, shape=images.shape, learned_variance=learned)


def objective(denoise: NetDenoiser, row: Row, scale: Scale) -> Task:
    """What trains a row."""
    if row.loss == "simple":
        return Denoising(denoise, Steps(scale.levels), drop=0.0)
    return VLB(denoise, importance=False, drop=0.0)


def sampler(denoise: NetDenoiser, row: Row, scale: Scale) -> Sampler:
    """Ancestral sampling with the variance of training. As in the authors' code, x0 is cut to [−1, 1] where ε is predicted; the predicted
    μ̃ is taken as it is."""
    drawn = denoise if row.predicts == "mean" else guide.threshold(denoise, quantile=0.0)
    return Sampler(drawn, DDPM("learned" if row.loss == "learned" else "small"), scale.levels, grids.time())


def bound(denoise: NetDenoiser, test: ImageSet, passes: int, seed: int) -> tuple[float, float]:
    """Bits per dimension of the bound over the chain, mean over held-out pictures, and its standard error."""
    task, n, each = OnChain(denoise), len(test), []
    for first in range(0, n, 250):
        batch = test.batch(range(first, min(first + 250, n)))
        draws = (Draws(seed, first + n * k, len(batch)) for k in range(passes))
        each.append(torch.stack([task.bound(batch, rng) for rng in draws]).mean(0))
    bits = torch.cat(each).double()
    return float(bits.mean()), float(bits.std() / n**0.5)
