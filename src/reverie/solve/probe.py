"""A probe: two things that decide which plan suits a network, and that nothing but evaluating it tells.

How far off it is at pure noise: where the estimate of the noise errs by δ, that of the data errs by δ·σ/α, and a network that predicts ε on
DDPM's table (σ/α = 158) may put the data far out of range there. Then ε is what is smooth along the flow, and x0 or ε − x0 is not. And how
rough it is in t: high frequencies of a time embedding show as a ripple on the output, which polynomials of high order carry on.
"""

import math
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.noise import Tape, sample_seeds
from reverie.nets.prepacked import special

NOISES = 4
EVALUATIONS = 5 * NOISES
"""What a probe costs, of single samples."""
_SEED = 16_000_000_000  # of noises that hardly any run begins from
_LATER = -2.0  # in λ
_MIDDLE, _APART = 0.35, 0.005  # in τ


class Probe(NamedTuple):
    """What a network is like.

    ``far`` is how fast the estimate of clean data grows towards pure noise, −d log size/dλ from λ = −2 to there: 0 where all is well, 1
    where it is the error of an estimate of ε. ``rough`` is the second difference of ε − x0 over ± 0.005 in τ = σ/(α+σ) around 0.35, over
    its size.
    """

    far: float
    rough: float


_REMEMBERED: WeakKeyDictionary[NetDenoiser, tuple[int, Probe]] = WeakKeyDictionary()
"""By model, with a number that changes when its weights do."""


def innermost(denoise: Denoiser) -> Denoiser:
    """The model that is guided."""
    while "base" in vars(denoise):
        denoise = denoise.base  # pyright: ignore[reportAttributeAccessIssue]
    return denoise


def probed(denoise: Denoiser) -> Probe | None:
    """The probe of the network that a denoiser evaluates: the one remembered with it, or one made now.

    None where there is no network or it must be told something else than a class, for a path without the noise levels that are asked for,
    and under a compiler or a transform of ``torch.func``.
    """
    model = innermost(denoise)
    if not isinstance(model, NetDenoiser) or not all(isinstance(kind, Label) for kind in model.conditions.values()):
        return None
    low, high = model.schedule.lam_range()
    if not low < _LATER - 0.5 < 1.0 <= high:
        return None
    version = sum(p._version for p in model.net.parameters() if not p.is_inference())
    known = _REMEMBERED.get(model)
    if known is None or known[0] != version:
        if special(torch.empty(0, device=model.device)):
            return None
        known = _REMEMBERED[model] = version, probe(model)
    return known[1]


def remembered(denoise: Denoiser) -> bool:
    """Whether :func:`probed` would evaluate nothing."""
    model = innermost(denoise)
    return isinstance(model, NetDenoiser) and model in _REMEMBERED


@torch.no_grad()
def probe(denoise: Denoiser) -> Probe:
    """Evaluate five times from four fixed noises, told the first classes if the model knows any."""
    told = {name: [i % kind.classes for i in range(NOISES)] for name, kind in denoise.conditions.items()}  # pyright: ignore[reportAttributeAccessIssue]
    cond = Cond(**told).to(denoise.device) if told else None
    noise = Tape(sample_seeds(_SEED, NOISES)).draw("init", 0, denoise.shape).to(denoise.device)

    def estimate(lam: float, p: float, q: float, size: float | None = None) -> Tensor:
        point = denoise.schedule.at(lam)
        scale = point.sigma if size is None else size * (point.alpha + point.sigma)
        return denoise(noise * scale, point, cond).linear(p, q).flatten(1).float()

    low = denoise.schedule.lam_range()[0]
    middle = [math.log(1.0 / tau - 1.0) for tau in (_MIDDLE - _APART, _MIDDLE, _MIDDLE + _APART)]
    found = [estimate(lam, 1.0, 0.0) for lam in (low, _LATER)] + [estimate(lam, -1.0, 1.0, _MIDDLE) for lam in middle]
    first, later, before, here, after = torch.stack(found).cpu().double()  # read once
    grown = (first.norm(dim=1).log() - later.norm(dim=1).log()).mean()
    bend = (before - 2.0 * here + after).norm(dim=1) / here.norm(dim=1)
    return Probe(float(grown) / (_LATER - low), float(bend.log().mean().exp()))
