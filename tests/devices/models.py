"""Small networks of every kind, none of whose weights is zero, each with a condition that it takes."""

from collections.abc import Callable

import torch
from torch import nn

import reverie as rv
from reverie.align.diffae import CodeNet
from reverie.core.condition import Entry
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Cosine, Flow
from reverie.nets.causal import CausalPrior
from reverie.nets.config import DiTConfig, JiTConfig, MMDiTConfig, NetConfig, UNetConfig, UViTConfig
from reverie.nets.prior import Prior
from reverie.nets.vectors import VectorNet

SIZE, CHANNELS, CLASSES = 8, 3, 4
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "heads": 2}


NCSN = {
    "attention": (2,), "fourier": 16.0, "resample": "residual", "pyramid": True, "resample_filter": (1, 3, 3, 1),
    "scale_shift_norm": False, "time_scale": 1.0,
}  # fmt: skip


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def of(config: NetConfig, classes: int | None = None, kind: str = "flow") -> NetDenoiser:
    torch.manual_seed(0)
    net = rv.nets.build(config, channels=CHANNELS, size=SIZE, classes=classes)
    return NetDenoiser(shaken(net), Flow(), kind, shape=(CHANNELS, SIZE, SIZE))


def with_prior() -> NetDenoiser:
    torch.manual_seed(0)
    net = rv.nets.build(DiTConfig(width=16, depth=2, heads=2, image=3), channels=CHANNELS, size=SIZE, classes=CLASSES)
    net.prior = Prior(CLASSES, (CHANNELS, SIZE, SIZE), 3)
    net.prior.fit(torch.rand(40, CHANNELS, SIZE, SIZE) * 2 - 1, torch.arange(40) % CLASSES)
    return NetDenoiser(shaken(net), Flow(), shape=(CHANNELS, SIZE, SIZE))


def vectors(net: nn.Module) -> NetDenoiser:
    return NetDenoiser(shaken(net), Cosine(), "v", shape=(6,))


MODELS: dict[str, Callable[[], NetDenoiser]] = {
    "dit": lambda: of(DiTConfig(width=16, depth=2, heads=2, local=True), CLASSES),
    "dit-text": lambda: of(DiTConfig(width=16, depth=2, heads=2, context=5, length=6, vector=7)),
    "jit": lambda: of(JiTConfig(width=16, depth=3, heads=2, bottleneck=8), CLASSES, "x0"),
    "mmdit": lambda: of(MMDiTConfig(width=16, depth=2, heads=2, context=5, length=6, vector=7, pos_embed_max_size=8)),
    "uvit": lambda: of(UViTConfig(width=16, depth=3, heads=2, context=5, length=6), CLASSES),
    "unet": lambda: of(UNetConfig(**SMALL, attention=(2,)), CLASSES),
    "unet-wide": lambda: of(UNetConfig(width=128, multipliers=(1,), blocks=1, attention=()), CLASSES),
    "unet-text": lambda: of(UNetConfig(**SMALL, attention=(2,), context=5, length=6, vector=7), CLASSES),
    "unet-image": lambda: of(UNetConfig(**SMALL, attention=(2,), image=2, patch=2, asymmetric_padding=True)),
    "unet-ncsn": lambda: of(UNetConfig(**SMALL, **NCSN)),
    "prior": with_prior,
    "vectors": lambda: vectors(VectorNet(6, 16, 2)),
    "codes": lambda: vectors(CodeNet(6, 16, 3)),
    "causal": lambda: vectors(CausalPrior(6, context=5, length=4, width=16, depth=2, heads=2)),
}


def condition(denoise: NetDenoiser, n: int = 2) -> rv.Cond | None:
    """All that the model takes, at random; texts of unequal length."""
    g = torch.Generator().manual_seed(1)
    entries = {}
    for name, spec in denoise.conditions.items():
        if name == "label":
            entries[name] = torch.arange(n) % CLASSES
        elif name == "vector":
            entries[name] = torch.randn(n, spec.dim, generator=g)  # pyright: ignore[reportAttributeAccessIssue]
        elif name == "image":
            entries[name] = torch.randn(n, spec.channels, SIZE, SIZE, generator=g)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            mask = torch.arange(4)[None] < 4 - torch.arange(n)[:, None] % 2
            value = torch.randn(n, 4, spec.dim, generator=g)  # pyright: ignore[reportAttributeAccessIssue]
            entries[name] = Entry.of(value, mask)
    return rv.Cond(**entries) if entries else None


def pictures(n: int = 2) -> torch.Tensor:
    return torch.rand(n, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1
