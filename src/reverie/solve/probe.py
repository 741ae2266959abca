"""A probe: two things that decide which plan suits a network, and that nothing but evaluating it tells.

How far off it is at pure noise: where the estimate of the noise errs by δ, that of the data errs by δ·σ/α, and a network that predicts ε on
DDPM's table (σ/α = 158) may put the data far out of range there. Then ε is what is smooth along the flow, and x0 or ε − x0 is not. And how
rough it is in t: high frequencies of a time embedding show as a ripple on the output, which polynomials of high order carry on.
"""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import RunError
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
    its size. What is known without asking: whether the network predicts clean ``data``, so that an error of it is one of ε − x0 that grows
    as 1/σ towards the end, and whether it is told the ``log`` of the noise level, in which it then is equally rough all the way.
    """

    far: float
    rough: float
    data: bool = False
    log: bool = False


_REMEMBERED: WeakKeyDictionary[NetDenoiser, tuple[int, Probe]] = WeakKeyDictionary()
"""By model, with a number that changes when its weights do."""
_FILES: WeakKeyDictionary[NetDenoiser, tuple[int, Path, str]] = WeakKeyDictionary()
"""Where a probe is kept beside the weights: the same number, the file and the hash of the weights."""


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
    known = _known(model)
    if known is None:
        if special(torch.empty(0, device=model.device)):
            return None
        known = _told(model, *probe(model))
        _REMEMBERED[model] = _version(model), known
        _write(model, known)
    return known


def remembered(denoise: Denoiser) -> bool:
    """Whether :func:`probed` would evaluate nothing."""
    model = innermost(denoise)
    return isinstance(model, NetDenoiser) and _known(model) is not None


def keep(denoise: NetDenoiser, path: Path, weights: str) -> None:
    """Keep the probe of a model in a file beside its weights, for other processes: what is there is used, if it is of these weights.

    Args:
        path: of the file, JSON. A folder that cannot be written to is left alone.
        weights: a hash of them. The model still has them now: once they change, the file is neither read nor written.
    """
    _FILES[denoise] = _version(denoise), path, weights


def _told(model: NetDenoiser, far: float, rough: float) -> Probe:
    return Probe(far, rough, model.kind.name == "x0", model.time == "log_sigma")


def _version(model: NetDenoiser) -> int:
    return sum(p._version for p in model.net.parameters() if not p.is_inference())


def _known(model: NetDenoiser) -> Probe | None:
    """What is remembered of the weights as they are, or read from the file beside them."""
    version, known = _version(model), _REMEMBERED.get(model)
    if known is not None and known[0] == version:
        return known[1]
    found = _read(model)
    if found is not None:
        _REMEMBERED[model] = version, found
    return found


def _file(model: NetDenoiser) -> tuple[Path, dict[str, str]] | None:
    """The file of a model whose weights are still those it is kept for, and what the file must say it is of."""
    version, path, weights = _FILES.get(model, (-1, Path(), ""))
    return (path, {"weights": weights, "dtype": str(model.dtype)}) if version == _version(model) else None


def _read(model: NetDenoiser) -> Probe | None:
    file = _file(model)
    try:
        record = json.loads(file[0].read_text()) if file is not None else {}
        return _told(model, float(record["far"]), float(record["rough"])) if file and record["of"] == file[1] else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or something else
        return None


def _write(model: NetDenoiser, found: Probe) -> None:
    file = _file(model)
    if file is not None:
        with suppress(RunError):  # a folder that only reads
            files.write(file[0], json.dumps({"of": file[1], "far": found.far, "rough": found.rough}, indent=1) + "\n")


@torch.no_grad()
def probe(denoise: Denoiser) -> tuple[float, float]:
    """``far`` and ``rough`` of a :class:`Probe`: evaluate five times from four fixed noises, told the first classes if any are known."""
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
    return float(grown) / (_LATER - low), float(bend.log().mean().exp())
