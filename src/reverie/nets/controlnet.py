"""ControlNet: a trainable copy of a frozen network's first half tells the second half where things are.

Zhang, Rao & Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023 (arXiv:2302.05543). The copy reads the
same x_t, time and condition, and a hint, a picture that small convolutions bring to the copy's resolution and that is added behind its
first layer. What its blocks give passes convolutions of 1x1 that begin at zero and is added in the frozen network: to the skip
connections and the middle of a U-Net (figure 3) or a U-ViT, and, since a DiT has no skips, behind its first blocks (Chen et al.,
"PixArt-δ", 2024, arXiv:2401.05252). So the first step is the frozen network's, bit for bit.

Of an MM-DiT the copy is as those for Stable Diffusion 3 are: the hint is coded by the model's space as pictures are and enters in patches
beside those of x_t, and what n copied blocks give serves all blocks but the last, which gives no text, block b of d that of the copy's
⌊b·n/d⌋.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.call import Call, Now, per_branch
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.nets import taps
from reverie.nets.copies import sharing
from reverie.nets.dit import DiT
from reverie.nets.layers import zeroed
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.places import Place
from reverie.nets.unet import Stage, UNet
from reverie.nets.uvit import UViT

if TYPE_CHECKING:
    from reverie.core.denoiser import Denoiser
    from reverie.core.schedules import Point
    from reverie.core.space import Space

WIDTHS = (16, 32, 96, 256)
"""Channels of the hint on its way, at each halving of its sides."""
PICTURE = 3
"""So many channels of a hint that is coded are a picture's; what is beyond are maps."""


