"""Networks to edit with: small ones with random weights, and one made by hand whose picture is what its attention says."""

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, Tokens, entry_of
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import VP, Cosine
from reverie.nets import MMDiTConfig, UNetConfig, build
from reverie.nets.attention import Attention
from reverie.nets.network import Network

F64 = torch.float64
UNET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, context=8, length=3)
TEXTS = 3.0 * torch.randn(3, 3, 8, dtype=F64, generator=torch.Generator().manual_seed(5))


def text(i: int) -> Cond:
    return Cond(text=TEXTS[i : i + 1])


def random_unet(seed: int = 0) -> NetDenoiser:
    """A U-Net that reads three tokens, in double precision, with random weights."""
    return _random(UNET, seed)


def random_editor(seed: int = 0) -> NetDenoiser:
    """The same U-Net, shown a picture too."""
    return _random(UNET, seed, image=1)


def random_mmdit(seed: int = 0) -> NetDenoiser:
    """The same with joint attention."""
    return _random(MMDiTConfig(patch=2, width=16, depth=2, heads=2, context=8, length=3, pos_embed_max_size=4), seed)


def _random(config, seed: int, image: int = 0) -> NetDenoiser:
    torch.manual_seed(seed)
    net = build(config, channels=1, size=8, image=image)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.1 * parameter[0].numel() ** -0.5)
    return NetDenoiser(net.double().eval().requires_grad_(False), VP(), "v", shape=(1, 8, 8))


def images(n: int = 1) -> Tensor:
    return torch.rand(n, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(3)) * 2 - 1


RED, BLUE, GROUND = (1.0, -0.6, -0.6), (-0.6, -0.6, 1.0), (-1.0, -1.0, -1.0)


def word(colour, lean: float, thing: bool = True) -> Tensor:
    """(1, 5): whether it is a thing, its colour, and whether it leans to the right."""
    return torch.tensor([[float(thing), *colour, lean]], dtype=F64)


def prompt(*words: Tensor) -> Cond:
    return Cond(text=torch.cat(words)[None])


A, A_RED, A_BLUE = word(GROUND, 0.0, False), word(RED, -1.0), word(BLUE, 1.0)
"""Things of the two colours like opposite sides: who asks for the other colour gets another layout, unless the layout is kept."""


class Made(Network):
    """x0 is the colours of the words, each where its attention is; a place attends to a thing where the state is bright and to its side."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.conditions = {"text": Tokens(5, 4)}
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)])
        self.cross = Attention(5, 1, context=5, bias=False)
        line = torch.linspace(-1.0, 1.0, size)
        self.register_buffer("right", line.expand(size, size).flatten())
        with torch.no_grad():
            self.blocks[0].weight.fill_(1.0 / 9.0)
            q, kv, out = self.cross.q.weight, self.cross.kv.weight, self.cross.out
            for each in (q, kv, out.weight, out.bias):
                each.zero_()
            for i, strength in enumerate((9.0, 6.0)):  # of the state's brightness, of the side
                q[i, i] = strength
            kv[0, 0], kv[1, 4] = 1.0, 1.0
            for i in range(3):
                kv[5 + i, 1 + i], out.weight[i, i] = 1.0, 1.0

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        bright = self.blocks[0](x).mean(1).flatten(1)
        places = torch.stack([bright, self.right.expand_as(bright), *(torch.zeros_like(bright),) * 3], -1)
        told = entry_of(cond, "text", x.new_zeros(1, 5), len(x))
        return self.cross(places, told.value, told.mask)[..., :3].mT.unflatten(2, x.shape[2:])


def painter() -> NetDenoiser:
    return NetDenoiser(Made().double().eval().requires_grad_(False), Cosine(), "x0", shape=(3, 8, 8))


def layout(pictures: Tensor) -> Tensor:
    """Where there is a thing: brighter than halfway from the ground."""
    return pictures.amax(1) > 0.0
