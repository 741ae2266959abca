"""Regularised inversion (Parmar et al., "Zero-shot Image-to-Image Translation", SIGGRAPH 2023, section 3.2): noise that is like noise.

DDIM's inversion leaves the picture in ε̂: neighbours are alike, and edits, which are drawn from it, suffer. So before each move ε̂ descends
on its autocorrelation, over a pyramid η⁰ = ε̂, η¹, … of halved maps and at shifts δ that are drawn anew each time, and on its divergence
from N(0, 1), in turn:

    L_pair = Σ_p Σ_c Σ_δ (mean_xy η^p_xy·η^p_(x−δ)y)² + (mean_xy η^p_xy·η^p_x(y−δ))²,    L_KL = v + μ² − 1 − log v.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import avg_pool2d

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.core.tensors import combine
from reverie.edit.inversion.ode import begin
from reverie.edit.inversion.record import Inversion, described, kept
from reverie.solve.grids import Grid
from reverie.solve.onestep import DDIM

ROUNDS, ROLLS = 5, 5
"""How often in a move the two take turns, and steps on the autocorrelation in each turn."""
COARSEST = 8
"""Places a side at which the pyramid ends."""
PLACES, NUMBERS = 64 * 64, 4 * 64 * 64
"""Of the latents that the weights are for. A gradient of a mean is the smaller the more it is of, so steps are scaled by the size."""


@torch.no_grad()
def regularised(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 50,
    grid: Grid | str | None = None,
    *,
    scale: float = 1.0,
    pair: float = 20.0,
    kl: float = 20.0,
    seed: int = 0,
) -> Inversion:
    """Invert with DDIM, the noise estimate of each move made more like noise: pix2pix-zero's inversion.

    Args:
        denoise: the model; it is inverted as it is, without further guidance.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, grid: as of :func:`reverie.solve.sample`.
        scale: of guidance that edits decode with, 1 by default.
        pair: weight of the autocorrelation.
        kl: weight of the divergence.
        seed: of the shifts, which all pictures share.

    Raises:
        InputError: as :func:`reverie.solve.invert`; for what is diffused in less than 4 rows or columns, or not as pictures.
    """
    x, cond, solver, points = begin(denoise, images, cond, steps, DDIM(), grid)
    if x.ndim != 4 or min(x.shape[2:]) < 4:
        raise InputError(
            f"regularised compares neighbours of (n, C, H, W) with at least 4 rows and columns: got {tuple(x.shape)}; use ode"
        )
    states, moves = [x], list(zip(points[::-1], points[-2::-1], strict=False))
    for i, (at, to) in track(enumerate(moves), "inverting", len(moves), "moves"):
        eps = like_noise(denoise(x, at, cond).eps, pair, kl, i, seed)
        x0 = combine((1.0 / at.alpha, -at.sigma / at.alpha), (x, eps))
        x = combine((to.alpha, to.sigma), (x0, eps))
        states.append(x)
    return Inversion(
        method="regularised",
        model=described(denoise),
        solver=solver,
        guidance=scale,
        cond=cond,
        points=points,
        images=kept(images),
        trajectory=torch.stack(states[::-1]),
    )


def like_noise(eps: Tensor, pair: float, kl: float, move: int = 0, seed: int = 0) -> Tensor:
    """ε̂ (n, C, H, W) after the steps of one move on both losses."""
    maps, n = len(pyramid(eps)), ROUNDS * ROLLS
    shares = Draws(seed, move * n * maps, n * maps).uniform("roll").reshape(n, maps).tolist()
    places = eps[0, 0].numel() / PLACES
    for each in range(ROUNDS):
        for roll in shares[ROLLS * each : ROLLS * (each + 1)]:
            eps = eps - pair / ROLLS * places * grad(lambda e, roll=roll: autocorrelation(e, roll).sum())(eps)
        eps = eps - kl * eps[0].numel() / NUMBERS * grad(lambda e: divergence(e).sum())(eps)
    return eps


def pyramid(eps: Tensor) -> list[Tensor]:
    """The maps, each half the size of the one before, down to :data:`COARSEST` a side."""
    maps = [eps]
    while min(maps[-1].shape[2:]) > COARSEST:
        maps.append(avg_pool2d(maps[-1], 2))
    return maps


def autocorrelation(eps: Tensor, shares: Sequence[float]) -> Tensor:
    """L_pair at one shift a map, a share in [0, 1) of those from 1 to half its side, (n,)."""
    total = eps.new_zeros(len(eps))
    for map_, share in zip(pyramid(eps), shares, strict=True):
        for axis in (2, 3):
            shift = 1 + int(share * (map_.shape[axis] // 2 - 1))
            total = total + (map_ * map_.roll(shift, axis)).mean((2, 3)).square().sum(1)
    return total


def divergence(eps: Tensor) -> Tensor:
    """L_KL of each picture's numbers from N(0, 1), but for a factor of 2, (n,); of equal numbers it moves the mean alone."""
    variance, mean = torch.var_mean(eps, (1, 2, 3))
    return variance + mean.square() - 1.0 - variance.clamp(min=1e-12).log()
