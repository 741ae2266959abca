"""Small models with random weights: of classes, of texts, of nothing, and of tokens."""

import torch
from torch import Tensor

from reverie.core.batch import DataSpec
from reverie.core.condition import Cond, Label, Text
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.schedules import Flow
from reverie.diffusion.config import DenoisingConfig
from reverie.families.token_config import MaskGITConfig, OnTokens
from reverie.families.token_model import TokenModel
from reverie.nets import DiTConfig, UNetConfig, build
from reverie.nets.config import TextConfig
from reverie.spaces.config import SpaceConfig

UNET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, groups=4)
DIT = DiTConfig(patch=2, width=16, depth=2, heads=2)


def model(config=DIT, classes: int | None = 3, seed: int = 0) -> NetDenoiser:
    torch.manual_seed(seed)
    net = build(config, channels=1, size=8, classes=classes)
    spread(net)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), "flow", shape=(1, 8, 8))


def images(n: int = 3, seed: int = 3) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def out(denoise: Denoiser, cond=None, t: float = 0.6) -> Tensor:
    with torch.no_grad():
        return denoise(images(2, seed=5), t, cond).out


def of_texts(config=UNET, seed: int = 0) -> NetDenoiser:
    """A model of texts, read by their bytes."""
    spec = DataSpec((1, 8, 8), {"text": Text(40)})
    denoise = DenoisingConfig(net=config, text=TextConfig(width=16, depth=1, heads=2)).build(spec, seed)
    torch.manual_seed(seed)
    spread(denoise.net)
    denoise.net.eval().requires_grad_(False)
    denoise.conditioner.text.own.requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return denoise


def of_tokens(kind: type[OnTokens], seed: int = 0) -> TokenModel:
    """A model of 16 tokens of a picture, told one of three classes."""
    space = SpaceConfig(name="vq" if kind is MaskGITConfig else "multiscale-vq", patch=2, dims=4, codes=16, width=8)
    spec = DataSpec((1, 8, 8), {"label": Label(3)}, ("0", "1", "2"))
    config = kind(space=space, width=16, depth=2, heads=2)
    model = config.build(spec, seed)
    torch.manual_seed(seed)
    spread(model.net)
    model.net.eval().requires_grad_(False)
    return model


def spread(net: torch.nn.Module) -> None:
    """Numbers in every matrix, also where a fresh network has zeros."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.1 * parameter[0].numel() ** -0.5)


def says(model: Denoiser | TokenModel, cond: Cond | None = None) -> Tensor:
    """What a model of any kind predicts of the same two pictures."""
    if isinstance(model, Denoiser):
        return out(model, cond)
    with torch.no_grad():
        tokens = model.space.tokens(images(2, seed=5))
        told = None if cond is None else cond.expand(2)
        return model.net(tokens if hasattr(model.net, "mask") else model.before(tokens), told)  # pyright: ignore[reportAttributeAccessIssue]
