"""Averages of weights of any width, made after training of snapshots of a few.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3.2 and appendix C.2. The power-function
average of exponent γ at time T weighs the weights at time τ by ``p(τ) = (γ+1)·τ^γ/T^(γ+1)`` on [0, T]. Of snapshots of such averages, each
of its γᵢ and Tᵢ, the combination ``Σ cᵢ·pᵢ`` that is nearest to a wanted p in the square integral solves ``A·c = b`` with
``Aᵢⱼ = ⟨pᵢ, pⱼ⟩`` and ``bᵢ = ⟨pᵢ, p⟩``; the same combination of the snapshots is the wanted average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reverie.core import files
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.learn.ema import exponent

FOLDER = "averages"
"""Where a run keeps its snapshots."""
LEAST, WIDEST = 0.001, 0.28
"""Widths that there are."""


@dataclass(frozen=True)
class Snapshot:
    """Averages after so many images, of several widths, in one file."""

    path: Path
    images: int
    stds: tuple[float, ...]


def _path(run: Path, images: int) -> Path:
    return inside(run, FOLDER, f"images-{images:012d}.safetensors")


def kept(run: Path, images: int) -> bool:
    """Whether there is a snapshot of so many images."""
    return _path(run, images).is_file()


def keep(run: Path, averages: Mapping[str, Tensor], images: int) -> None:
    """Write a snapshot, in half precision as the paper does; ``averages`` are named ``std/player.weight``."""
    stds = sorted({float(key.partition("/")[0]) for key in averages})
    about = {"what": "averages of weights", "images": images, "stds": stds}
    files.write_tensors(_path(run, images), {key: value.half() for key, value in averages.items()}, about)


def snapshots(run: Path, images: int) -> list[Snapshot]:
    """What :func:`keep` left in the folder of a run, up to so many images, in their order."""
    found = []
    for path in sorted((run / FOLDER).glob("images-*.safetensors")):
        about = files.read_about(path)
        found.append(Snapshot(path, about["images"], tuple(about["stds"])))
    return [snapshot for snapshot in found if snapshot.images <= images]


def product(gamma_a: float, end_a: float, gamma_b: float, end_b: float) -> float:
    """``∫ p_a(τ)·p_b(τ) dτ`` of two power functions, in units of 1/end_a."""
    last = min(end_a, end_b)
    scale = (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0)
    return scale * (last / end_a) ** gamma_a * (last / end_b) ** (gamma_b + 1.0)


def combination(times: Sequence[float], stds: Sequence[float], std: float, end: float) -> tuple[list[float], float]:
    """How much of each snapshot makes the average of width ``std`` at time ``end``.

    Args:
        times, stds: of the snapshots.

    Returns:
        The coefficients c, and how far ``Σ cᵢ·pᵢ`` is from the wanted p, in units of its norm.
    """
    gammas, gamma = [exponent(each) for each in stds], exponent(std)
    every = list(zip(gammas, [time / end for time in times], strict=True))
    a = np.array([[product(g, t, h, u) / t for h, u in every] for g, t in every])
    b = np.array([product(g, t, gamma, 1.0) / t for g, t in every])
    c, *_ = np.linalg.lstsq(a, b, rcond=1e-12)
    norm = product(gamma, 1.0, gamma, 1.0)
    return c.tolist(), float(np.sqrt(max(0.0, norm - 2.0 * c @ b + c @ a @ c) / norm))


def average(run: Path, std: float, images: int) -> tuple[dict[str, Tensor], float]:
    """The weights averaged with width ``std`` over a training of so many images, ``player.weight`` each, and the error of the profile.

    Args:
        run: folder with the snapshots.
        std: relative to the training time, .001 to .28.
        images: at which the average ends.

    Raises:
        InputError: for another width, or a run without snapshots.
    """
    if not LEAST <= std <= WIDEST:
        raise InputError(f"the width of an average is {LEAST:g} to {WIDEST:g} of the training time: got {std:g}")
    found = snapshots(run, images)
    if not found:
        raise InputError(
            f"{run} has no snapshots of averages: train it with --train.ema-profiles 0.05 0.1, the default of new runs"
        )
    times, stds = zip(*((s.images, width) for s in found for width in s.stds), strict=True)
    coefficients, error = combination(times, stds, std, images)
    left, total = iter(coefficients), dict[str, Tensor]()
    for snapshot in found:
        share = {f"{width:g}": next(left) for width in snapshot.stds}
        for key, value in files.read_tensors(snapshot.path).items():
            width, _, name = key.partition("/")
            part = share[width] * value.double()
            total[name] = part if name not in total else total[name].add_(part)
    return {name: value.to(torch.float32) for name, value in total.items()}, error
