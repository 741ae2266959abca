"""Small networks as different as those that people bring, made by other hands' habits: what the default is fitted on and judged by.

python bench/zoo.py          # trains all of them, one to three minutes of one core each; those that are there already are left alone
python bench/zoo.py NAME ... # trains these

Nothing here is built from :mod:`reverie.nets`: a default that is tuned on our own time embedding and our own recipe of training is tuned
on what we make. Half of the networks fit the default (:data:`FITTING`), the other half is held out (:data:`HELD_OUT`); the split is a hash
of the name. Weights lie in the cache folder of `reverie prefetch`, under ``zoo``.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import reverie as rv
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.paths import Table
from reverie.core.progress import Progress
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule
from reverie.core.times import LogitNormal, LogNormalSigma, Steps, TimeSampler, Uniform
from reverie.data import prefetch

FOLDER = prefetch.cache() / "zoo"
CLASSES = 10


# What a network is told of the time


class Sinusoids(nn.Module):
    """cos and sin of ``scale``·t at frequencies 1 … 10⁻⁴ (Vaswani et al. 2017); scale 1000 for t in [0, 1] is DDPM's."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.frequencies = scale * torch.exp(-math.log(1e4) * torch.arange(width // 2) / (width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)


class RandomFourier(nn.Module):
    """cos and sin of 2πwt with w ~ N(0, scale²), fixed (Tancik et al. 2020; Song et al. 2021)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("w", scale * torch.randn(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angle = 2.0 * math.pi * t[:, None] * self.w
        return torch.cat([angle.cos(), angle.sin()], 1)


class Number(nn.Module):
    """t itself, repeated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        return t[:, None].expand(-1, self.width)


Embedding = Callable[[int], nn.Module]


# Networks: net(x, t, cond) -> out


