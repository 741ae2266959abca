"""The ablation of l-DAE: train the tokenizer and the network of each variant, read it by a linear probe, keep the figures.

Everything lies in one folder: ``spaces/`` with the tokenizers, a folder a variant with its checkpoints, ``NAME.json`` with the figures. The
same call again goes on where it stopped.
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reverie import data, read, spaces
from reverie.align import ldae
from reverie.align.ldae import Settings
from reverie.core import files
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.data import ImageSet
from reverie.diffusion.building import learn_space
from reverie.learn import TrainConfig
from reverie.measure import judge
from reverie.measure.config import JudgeConfig
from reverie.read.probes.probe import linear
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.serialisation import find
from reverie.recipes.serialisation import load as load_recipe
from reverie.recipes.training import train
from reverie.reproduce.ladder import Scale, Variant
from reverie.reproduce.learning import learn
from reverie.spaces.tokenizing import Discriminator, Tokenizing

CLEAN = 0.01
"""Time at which a network reads clean pictures: the paper's step 10 of 1,000."""


@dataclass(frozen=True)
class Figure:
    """Probing accuracy of a variant in percent, its standard error over the pictures scored, and the paper's figures."""

    name: str
    accuracy: float
    error: float
    paper: float | None = None
    fid: float | None = None


def ablation(
    variants: Iterable[tuple[Variant, Settings]],
    scale: Scale,
    out: Path,
    *,
    name: str = "ablation",
    source: str | None = None,
    seed: int = 0,
) -> list[Figure]:
    """Train and read every variant.

    Args:
        variants: what to train, see :mod:`reverie.reproduce.ladder`.
        scale: at which size.
        out: folder for all of it; the figures go to ``NAME.json`` in it.
        name: of the figures.
        source: data in place of the scale's.
        seed: of weights, order and noise.

    Returns:
        The variants, then the controls: random weights of the last variant's network, the pixels, and as many principal components of them
        as the network has features.

    Raises:
        InputError: when the data has no labels, or does not fit the scale.
        RunError: when training was interrupted; the same call goes on.
    """
    images, test = (
        data.load(scale.data if source is None else source, split, size=scale.size) for split in ("train", "test")
    )
    if images.labels is None or not len(test):
        raise InputError(
            f"{images.name} is read by its classes and scored on held-out pictures: use a folder with one sub-folder a class"
        )
    figures: list[Figure] = []
    last: NetDenoiser | None = None
    for variant, settings in variants:
        print(f"{variant.name}:", file=sys.stderr)
        space = tokenize(settings, scale, source or scale.data, images, test, files.inside(out, "spaces"), seed)
        last = network(settings, scale, space, images, seed)
        seen = images if settings.labels else images.without_labels()
        learn(last, ldae.task(settings, last), schedule(scale), seen, files.inside(out, slug(variant.name)), seed)
        figures.append(Figure(variant.name, *probe(last, settings, scale, images, test), variant.accuracy, variant.fid))
        files.write(out / f"{name}.json", json.dumps([asdict(f) for f in figures], indent=1))
    if last is not None:
        figures += controls(settings, scale, last, images, test, seed)
    files.write(out / f"{name}.json", json.dumps([asdict(f) for f in figures], indent=1))
    return figures


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def tokenize(
    settings: Settings, scale: Scale, source: str, images: ImageSet, test: ImageSet, folder: Path, seed: int
) -> spaces.Latent:
    """The tokenizer of a variant, made once for all that share it."""
    path = files.inside(folder, f"{settings.tokenizer}-{settings.dims}.safetensors")
    if path.exists():
        return spaces.load(path)
    if settings.tokenizer == "pca":
        space: spaces.Latent = spaces.PatchPCA.fit(images, scale.patch, settings.dims)
    else:
        kind = settings.tokenizer if settings.tokenizer.startswith("patch") else "conv-vae"
        config = spaces.SpaceConfig(name=kind, patch=scale.patch, dims=settings.dims, width=scale.tokenizer_width)  # pyright: ignore[reportArgumentType]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            space = spaces.build(config, images.channels)
        perceptual = None
        if settings.tokenizer == "vqgan":
            perceptual = _judge(scale, source, folder, seed).stages
        discriminator = Discriminator(images.channels) if settings.tokenizer in ("vqgan", "adversarial") else None
        task = Tokenizing(space, images, test, perceptual=perceptual, discriminator=discriminator)
        learn_space(task, images, scale.tokenizer_images, files.inside(folder, path.stem), seed)
    spaces.save(space, path)
    return spaces.load(path)