class Hint(nn.Module):
    """A hint (B, channels, H, W) at the resolution and width of the copy's first layer; it ends in zeros.

    Args:
        channels: of the hint.
        factor: how many times smaller the copy's map is; what is left when it is halved goes into the first stride.
        width: of the copy's map.
        widths: on the way, at each halving.
    """

    def __init__(self, channels: int, factor: int, width: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        halvings = min((factor & -factor).bit_length() - 1, len(widths) - 1)
        stride, widths = factor >> halvings, widths[: halvings + 1]
        self.enter = nn.Conv2d(channels, widths[0], *((3, 1, 1) if stride == 1 else (stride, stride, 0)))
        self.blocks = nn.ModuleList()
        for inner, outer in pairwise(widths):
            self.blocks.append(nn.Conv2d(inner, inner, 3, padding=1))
            self.blocks.append(nn.Conv2d(inner, outer, 3, 2, 1))
        self.leave = zeroed(nn.Conv2d(widths[-1], width, 3, padding=1))

    def forward(self, hint: Tensor) -> Tensor:
        h = F.silu(self.enter(hint))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.leave(h)


class Hinted(nn.Module):
    """What is added to a frozen network at its sites, by a hint.

    Args:
        net: the network.
        hint: channels of the hint, a picture with values in [0, 1].
        size: height and width of the hint: those of the data, where the network works on codes of them; the network's own without.

    Attributes:
        base: the SHA-256 of the weights of ``net``; None for one whose network is not known.
        sites: where what is added is made.
        factor: how many times larger the hint is than the network's first map.

    Raises:
        InputError: for a hint that does not come down to that map.
    """

    base: str | None
    sites: list[str]

    def __init__(self, net: Any, hint: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.base, self.channels = fingerprint(net), hint
        height, width = size or net.size
        rows, columns = (side // net.config.patch for side in net.size)
        self.factor: int = height // rows
        if height % rows or self.factor * columns != width:
            raise InputError(f"a hint of {height}x{width} does not come down to the network's {rows}x{columns}")

    def places(self, model: nn.Module | Denoiser) -> dict[str, tuple[str, Place]]:
        """Where something is added in a network, by site, and of which of :attr:`sites`.

        Raises:
            InputError: for a network without these sites.
        """
        return {site: (site, place) for site, place in taps.find(model, self.sites).items()}

    def told(self, hint: Tensor, space: Space) -> Tensor:
        """What :meth:`forward` is given of a hint (B, channels, H, W) in [0, 1], for a model whose pictures are in ``space``."""
        return hint

    def forward(
        self, x: Tensor, time: Tensor, cond: Cond | None, hint: Tensor, net: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """What is added of each site, for the arguments of the frozen network.

        Args:
            x, time, cond: as of the network.
            hint: out of :meth:`told`.
            net: the network, for what begins with its tokens.
        """
        raise NotImplementedError


class ControlNet(Hinted):
    """A trainable copy of the first half of a network, told a hint.

    Args:
        net: a U-Net, U-ViT, DiT or MM-DiT.
        hint, size: as of :class:`Hinted`; a hint for an MM-DiT has one channel, or those of the pictures, and maps beyond three.
        widths: of the hint on its way, at each halving of its sides; an MM-DiT's has none.
        depth: of an MM-DiT, how many of its blocks are copied; half of them without.

    Attributes:
        bare: of an MM-DiT's, whether the copy is told zeros in place of the pooled vector, and, without maps, codes that the space's
            offset is not taken off: so the first ControlNets for Stable Diffusion 3 were trained.

    Raises:
        InputError: for another network, or as :class:`Hinted`.
    """

    bare: bool = False

    def __init__(
        self,
        net: nn.Module,
        hint: int = 1,
        size: tuple[int, int] | None = None,
        widths: Sequence[int] = WIDTHS,
        depth: int | None = None,
    ) -> None:
        sites, outs = _halves(net, depth)
        super().__init__(net, hint, size)
        self.sites, self.copy = sites, _first_half(net, len(sites))
        if isinstance(net, MMDiT):
            self.hint = entering(net, hint)
        else:
            self.hint = Hint(hint, self.factor, self.copy.embed.out_channels, widths)  # pyright: ignore
        maps = isinstance(net, UNet)
        self.zeros = nn.ModuleList(zeroed(nn.Conv2d(out, out, 1) if maps else nn.Linear(out, out)) for out in outs)
        self.to(self.copy.embed.weight)  # pyright: ignore

    def places(self, model: nn.Module | Denoiser) -> dict[str, tuple[str, Place]]:
        if isinstance(self.copy, MMDiT):
            return spread(self.sites, model, self.copy.embed.out_channels)
        return super().places(model)

    def told(self, hint: Tensor, space: Space) -> Tensor:
        if isinstance(self.copy, MMDiT):
            return coded(hint, space, (self.copy.channels, *self.copy.size), self.bare)
        return hint

    def forward(
        self, x: Tensor, time: Tensor, cond: Cond | None, hint: Tensor, net: nn.Module | None = None
    ) -> dict[str, Tensor]:
        embedded = self.hint(hint.to(x.dtype))
        first = taps.Edit({"embed": Place("embed")}, {"embed": lambda value, at: value + embedded})
        cond = without_vector(cond) if self.bare else cond
        seen = taps.features(self.copy, self.sites, x, time, cond, within=first)
        return {site: zero(seen[site]) for site, zero in zip(self.sites, self.zeros, strict=True)}


def entering(net: MMDiT, hint: int) -> nn.Conv2d:
    """Where the code of a hint of so many channels enters beside an MM-DiT, in patches; zeros at first."""
    return zeroed(nn.Conv2d(net.channels + max(0, hint - PICTURE), net.embed.out_channels, net.patch, stride=net.patch))


def spread(sites: Sequence[str], model: nn.Module | Denoiser, width: int) -> dict[str, tuple[str, Place]]:
    """The blocks of an MM-DiT but for its last, each with which of ``sites`` serves it.

    Raises:
        InputError: for another network, or one of another width.
    """
    net: Any = getattr(model, "net", model)
    net = getattr(net, "_orig_mod", net)
    if not isinstance(net, MMDiT) or len(net.blocks) < 2 or net.embed.out_channels != width:
        raise InputError(
            f"this ControlNet steers an MM-DiT of ours of two blocks at least and {width} features a token: got another network, "
            f"{type(net).__name__}"
        )
    each = len(net.blocks) / len(sites)
    found = taps.find(model, [f"blocks.{b}" for b in range(len(net.blocks) - 1)])
    return {site: (sites[int(b / each)], place) for b, (site, place) in enumerate(found.items())}


def coded(hint: Tensor, space: Space, code: tuple[int, ...], bare: bool) -> Tensor:
    """The codes of hints in a model's space, where one has the shape ``code``, and behind them the maps as they are.

    Raises:
        InputError: for hints of other channels than the model's pictures.
    """
    channels, *_ = space.data_shape(code)
    picture, maps = hint[:, :PICTURE], hint[:, PICTURE:]
    if picture.shape[1] not in (1, channels):
        raise InputError(f"a hint for pictures of {channels} channels has 1 or as many: got {picture.shape[1]}")
    codes = space.encode(2.0 * picture.expand(-1, channels, -1, -1) - 1.0)
    if maps.shape[1]:
        return torch.cat([codes, F.interpolate(maps, codes.shape[2:])], dim=1)
    return codes + space.offset if bare else codes


def without_vector(cond: Cond | None) -> Cond | None:
    """The conditions but for the pooled vector, which is zeros then."""
    return None if cond is None else Cond(**{name: cond[name] for name in cond if name != "vector"})


class Steering:
    """The change of a call (:mod:`reverie.core.call`) that adds what a ControlNet or an adapter gives.

    Args:
        net: the one or the other.
        places: those of ``net`` in the network that is called.
        hint: what ``net`` is told, (n or 1, channels, H, W), one a sample or one for all.
        weight: of what is added.
        interval: the logsnr between which it is added.
    """

    def __init__(
        self,
        net: Hinted,
        places: Mapping[str, tuple[str, Place]],
        hint: Tensor,
        weight: float = 1.0,
        interval: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.net, self.places, self.hint, self.weight, self.interval = net, places, hint, weight, interval

    @property
    def sites(self) -> Collection[str]:
        return self.places

    def __call__(self, net: nn.Module, now: Now) -> nn.Module:
        net = sharing(net, [place.path for _, place in self.places.values()])
        made: dict[str, Tensor] = {}

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            made.update(self._residuals(now, module, *args))

        def add(site: str, of: str, value: Tensor) -> Tensor:
            now.fired.add(site)
            return value + made[of]

        net.register_forward_pre_hook(enter, with_kwargs=True)
        for site, (of, place) in self.places.items():
            place.hook(net, partial(add, site, of))
        return net

    def _residuals(
        self, now: Now, net: nn.Module, x: Tensor, time: Tensor, cond: Cond | None = None
    ) -> dict[str, Tensor]:
        hint = per_branch(self.hint.to(x.device), len(x), Call(now.branches))
        if len(hint) not in (1, len(x)):
            raise InputError(f"got {len(hint)} hints for {len(x)} samples: give one, or one a sample")
        share = self._share(now.point, x)
        added = self.net(x, time, cond, hint.expand(len(x), -1, -1, -1), net)
        return {site: share.reshape(-1, *(1,) * (value.ndim - 1)) * value for site, value in added.items()}

    def _share(self, point: Point | None, x: Tensor) -> Tensor:
        """The weight of each sample, or of all, (n or 1,)."""
        low, high = self.interval
        if point is None or (low, high) == (-math.inf, math.inf):
            return x.new_full((1,), self.weight)
        logsnr = torch.as_tensor(point.logsnr, device=x.device).flatten()
        return torch.where((low <= logsnr) & (logsnr <= high), self.weight, 0.0).to(x.dtype)


def fingerprint(net: nn.Module) -> str:
    """The SHA-256 of a network's weights, by name, shape and value."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _halves(net: nn.Module, depth: int | None) -> tuple[list[str], list[int]]:
    """The sites of the first half of a network where what steers it is made, and their widths.

    Raises:
        InputError: when it has no halves that are known.
    """
    match net:
        case UNet():
            at = net.embed.out_channels
            widths = [at]
            for stages in net.down:
                for block in stages:  # pyright: ignore[reportGeneralTypeIssues]
                    at = block.residual.conv_in.out_channels if isinstance(block, Stage) else at
                    widths.append(at)
            last = f"middle.{len(net.middle) - 1}"
            return [*(f"skip.{i}" for i in range(len(widths))), last], [*widths, at]
        case UViT():
            sites = [*(f"skip.{i}" for i in range(len(net.early))), "middle.0"]
        case DiT():
            sites = [f"blocks.{i}" for i in range((len(net.blocks) + 1) // 2)]
        case MMDiT():
            n, most = len(net.blocks) // 2 if depth is None else depth, len(net.blocks) - 1
            if not 1 <= n <= most:
                raise InputError(
                    f"a ControlNet of an MM-DiT copies 1 block at least and not the last, which gives no text: got {n} of "
                    f"{len(net.blocks)}"
                )
            sites = [f"blocks.{i}" for i in range(n)]
        case _:
            raise InputError(
                f"a ControlNet copies the first half of a U-Net, U-ViT, DiT or MM-DiT of ours: got {type(net).__name__}. Of folders "
                "in diffusers' format it takes those that open as one of these"
            )
    return sites, [net.embed.out_channels] * len(sites)


HALVES: dict[type[nn.Module], tuple[str, ...]] = {
    UNet: ("up", "norm", "out"),
    UViT: ("late", "norm", "out", "smooth"),
    DiT: ("norm", "modulation", "out"),
    MMDiT: ("norm", "modulation", "out"),
}
"""What is behind the first half of each network."""


def _first_half(net: Any, sites: int) -> Network:
    """A copy of a network, trainable, without what is behind its first half and without its prior, whose x0 the network is shown; of a
    transformer without skips as many blocks as it has sites."""
    half = copy.deepcopy(net)
    for name in HALVES[type(net)]:
        setattr(half, name, nn.ModuleList() if isinstance(getattr(half, name), nn.ModuleList) else nn.Identity())
    if isinstance(half, DiT | MMDiT):
        half.blocks = half.blocks[:sites]
    if hasattr(half, "prior"):
        del half.prior
    return half.requires_grad_(True)
