"""What a denoiser of ours was trained on in the terms of diffusers' schedulers, and what of the difference goes into the weights.

A scheduler hands its network the state as it is, the step as it counts, and takes one of a few predictions. Where ours is a constant times
that, the constant goes into the first or the last layer; where our step is one ahead of theirs, the rotation by one step goes into the
first layer of the time's embedding. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.paths import EDM, Table
from reverie.core.predictions import KINDS, edm
from reverie.core.schedules import Flow, HostPoint
from reverie.nets.embeddings import sinusoids

NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where on a path it is seen whether two functions of it are proportional."""


@dataclass(frozen=True)
class Training:
    """How diffusers runs a network.

    Attributes:
        scheduler: its configuration.
        inward: what multiplies the network's input.
        outward: what multiplies its output.
        ahead: by how many steps the time it was told is ahead of theirs.
    """

    scheduler: dict[str, Any]
    inward: float = 1.0
    outward: float = 1.0
    ahead: int = 0

    def folded(self, denoise: NetDenoiser) -> dict[str, Tensor]:
        """The weights of the network that needs neither factors nor a step."""
        net: Any = denoise.net
        state = dict(net.state_dict())
        for layer, factor in (("embed.weight", self.inward), ("out.weight", self.outward), ("out.bias", self.outward)):
            state[layer] = state[layer] * factor
        if self.ahead:
            time, name = net.conditioning.time, "conditioning.time.inner.weight"
            waves = sinusoids(
                torch.tensor(float(self.ahead), dtype=torch.float64), time.frequencies, endpoint=time.endpoint
            )
            (c, s), (wc, ws) = waves.chunk(2), state[name].double().cpu().chunk(2, dim=1)
            # cos(ω(i+1)) = c·cos ωi − s·sin ωi, sin(ω(i+1)) = s·cos ωi + c·sin ωi
            state[name] = torch.cat([wc * c + ws * s, ws * c - wc * s], dim=1).to(state[name])
        return state


def training(denoise: NetDenoiser) -> Training | list[str]:
    """How diffusers runs the network of a denoiser; or what would have to be otherwise for it to do so, in words of the command line."""
    points = [denoise.schedule.point(t) for t in TIMES]
    scale = float(getattr(getattr(denoise.net, "config", None), "time_scale", 1000.0))
    if isinstance(denoise.schedule, Flow):
        return _flow(denoise, points, scale)
    if isinstance(denoise.schedule, EDM):
        return _edm(denoise, points, scale)
    if all(abs(p.alpha**2 + p.sigma**2 - 1.0) < 1e-9 for p in points):
        return _table(denoise, points, scale)
    return ["--schedule flow, cosine, vp, trigonometric, ddpm or edm"]


def _flow(denoise: NetDenoiser, points: list[HostPoint], scale: float) -> Training | list[str]:
    """Rectified flow: the network is told σ times a count of steps."""
    changed = [] if denoise.time == "t" else ["--time t"]
    changed += [] if scale == int(scale) else ["--net.time-scale 1000"]
    inward, outward = _inward(denoise, points), _outward(denoise, points, KINDS["straight"])
    if inward is None:
        changed.append("--data-std None")
    if outward is None:
        changed.append("--kind flow")
    if changed or inward is None or outward is None:
        return changed
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": int(scale), "shift": 1.0}
    return Training(config, inward, outward)


def _table(denoise: NetDenoiser, points: list[HostPoint], scale: float) -> Training | list[str]:
    """α² + σ² = 1: the table of the path at as many steps as ours counts, whose entry i it knows as i + 1."""
    count, schedule = int(scale), denoise.schedule
    changed = [] if denoise.time == "t" else ["--time t"]
    if count != scale or (isinstance(schedule, Table) and len(schedule.betas) != count):
        changed.append(f"--net.time-scale {len(schedule.betas) if isinstance(schedule, Table) else 1000}")
    inward = _inward(denoise, points)
    if inward is None:
        changed.append("--data-std None")
    kinds = {name: _outward(denoise, points, KINDS[name]) for name in NAMES}
    name = next((name for name, factor in kinds.items() if factor is not None), None)
    if name is None or (name == "eps" and schedule.alpha(1.0) == 0.0):
        changed.append("--kind v")
    if changed or inward is None or name is None:
        return changed
    log_alpha = schedule.log_alpha(torch.linspace(0, 1, count + 1, dtype=torch.float64))
    betas = schedule.betas if isinstance(schedule, Table) else (-torch.expm1(2.0 * log_alpha.diff())).tolist()
    config = {
        "_class_name": "DDPMScheduler", "num_train_timesteps": count, "trained_betas": list(betas), "prediction_type": NAMES[name],
        "clip_sample": False, "variance_type": "learned_range" if denoise.learned_variance else "fixed_small",
    }  # fmt: skip
    return Training(config, inward, kinds[name], ahead=1)  # pyright: ignore[reportArgumentType]


def _edm(denoise: NetDenoiser, points: list[HostPoint], scale: float) -> Training | list[str]:
    """Karras et al. 2022: the network is told ¼·log σ."""
    path, std = denoise.schedule, denoise.data_std
    assert isinstance(path, EDM)
    changed = [] if denoise.time == "log_sigma" else ["--time log_sigma"]
    changed += [] if scale == 1.0 else ["--net unet", "--net.time-scale 1"]
    outward = None if std is None else _outward(denoise, points, edm(std))
    if std is None or outward is None:
        changed += ["--kind edm", "--data-std 0.5"]
    if changed or outward is None:
        return changed
    config = {"sigma_min": path.sigma_min, "sigma_max": path.sigma_max, "sigma_data": std, "rho": path.rho}
    return Training({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon", **config}, outward=outward)


def _inward(denoise: NetDenoiser, points: list[HostPoint]) -> float | None:
    """What multiplies the input everywhere, if it is one number."""
    std = denoise.data_std
    return 1.0 if std is None else _one((std**2 * p.alpha**2 + p.sigma**2) ** -0.5 for p in points)


def _outward(
    denoise: NetDenoiser, points: list[HostPoint], wanted: Callable[[HostPoint], tuple[Any, Any]]
) -> float | None:
    """The number by which the output becomes the prediction ``wanted``, if there is one."""
    numbers = []
    for point in points:
        (p, q), (p2, q2) = denoise.kind(point), wanted(point)
        if abs(p * q2 - q * p2) > 1e-9:
            return None
        numbers.append((p * p2 + q * q2) / (p * p + q * q))
    return _one(numbers)


def _one(values: Iterable[float]) -> float | None:
    first, *others = values
    return first if all(abs(value - first) <= 1e-9 * abs(first) for value in others) else None