class Conditioned(nn.Module):
    """Embeds time, and class where there are classes; the last class is the null."""

    def __init__(self, embedding: Embedding, width: int, classes: int) -> None:
        super().__init__()
        self.time = nn.Sequential(embedding(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.conditions = {"label": Label(classes)} if classes else {}

    def embed(self, x: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
        e = self.time[1:](self.time[0](t.expand(len(x))).to(x.dtype))
        if self.label is None:
            return e
        null = torch.full((len(x),), self.label.num_embeddings - 1)
        label = null if cond is None else torch.where(cond["label"].present, cond["label"].value, null)
        return e + self.label(label)


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


class Block(nn.Module):
    """Two convolutions around which x goes; the embedding is added between them."""

    def __init__(self, width: int, embedded: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.add = nn.Linear(embedded, width)
        self.second = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.second(self.first(x) + self.add(e)[:, :, None, None])


class UNet(Conditioned):
    """Three resolutions; the finest has only the first and last convolutions."""

    def __init__(
        self,
        shape: tuple[int, ...],
        embedding: Embedding,
        classes: int,
        widths: tuple[int, int, int] = (8, 24, 48),
        norm: Callable[[int], nn.Module] = group_norm,
    ) -> None:
        super().__init__(embedding, 64, classes)
        a, b, c = widths
        self.begin = nn.Conv2d(shape[0], a, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, c, 3, 2, 1)])
        self.blocks = nn.ModuleList([Block(b, 64, norm), Block(c, 64, norm), Block(c, 64, norm), Block(b, 64, norm)])
        self.up = nn.ModuleList([nn.Conv2d(c, b, 3, padding=1), nn.Conv2d(b, a, 1)])
        self.join = nn.Conv2d(2 * b, b, 1)
        self.end = nn.Sequential(norm(2 * a), nn.SiLU(), nn.Conv2d(2 * a, shape[0], 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        e = self.embed(x, t, cond)
        fine = self.begin(x)
        middle = self.blocks[0](self.down[0](fine), e)
        h = self.blocks[2](self.blocks[1](self.down[1](middle), e), e)
        h = self.join(torch.cat([F.interpolate(self.up[0](h), middle.shape[-2:]), middle], 1))
        h = F.interpolate(self.up[1](self.blocks[3](h, e)), fine.shape[-2:])
        return self.end(torch.cat([h, fine], 1))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Patches(Conditioned):
    """Tokens of ``patch`` x ``patch`` pixels with learned positions."""

    def __init__(
        self, shape: tuple[int, ...], embedding: Embedding, classes: int, patch: int, width: int, depth: int
    ) -> None:
        super().__init__(embedding, width, classes)
        self.patch, self.size = patch, shape[0] * patch * patch
        self.into, self.out = nn.Linear(self.size, width), nn.Linear(width, self.size)
        self.positions = nn.Parameter(0.02 * torch.randn(shape[1] * shape[2] // patch**2, width))
        self.attention = nn.ModuleList([Attention(width) for _ in range(depth)])
        self.mlp = nn.ModuleList([perceptron(width) for _ in range(depth)])

    def tokens(self, x: Tensor) -> Tensor:
        return self.into(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)) + self.positions

    def picture(self, h: Tensor, x: Tensor) -> Tensor:
        return F.fold(self.out(h).transpose(1, 2), x.shape[-2:], self.patch, stride=self.patch)


class DiT(Patches):
    """The embedding scales, shifts and gates each block (Peebles & Xie 2023)."""

    def __init__(
        self, shape: tuple[int, ...], embedding: Embedding, classes: int, patch: int, width: int = 48, depth: int = 3
    ) -> None:
        super().__init__(shape, embedding, classes, patch, width, depth)
        self.modulate = nn.ModuleList([nn.Linear(width, 6 * width) for _ in range(depth)])
        for layer in (*self.modulate, self.out):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        h, e = self.tokens(x), F.silu(self.embed(x, t, cond))
        for attention, mlp, modulate in zip(self.attention, self.mlp, self.modulate, strict=True):
            shift, scale, gate, shift2, scale2, gate2 = modulate(e)[:, None].chunk(6, -1)
            h = h + gate * attention(F.layer_norm(h, h.shape[-1:]) * (1.0 + scale) + shift)
            h = h + gate2 * mlp(F.layer_norm(h, h.shape[-1:]) * (1.0 + scale2) + shift2)
        return self.picture(F.layer_norm(h, h.shape[-1:]), x)


class UViT(Patches):
    """Time is a token, and blocks are joined across the middle (Bao et al. 2023)."""

    def __init__(
        self, shape: tuple[int, ...], embedding: Embedding, classes: int, patch: int, width: int = 48, depth: int = 5
    ) -> None:
        super().__init__(shape, embedding, classes, patch, width, depth)
        self.join = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(depth // 2)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * depth + 1)])

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        h, kept, half = torch.cat([self.embed(x, t, cond)[:, None], self.tokens(x)], 1), [], len(self.mlp) // 2
        for i, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            if i > half:
                h = self.join[i - half - 1](torch.cat([h, kept.pop()], -1))
            h = h + attention(self.norms[2 * i](h))
            h = h + mlp(self.norms[2 * i + 1](h))
            if i < half:
                kept.append(h)
        return self.picture(self.norms[-1](h)[:, 1:], x)


class Perceptron(Conditioned):
    """A plain perceptron of the numbers of x and the embedding."""

    def __init__(
        self, shape: tuple[int, ...], embedding: Embedding, classes: int, width: int = 192, depth: int = 3
    ) -> None:
        super().__init__(embedding, 32, classes)
        sizes = [math.prod(shape) + 32, *[width] * depth]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, math.prod(shape)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), self.embed(x, t, cond)], 1)).view_as(x)


# Data


def pictures(name: str) -> tuple[Tensor, Tensor]:
    """Pictures in [−1, 1] and their classes."""
    found = rv.data.load(name)
    return found.images.float() / 127.5 - 1.0, torch.as_tensor(found.labels)


def resized(side: int, grey: bool) -> tuple[Tensor, Tensor]:
    x, labels = pictures("emoji")
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x.mean(1, keepdim=True) if grey else x, labels


def codes(std: float) -> tuple[Tensor, Tensor]:
    """Four principal components of patches of 4x4 pixels, as an auto-encoder's codes are laid out; of this standard deviation."""
    x, labels = pictures("emoji")
    patches = F.pixel_unshuffle(x, 4).permute(0, 2, 3, 1)
    flat = patches.reshape(-1, patches.shape[-1])
    axes = torch.linalg.eigh(torch.cov(flat.T))[1][:, -4:]
    z = ((patches - flat.mean(0)) @ axes).permute(0, 3, 1, 2)
    return std * z / z.std(), labels


def rolls() -> tuple[Tensor, Tensor]:
    """A rolled sheet with some thickness, laid into 16 dimensions; each has standard deviation 1."""
    r = torch.Generator().manual_seed(0)
    turn = 1.5 * math.pi * (1.0 + 2.0 * torch.rand(8000, generator=r))
    sheet = torch.stack([turn * turn.cos(), turn * turn.sin(), 12.0 * torch.rand(8000, generator=r)], 1)
    x = sheet @ torch.randn(3, 16, generator=r) + 0.3 * torch.randn(8000, 16, generator=r)
    return (x - x.mean(0)) / x.std(0), torch.zeros(8000, dtype=torch.long)


def photographs() -> tuple[Tensor, Tensor]:
    """Patches of 8x8 pixels of two photographs, grey, their mean taken off: of standard deviation .25."""
    r = np.random.default_rng(1)
    cut = []
    for image in load_sample_images().images:
        grey = image.mean(axis=2) / 127.5 - 1.0
        for _ in range(4000):
            i, j = r.integers(grey.shape[0] - 8), r.integers(grey.shape[1] - 8)
            cut.append(grey[i : i + 8, j : j + 8].ravel())
    x = torch.from_numpy(np.array(cut)).float()
    x = x - x.mean(1, keepdim=True)
    return 0.25 * x / x.std(), torch.zeros(len(x), dtype=torch.long)


# The zoo


@dataclass(frozen=True)
class Spec:
    """How a network is made.

    Attributes:
        data: gives all there is and its classes.
        net: of the shape, the embedding of time and the number of classes.
        embedding: of time.
        path, kind: as in ``NetDenoiser``.
        times: where training looks.
        steps, batch, rate: of AdamW.
        share: of the data that training sees.
        average: decay of the moving average of the weights; 0 without.
        warm: linear warm-up, and a cosine down to 0; else the rate is constant.
        classes: whether it is told the class, dropped for one in ten.
        time, data_std: as in ``NetDenoiser``.
    """

    data: Callable[[], tuple[Tensor, Tensor]]
    net: Callable[..., nn.Module]
    embedding: Embedding
    path: Schedule
    kind: str
    times: TimeSampler
    steps: int = 500
    batch: int = 32
    rate: float = 1e-3
    share: float = 1.0
    average: float = 0.995
    warm: bool = False
    classes: bool = False
    time: str = "t"
    data_std: float | None = None


def sinusoids(scale: float) -> Embedding:
    return partial(Sinusoids, scale=scale)


def fourier(scale: float) -> Embedding:
    return partial(RandomFourier, scale=scale)


digits, clothes, digits8 = (partial(pictures, name) for name in ("mnist5k", "fashion5k", "digits8"))
emoji16, emoji32, emoji48 = partial(resized, 16, False), partial(resized, 32, False), partial(resized, 48, True)
UNIFORM, INTEGER, EDM = Uniform(), Steps(1000), VE(0.002, 80.0)
batch_norm_unet = partial(UNet, norm=nn.BatchNorm2d)

NETWORKS: dict[str, Spec] = {
    # the manner of diffusers' unconditional example: integer steps, AdamW with a warm-up and a cosine, no average
    "ddpm-digits": Spec(
        digits, UNet, sinusoids(1000.0), Table.linear(), "eps", INTEGER, rate=4e-4, average=0.0, warm=True
    ),
    # the manner of a minimal flow-matching tutorial: a plain number for the time, uniform, no average, constant rate
    "flow-tutorial": Spec(digits, batch_norm_unet, Number, Flow(), "flow", UNIFORM, average=0.0),
    "flow-fourier-clothes": Spec(clothes, batch_norm_unet, fourier(30.0), Flow(), "flow", UNIFORM, classes=True),
    "ddpm-clothes-few": Spec(
        clothes, batch_norm_unet, sinusoids(1000.0), Table.linear(), "eps", INTEGER, 500, share=0.1, average=0.0
    ),
    "score-emoji16": Spec(emoji16, UNet, fourier(16.0), VP(), "eps", UNIFORM),
    "dit-emoji32": Spec(emoji32, partial(DiT, patch=4), sinusoids(1000.0), Cosine(), "v", UNIFORM),
    "x0-digits8-few": Spec(
        digits8, Perceptron, Number, Cosine(), "x0", UNIFORM, 800, share=0.1, average=0.0, classes=True
    ),
    "edm-emoji16": Spec(
        emoji16, UNet, sinusoids(16.0), EDM, "edm", LogNormalSigma(EDM), time="log_sigma", data_std=0.5
    ),
    "flow-dit-codes": Spec(
        partial(codes, 0.25), partial(DiT, patch=2), sinusoids(1000.0), Flow(), "flow", LogitNormal(), 1200
    ),
    "eps-codes": Spec(partial(codes, 1.0), UNet, sinusoids(1000.0), Table.scaled_linear(), "eps", INTEGER, 1200),
    "uvit-clothes": Spec(
        clothes, partial(UViT, patch=4), sinusoids(1000.0), Table.linear(), "eps", INTEGER, classes=True
    ),
    "flow-roll": Spec(rolls, Perceptron, fourier(16.0), Flow(), "flow", UNIFORM, 8000, 256),
    "v-emoji48-few": Spec(
        emoji48, partial(UNet, widths=(4, 16, 32)), sinusoids(100.0), Cosine(), "v", UNIFORM, 300, share=0.1
    ),
    "edm-digits8-few": Spec(
        digits8, batch_norm_unet, fourier(16.0), EDM, "edm", LogNormalSigma(EDM), 1000, share=0.1, average=0.0,
        classes=True, time="log_sigma", data_std=0.5,
    ),
    "jit-digits": Spec(
        digits, partial(DiT, patch=4), sinusoids(1000.0), Flow(), "x0", LogitNormal(-0.8, 0.8), classes=True
    ),
    "v-photographs": Spec(photographs, Perceptron, sinusoids(10.0), VP(), "v", UNIFORM, 8000, 256),
}  # fmt: skip


def by_hash(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: sha256(name.encode()).hexdigest())


FITTING = by_hash([*NETWORKS])[: len(NETWORKS) // 2]
"""What the default may be fitted on."""
HELD_OUT = by_hash([*NETWORKS])[len(NETWORKS) // 2 :]
"""What it is judged by."""


@cache
def data_of(name: str) -> tuple[Tensor, Tensor]:
    spec = NETWORKS[name]
    x, labels = spec.data()
    keep = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))[: round(spec.share * len(x))]
    return x[keep], labels[keep]


def made(name: str) -> NetDenoiser:
    """The network of that name, untrained."""
    spec, (x, _) = NETWORKS[name], data_of(name)
    torch.manual_seed(int(sha256(name.encode()).hexdigest()[:8], 16))
    net = spec.net(tuple(x.shape[1:]), spec.embedding, CLASSES * spec.classes)
    return NetDenoiser(net, spec.path, spec.kind, shape=tuple(x.shape[1:]), time=spec.time, data_std=spec.data_std)


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.safetensors"


def denoiser(name: str) -> NetDenoiser:
    """The trained network of that name; trained now if it is not there."""
    if not file_of(name).is_file():
        train(name)
    denoise = made(name)
    denoise.net.load_state_dict(load_file(file_of(name)))
    denoise.net.eval().requires_grad_(False)
    return denoise


def train(name: str) -> None:
    spec, (data, labels), denoise = NETWORKS[name], data_of(name), made(name)
    net = denoise.net.train()
    optimizer = torch.optim.AdamW(net.parameters(), spec.rate)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(spec.average), use_buffers=True)
    r = torch.Generator().manual_seed(0)
    with torch.enable_grad(), Progress(name, total=spec.steps, unit="steps") as bar:
        for step in range(spec.steps):
            if spec.warm:
                part = step / spec.steps
                rate = spec.rate * min(1.0, 10.0 * part) * 0.5 * (1.0 + math.cos(math.pi * part))
                optimizer.param_groups[0]["lr"] = rate
            rows = torch.randint(len(data), (spec.batch,), generator=r)
            x0, eps = data[rows], torch.randn(spec.batch, *denoise.shape, generator=r)
            point = spec.path.point(spec.times(torch.rand(spec.batch, generator=r, dtype=torch.float64)).float())
            point = point.align(x0)
            cond = Cond(label=labels[rows]) if spec.classes else None
            if cond is not None:
                entry = cond["label"]
                cond = Cond(label=entry._replace(present=torch.rand(spec.batch, generator=r) > 0.1))
            p, q = denoise.kind(point)
            loss = (denoise(point.alpha * x0 + point.sigma * eps, point, cond).out - (p * x0 + q * eps)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(net)
            bar.advance(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = average.module if spec.average else net
    partial_file = file_of(name).with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in kept.state_dict().items()}, partial_file)
    partial_file.replace(file_of(name))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or NETWORKS:
        if not file_of(each).is_file():
            train(each)