def _judge(scale: Scale, source: str, folder: Path, seed: int) -> judge.Judge:
    """The classifier in whose features the first tokenizer compares: trained on the labels, as the paper's VGG was."""
    count, data = scale.tokenizer_images, DataConfig(name=source, size=scale.size)
    config = replace(load_recipe(find("judge")).train, images=count, warmup=count // 10, save_every=count)
    run, _ = train(
        Recipe(name="judge", seed=seed, data=data, task=JudgeConfig(), train=config), files.inside(folder, "judge")
    )
    return run.open()


def network(settings: Settings, scale: Scale, space: spaces.Latent, images: ImageSet, seed: int) -> NetDenoiser:
    """The network of a variant, freshly initialised."""
    torch.manual_seed(seed)
    return ldae.build(settings, space, images.shape, scale.net, len(images.classes))


def schedule(scale: Scale) -> TrainConfig:
    """How each variant is trained."""
    return TrainConfig(images=scale.images, batch=scale.batch, lr=scale.lr, weight_decay=0.0, warmup=scale.warmup)


def probe(
    denoise: NetDenoiser, settings: Settings, scale: Scale, images: ImageSet, test: ImageSet
) -> tuple[float, float]:
    """Accuracy in percent, and its standard error, of a linear classifier of the middle features, averaged over the tokens.

    The middle is the output of the encoder, the first half of the blocks; the pictures are clean (section 5).
    """
    site, t = f"blocks.{scale.net.depth // 2 - 1}", settings.level or CLEAN
    (x, y), (x_test, y_test) = some(images, scale.train), some(test, scale.test)
    seen, new = (read.features(denoise, part, site, t=t, noise=None) for part in (x, x_test))
    return score(seen, y, new, y_test)


def some(images: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    some = images.batch(range(min(count, len(images))))
    x, y = some.x, some.label
    assert y is not None
    return x, y


def score(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> tuple[float, float]:
    """Accuracy of a linear probe in percent, and its standard error."""
    right = linear(x, y).accuracy(x_test, y_test)
    return 100.0 * right, 100.0 * (right * (1.0 - right) / len(y_test)) ** 0.5


@torch.no_grad()
def controls(
    settings: Settings, scale: Scale, last: NetDenoiser, images: ImageSet, test: ImageSet, seed: int
) -> list[Figure]:
    """What needs no training: a network that learned nothing, the pixels and their principal components.

    The gates of a DiT start at zero, so that its blocks do nothing: as a control they are drawn at random too.
    """
    assert isinstance(last.space, spaces.Latent)
    random = network(settings, scale, last.space, images, seed)
    for parameter in random.net.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    random.net.eval()
    (x, y), (x_test, y_test) = some(images, scale.train), some(test, scale.test)
    flat, flat_test = x.flatten(1), x_test.flatten(1)
    center = flat.mean(0)
    torch.manual_seed(seed)
    v = torch.pca_lowrank(flat - center, scale.net.width, niter=4)[2]
    return [
        Figure("random weights", *probe(random, replace(settings, level=None), scale, images, test)),
        Figure("pixels", *score(flat, y, flat_test, y_test)),
        Figure(f"{scale.net.width} components of the pixels", *score((flat - center) @ v, y, (flat_test - center) @ v, y_test)),
    ]  # fmt: skip
