"""The ablation of l-DAE variant by variant, what the paper measured of each, and the sizes at which it can be run.

Chen et al. 2024 (arXiv:2401.14404), tables 1 to 5: linear probing of ImageNet (top-1, %) from the middle of a DiT-L after 400 epochs, and
Fréchet distance of samples where they print one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reverie.align.ldae import Settings
from reverie.nets.presets import LDAE


@dataclass(frozen=True)
class Variant:
    """A change of the variant before it, and the paper's figures."""

    name: str
    change: Mapping[str, Any]
    accuracy: float | None = None
    fid: float | None = None


LADDER = (
    Variant("DiT on VQGAN codes", {}, 57.5, 11.6),
    Variant("without class labels", {"labels": False}, 62.5, 30.9),
    Variant("without perceptual loss", {"tokenizer": "adversarial"}, 58.4, 54.3),
    Variant("without adversarial loss", {"tokenizer": "conv-vae"}, 59.0, 75.6),
    Variant("signal power falls linearly", {"path": "linear"}, 63.4, 93.2),
    Variant("patch VAE", {"tokenizer": "patch-vae"}, 64.9),
    Variant("patch AE", {"tokenizer": "patch-ae"}, 64.7),
    Variant("patch PCA", {"tokenizer": "pca"}, 65.1),
    Variant("predict clean codes", {"kind": "x0", "weight": "signal"}, 62.4),
    Variant("no scaling of the input", {"path": "additive"}, 63.6),
    Variant("picture in", {"sees": "picture"}, 63.6),
    Variant("picture out", {"says": "picture"}, 63.9),
    Variant("predict the original: l-DAE", {"target": "original"}, 64.5),
)
BESIDE = (Variant("l-DAE, one noise level", {"level": 0.408}, 61.5),)
"""Changes of the last variant. The paper's one level is printed as σ = 1/3, where a root sign may be lost; 0.408·√2 is √(1/3)."""
DIMS = {
    "conv-vae": {8: 54.5, 16: 63.4, 32: 62.8, 64: 57.0, 128: 48.1},
    "patch-vae": {8: 58.3, 16: 64.9, 32: 64.8, 64: 56.8},
    "patch-ae": {8: 59.9, 16: 64.7, 32: 64.6, 64: 59.9},
    "pca": {8: 56.0, 16: 63.4, 32: 65.1, 64: 60.0, 128: 53.9},
}
"""The paper's accuracy by tokenizer and numbers per code, out of 768 in a patch (their figure 5), on the fifth to eighth variant."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size to run the ablation at.

    Attributes:
        data: a bundled set or a folder.
        size, patch: of the pictures and of the patch that a code stands for, in pixels.
        dims: numbers per code.
        sweep: numbers per code of the sweep.
        net: the transformer.
        images, batch, lr, warmup: of the training of each variant.
        tokenizer_images, tokenizer_width: of the training of each tokenizer, and of the convolutional ones.
        train, test: pictures that the probe learns from and is scored on, at most.
    """

    data: str = "mnist5k"
    size: int = 16
    patch: int = 4
    dims: int = 4
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16)
    net: Any = LDAE["small"]
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
        net=LDAE["tiny"], images=256, tokenizer_images=128, train=200, test=200,
    ),
    "small": Scale(),
    "paper": Scale(
        data="imagenet", size=256, patch=16, dims=32, sweep=(8, 16, 32, 64, 128), net=LDAE["paper"],
        images=400 * 1_281_167, batch=2048, lr=8e-4, warmup=100 * 1_281_167, tokenizer_images=10 * 1_281_167,
        tokenizer_width=128, train=1_281_167, test=50_000,
    ),
}  # fmt: skip
"""tiny: seconds, to see that it runs; small: a CPU; paper: theirs, on a folder of ImageNet (lr is 10⁻⁴ a batch of 256)."""


def variants(scale: Scale) -> Iterator[tuple[Variant, Settings]]:
    """Every variant with its settings, each the one before it with a change."""
    settings = Settings(dims=scale.dims)
    for variant in LADDER:
        settings = replace(settings, **variant.change)
        yield variant, settings
    for variant in BESIDE:
        yield variant, replace(settings, **variant.change)


def sweep(scale: Scale) -> Iterator[tuple[Variant, Settings]]:
    """Every tokenizer without labels at every number of dimensions, on the path whose signal falls linearly (figure 5)."""
    shares = tuple(DIMS["pca"])
    for tokenizer, paper in DIMS.items():
        for dims, theirs in zip(scale.sweep, shares, strict=True):
            settings = Settings(tokenizer=tokenizer, dims=dims, labels=False, path="linear")  # pyright: ignore[reportArgumentType]
            yield Variant(f"{tokenizer}, {dims} dims", {}, paper.get(theirs)), settings
