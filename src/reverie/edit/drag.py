"""DragDiffusion (Shi et al. 2024, "DragDiffusion: harnessing diffusion models for interactive point-based image editing").

One state of an inversion is optimised until what the network's features show at a handle has moved to its target: each iteration asks the
features around the handle for a step of one cell (motion supervision), then finds the handle again by its first feature (point tracking).
The rest is drawn with the source looked up (MasaCtrl). The paper fits a LoRA to the picture first, which is not done here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.edit.inversion.record import Inversion
from reverie.edit.masactrl import masactrl
from reverie.guide.gradient import need_gradients
from reverie.guide.pixels import as_mask, mask_of
from reverie.nets import taps
from reverie.solve.plan import first_order
from reverie.solve.variables import STRAIGHT

Place = tuple[float, float]
"""(y, x) in pixels, from the top left."""


class Dragged(NamedTuple):
    """``images`` (1, C, H, W), where each handle was found in the end, and the ``iterations`` taken."""

    images: Tensor
    handles: list[Place]
    iterations: int


def drag(
    denoise: Denoiser,
    code: Inversion,
    handles: Sequence[Place],
    targets: Sequence[Place],
    *,
    mask: Tensor | None = None,
    site: str | None = None,
    skip: int | None = None,
    iterations: int = 80,
    rate: float = 0.01,
    radius: int = 1,
    search: int = 3,
    keep: float = 0.1,
    stop: float = 1.0,
    scale: float | None = None,
) -> Dragged:
    """Move what is at the handles to the targets.

    Args:
        denoise: the model, unguided; its network has attention.
        code: an inversion of one picture.
        handles, targets: places in pixels, as many of each.
        mask: true or 1 where the picture may change, (H, W) or (1, 1, H, W); everywhere without.
        site: whose features, (1, C, h, w), are followed: by default the last but one block on the way up.
        skip: moves from noise before the state that is optimised; by default 30 %.
        iterations: of Adam at most.
        rate: of Adam, for states of a variance-preserving path; 0 gives the reconstruction.
        radius: of the patch around a handle, in cells of half the picture's size.
        search: of the square that a handle is looked for in.
        keep: weight of what is outside the mask.
        stop: cells from its target at which a handle has arrived.
        scale: of guidance of the drawing afterwards.

    Raises:
        InputError: with gradients off; for a place outside of the picture, several pictures, or as :func:`masactrl`.
    """
    need_gradients("drag")
    code.check(denoise)
    if len(code) != 1:
        raise InputError(f"drag edits one picture at a time: the inversion is of {len(code)}")
    height, width = code.images.shape[-2:]
    if len(handles) != len(targets) or not handles:
        raise InputError(f"each handle has a target: got {len(handles)} handles, {len(targets)} targets")
    for y, x in (*handles, *targets):
        if not (0 <= y < height and 0 <= x < width):
            raise InputError(f"({y:g}, {x:g}) is outside of the picture, which has {height} rows and {width} columns")
    skip = round(0.3 * (len(code.points) - 1)) if skip is None else skip
    rest, cond = code.at(skip), code.cond
    site = _site(denoise) if site is None else site
    at, to = rest.points[0], rest.points[1]
    row = first_order(at, to, STRAIGHT.pair, to.alpha, to.sigma).row
    watched = taps.record(denoise, [site])

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        """The features (1, C, H/2, W/2), and the state after the next move."""
        estimate = watched(x, at, cond)
        assert estimate.features is not None
        seen = interpolate(estimate.features[site], (-(-height // 2), -(-width // 2)), mode="bilinear")
        return seen, row.c * x + row.w[0] * estimate.linear(*STRAIGHT.pair)

    x = rest.code.detach().clone().requires_grad_()
    with torch.no_grad():
        first, after = look(x)
    here, goal = _cells(handles, first), _cells(targets, first)
    wanted, outside = _read(first, here), None if mask is None else _outside(mask, code.images, x)
    adam, done = torch.optim.Adam([x], rate * math.hypot(at.alpha, at.sigma)), 0
    for done in track(range(iterations + 1), "dragging", iterations + 1, "iterations"):
        seen, moved = look(x)
        if done:
            here = _track(seen.detach(), here, wanted, search)
        way, far = _way(here, goal)
        if done == iterations or bool((far < stop).all()):
            break
        patch = here[:, None] + _square(radius).to(here)
        ahead = patch + way[:, None]
        active = (far >= stop).to(seen)[:, :, None]
        loss = (active * (_read(seen, ahead) - _read(seen, patch).detach())).abs().sum()
        if outside is not None:
            loss = loss + keep / math.hypot(to.alpha, to.sigma) * ((moved - after) * outside).abs().sum()
        (x.grad,) = torch.autograd.grad(loss, x)
        adam.step()
    images = masactrl(denoise, code, cond, start=-math.inf, scale=scale, skip=skip, begin=x.detach())
    return Dragged(images, [(2.0 * y + 0.5, 2.0 * x + 0.5) for y, x in here.tolist()], done)


def _site(denoise: Denoiser) -> str:
    ups = [
        site for site in taps.sites(denoise) if site.startswith("up.") and site.count(".") == 2 and site[-1].isdigit()
    ]
    if not ups:
        raise InputError("drag follows features (1, C, h, w) of a U-Net: name one of rv.taps.sites(denoise) as site=")
    return ups[max(0, len(ups) - 2)]


def _cells(places: Sequence[Place], features: Tensor) -> Tensor:
    """Pixels as cells of features of half the size, (K, 2)."""
    return (torch.tensor(places).to(features) + 0.5) / 2.0 - 0.5


def _way(here: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of each target from its handle, of one cell, (K, 2), and how far it is, (K, 1)."""
    far = (goal - here).norm(dim=1, keepdim=True)
    return (goal - here) / far.clamp(min=1e-6), far


def _square(radius: int) -> Tensor:
    line = torch.arange(-radius, radius + 1)
    return torch.cartesian_prod(line, line)


def _read(features: Tensor, cells: Tensor) -> Tensor:
    """Features (1, C, h, w) at cells (…, 2), between them linearly: (…, C)."""
    size = torch.tensor(features.shape[2:]).to(cells)
    grid = ((2.0 * cells + 1.0) / size - 1.0).flip(-1).reshape(1, 1, -1, 2)
    out = grid_sample(features, grid, padding_mode="border", align_corners=False)
    return out[0, :, 0].T.reshape(*cells.shape[:-1], -1)


def _track(features: Tensor, here: Tensor, wanted: Tensor, search: int) -> Tensor:
    """The cells around each handle whose feature is nearest to its first one."""
    around = here[:, None] + _square(search).to(here)
    around = around.clamp(torch.zeros(2).to(here), torch.tensor(features.shape[2:]).to(here) - 1.0)
    nearest = (_read(features, around) - wanted[:, None]).abs().sum(-1).argmin(1)
    return around[torch.arange(len(here)), nearest]


def _outside(mask: Tensor, images: Tensor, x: Tensor) -> Tensor:
    inside = mask_of(images, as_mask(mask)).amax(1, keepdim=True)
    return 1.0 - interpolate(inside, x.shape[-2:], mode="area").to(x)
