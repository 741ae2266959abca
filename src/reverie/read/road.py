"""The road of l-DAE line by line, what the paper measured on it, and the sizes it can be walked at.

Chen et al. 2024 (arXiv:2401.14404), tables 1 to 5: linear probing of ImageNet (top-1, %) from the middle of a DiT-L after 400 epochs, and
Fréchet distance of samples where they print one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reverie.nets.config import CONFIGS
from reverie.read.ldae import Settings


@dataclass(frozen=True)
class Line:
    """A change of the line before it, and the paper's figures."""

    name: str
    change: Mapping[str, Any]
    accuracy: float | None = None
    fid: float | None = None


ROAD = (
    Line("DiT on VQGAN codes", {}, 57.5, 11.6),
    Line("without class labels", {"labels": False}, 62.5, 30.9),
    Line("without perceptual loss", {"tokenizer": "adversarial"}, 58.4, 54.3),
    Line("without adversarial loss", {"tokenizer": "conv-vae"}, 59.0, 75.6),
    Line("signal power falls linearly", {"path": "linear"}, 63.4, 93.2),
    Line("patch VAE", {"tokenizer": "patch-vae"}, 64.9),
    Line("patch AE", {"tokenizer": "patch-ae"}, 64.7),
    Line("patch PCA", {"tokenizer": "pca"}, 65.1),
    Line("predict clean codes", {"kind": "x0", "weight": "signal"}, 62.4),
    Line("no scaling of the input", {"path": "additive"}, 63.6),
    Line("picture in", {"sees": "picture"}, 63.6),
    Line("picture out", {"says": "picture"}, 63.9),
    Line("predict the original: l-DAE", {"target": "original"}, 64.5),
)
BESIDE = (Line("l-DAE, one noise level", {"level": 0.408}, 61.5),)
"""Changes of the last line. The paper's one level is printed as σ = 1/3, where a root sign may be lost; 0.408·√2 is √(1/3)."""
DIMS = {
    "conv-vae": {8: 54.5, 16: 63.4, 32: 62.8, 64: 57.0, 128: 48.1},
    "patch-vae": {8: 58.3, 16: 64.9, 32: 64.8, 64: 56.8},
    "patch-ae": {8: 59.9, 16: 64.7, 32: 64.6, 64: 59.9},
    "pca": {8: 56.0, 16: 63.4, 32: 65.1, 64: 60.0, 128: 53.9},
}
"""The paper's accuracy by tokenizer and numbers per code, out of 768 in a patch (their figure 5), on the fifth to eighth line."""


DIT: Any = CONFIGS["dit"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size to walk the road at.

    Attributes:
        data: a bundled set or a folder.
        size, patch: of the pictures and of the patch that a code stands for, in pixels.
        dims: numbers per code.
        sweep: numbers per code of the sweep.
        net: the transformer.
        images, batch, lr, warmup: of the training of each line.
        tokenizer_images, tokenizer_width: of the training of each tokenizer, and of the convolutional ones.
        train, test: pictures that the probe learns from and is scored on, at most.
    """

    data: str = "mnist5k"
    size: int = 16
    patch: int = 4
    dims: int = 4
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16)
    net: Any = field(default_factory=DIT)
    images: int = 12_000
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 1_200
    tokenizer_images: int = 3_000
    tokenizer_width: int = 8
    train: int = 10_000
    test: int = 10_000


SCALES = {
    "tiny": Scale(
        net=DIT(width=16, depth=2, heads=2), images=256, tokenizer_images=128, train=200, test=200,
    ),
    "small": Scale(net=DIT(width=64, depth=6, heads=4, activation="relu")),
    "paper": Scale(
        data="imagenet", size=256, patch=16, dims=32, sweep=(8, 16, 32, 64, 128), net=DIT(width=1024, depth=24, heads=16),
        images=400 * 1_281_167, batch=2048, lr=8e-4, warmup=100 * 1_281_167, tokenizer_images=10 * 1_281_167,
        tokenizer_width=128, train=1_281_167, test=50_000,
    ),
}  # fmt: skip
"""tiny: seconds, to see that it runs; small: a CPU; paper: theirs, on a folder of ImageNet (lr is 10⁻⁴ a batch of 256)."""


def lines(scale: Scale) -> Iterator[tuple[Line, Settings]]:
    """Every line with its settings, each the one before it with a change."""
    settings = Settings(dims=scale.dims)
    for line in ROAD:
        settings = replace(settings, **line.change)
        yield line, settings
    for line in BESIDE:
        yield line, replace(settings, **line.change)


def sweep(scale: Scale) -> Iterator[tuple[Line, Settings]]:
    """Every tokenizer without labels at every number of dimensions, on the path whose signal falls linearly (figure 5)."""
    shares = tuple(DIMS["pca"])
    for tokenizer, paper in DIMS.items():
        for dims, theirs in zip(scale.sweep, shares, strict=True):
            settings = Settings(tokenizer=tokenizer, dims=dims, labels=False, path="linear")  # pyright: ignore[reportArgumentType]
            yield Line(f"{tokenizer}, {dims} dims", {}, paper.get(theirs)), settings
