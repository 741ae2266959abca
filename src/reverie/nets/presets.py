"""The published networks by name: ``rv.nets.build("dit-xl/2")``.

Each preset is a configuration with the size of the pictures, the channels and the classes that it was published for. Latent
diffusion works on latents of 4 or 16 channels, an eighth of the picture's height and width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reverie.nets.config import DiTConfig, JiTConfig, MMDiTConfig, NetConfig, UNetConfig, UViTConfig


@dataclass(frozen=True)
class Preset:
    """A published network.

    Attributes:
        config: its configuration.
        channels: channels of the picture or latent.
        size: side of the picture or latent.
        classes: number of classes, or None.
    """

    config: NetConfig
    channels: int = 3
    size: int = 32
    classes: int | None = None


DDPM = UNetConfig(
    width=128,
    multipliers=(1, 2, 2, 2),
    attention=(2,),
    heads=1,
    scale_shift_norm=False,
    dropout=0.1,
    endpoint=True,
    asymmetric_padding=True,
)
"""Ho et al. 2020, appendix B: CIFAR-10."""

DDPM_SMALL = UNetConfig(patch=2, width=24, multipliers=(1, 1), blocks=1, attention=(2,), heads=2, groups=4)
"""For digits, in minutes of a processor."""

DDPMPP = UNetConfig(
    width=128,
    multipliers=(2, 2, 2),
    blocks=4,
    attention=(2,),
    heads=1,
    scale_shift_norm=False,
    resample="residual",
    resample_proj=True,
    dropout=0.13,
    skip_scale=0.5**0.5,
    attend_last=True,
    time_scale=1.0,
    endpoint=True,
)
"""Song et al. 2021 as configured by Karras et al. 2022, table 7; NCSN++ differs in what :data:`PRESETS` says."""

ADM = UNetConfig(
    width=256,
    multipliers=(1, 1, 2, 2, 4, 4),
    attention=(8, 16, 32),
    head_width=64,
    resample="residual",
    learn_sigma=True,
    eps=1e-5,
)
"""Dhariwal & Nichol 2021, table 11: ImageNet 256."""

SD1 = UNetConfig(
    width=320, multipliers=(1, 2, 4, 4), attention=(1, 2, 4), heads=8, scale_shift_norm=False, context=768, eps=1e-5
)
"""Stable Diffusion 1.x (Rombach et al. 2022)."""

SD3 = MMDiTConfig(
    patch=2,
    width=1536,
    depth=24,
    heads=24,
    context=4096,
    length=333,
    vector=2048,
    qk_norm=False,
    pos_embed_max_size=192,
)
"""Stable Diffusion 3 medium (Esser et al. 2024): depth d, d heads, 64 · d features."""

DIT = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
"""Peebles & Xie 2023, table 1: width, depth and heads of each size."""

LDAE = {
    "tiny": DiTConfig(width=16, depth=2, heads=2),
    "small": DiTConfig(width=64, depth=6, heads=4, activation="relu"),
    "paper": DiTConfig(width=1024, depth=24, heads=16),
}
"""Chen et al. 2024, and what a CPU trains in their place; a token is a code, so that the patch does not count."""

JIT = {
    "b": (768, 12, 12, 128, 4),
    "l": (1024, 24, 16, 128, 8),
    "h": (1280, 32, 16, 256, 10),
    "g": (1664, 40, 16, 256, 10),
}
"""Li & He 2025: width, depth, heads, bottleneck, and the block before which the class tokens join."""

PRESETS: dict[str, Preset] = {
    "ddpm-cifar10": Preset(DDPM),
    "ddpm++-cifar10": Preset(DDPMPP),
    "ncsn++-cifar10": Preset(
        replace(DDPMPP, resample_filter=(1, 3, 3, 1), pyramid=True, fourier=16.0, frequencies=2, endpoint=False)
    ),
    "adm-imagenet64": Preset(
        replace(ADM, width=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(2, 4, 8), dropout=0.1),
        size=64,
        classes=1000,
    ),
    "adm-imagenet128": Preset(
        replace(ADM, multipliers=(1, 1, 2, 3, 4), attention=(4, 8, 16), heads=4, head_width=0), size=128, classes=1000
    ),
    "adm-imagenet256": Preset(ADM, size=256, classes=1000),
    "sd1": Preset(SD1, channels=4, size=64),
    "sd2": Preset(replace(SD1, context=1024, heads=4, head_width=64), channels=4, size=96),
    "sdxl": Preset(
        replace(
            SD1,
            multipliers=(1, 2, 4),
            attention=(2, 4),
            head_width=64,
            context=2048,
            transformer_depth=(1, 2, 10),
            vector=2816,
        ),
        channels=4,
        size=128,
    ),
    **{
        f"dit-{name}/{patch}": Preset(
            DiTConfig(patch=patch, width=width, depth=depth, heads=heads, learn_sigma=True), channels=4, classes=1000
        )
        for name, (width, depth, heads) in DIT.items()
        for patch in (2, 4, 8)
    },
    "uvit-s/2-cifar10": Preset(UViTConfig(patch=2, width=512, depth=13, heads=8)),
    "uvit-s/2-coco": Preset(UViTConfig(patch=2, width=512, depth=13, heads=8, context=768), channels=4),
    "uvit-m/4-imagenet64": Preset(UViTConfig(patch=4, width=768, depth=17, heads=12), size=64, classes=1000),
    "uvit-l/4-imagenet64": Preset(UViTConfig(patch=4, width=1024, depth=21, heads=16), size=64, classes=1000),
    "uvit-l/2": Preset(UViTConfig(patch=2, width=1024, depth=21, heads=16), channels=4, classes=1000),
    "uvit-h/2": Preset(UViTConfig(patch=2, width=1152, depth=29, heads=16, final_conv=False), channels=4, classes=1000),
    "sd3-medium": Preset(SD3, channels=16, size=128),
    "sd3-8b": Preset(replace(SD3, width=2432, depth=38, heads=38, qk_norm=True), channels=16, size=128),
    **{
        f"jit-{name}/{patch}": Preset(
            JiTConfig(
                patch=patch,
                width=width,
                depth=depth,
                heads=heads,
                bottleneck=bottleneck,
                context_tokens=32,
                context_start=start,
            ),
            size=16 * patch,
            classes=1000,
        )
        for name, (width, depth, heads, bottleneck, start) in JIT.items()
        for patch in (16, 32)
    },
}


def for_pictures(channels: int, height: int, width: int) -> UNetConfig:
    """A U-Net that learns pictures of a size within minutes of a processor: patches keep its grid at about 16 places a side, of larger
    pictures at about 32, where a patch of four leaves specks that it is too coarse to clear."""
    side, wide = max(height, width), 32 if channels == 1 else 48
    places, most = (12, 3) if side <= 40 else (24, 4)
    patch = next(p for p in (8, 4, 2, 1) if (height % p == width % p == 0 and side // p >= places) or p == 1)
    divides = [n for n in range(most, 0, -1) if height % (patch << n - 1) == width % (patch << n - 1) == 0]
    levels = next(n for n in divides if side // (patch << n - 1) >= (6 if side <= 40 else 4) or n == 1)
    return UNetConfig(
        width=wide if side <= 40 else 32 if side <= 64 else 64,
        multipliers=((1, 1, 1, 1) if channels == 1 and side <= 40 else (1, 2, 2, 2))[:levels],
        blocks=1,
        attention=(2 ** (levels - 1),),
        patch=patch,
        heads=2 if channels == 1 and side <= 40 else 4,
        groups=4,
    )
