"""A scheduler's configuration as a path, a prediction kind, and the solver and grid that take the same steps.

What it says of training (β, prediction type, zero terminal SNR) becomes schedule and kind. What it says of sampling becomes a solver and a
grid for each number of steps: where our algebra cannot do the same it is refused by the name of the option, never left out.

Two things of theirs look different here. Euler's method on their variance-exploding state is our DDIM: both are the first-order exponential
integrator. A shift of a flow only re-times the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from reverie.bridge.building import alike, following
from reverie.core.errors import InputError, unknown
from reverie.core.paths import EDM, Table
from reverie.core.predictions import edm
from reverie.core.schedules import Flow, HostPoint, Point, Schedule
from reverie.core.tensors import Scalar
from reverie.solve.grids import check_steps
from reverie.solve.multistep import DPMpp
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Solver

FLOWS = ("FlowMatchEulerDiscreteScheduler",)
EDMS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
TABLES = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverMultistepInverse",
        "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
        "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "RePaint", "SASolver", "TCD", "UniPCMultistep",
    )
)  # fmt: skip
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
        LATENT,
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), LATENT | {"beta_schedule": "scaled_linear"}),
}
"""What some say of β where the file does not, unlike the others."""
COUNT = 100_000
"""The most steps of training that are believed."""
SAME = 1e-6
"""Half logsnr within which two points are one."""
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "straight"}


@dataclass(frozen=True)
class Index:
    """What a network trained on ``count`` integer steps reads as time: the step, entry ``t·count − 1`` of the table, in thousands.

    Nearer to clean data than entry 0 no network was trained: there it reads 0.
    """

    count: int

    def __call__(self, point: Point) -> Scalar:
        step = point.t * self.count - 1.0
        return (step.clamp(min=0.0) if isinstance(step, Tensor) else max(step, 0.0)) / 1000.0


@dataclass(frozen=True)
class Sigma:
    """What a network trained on a flow of ``count`` steps reads as time: ``t·count``, in thousands."""

    count: int

    def __call__(self, point: Point) -> Scalar:
        return point.t * (self.count / 1000.0)


@dataclass(frozen=True)
class Listed:
    """A grid of given points; a later ``start``, in logsnr, cuts it off there, at a point of its own where it is one."""

    points: tuple[HostPoint, ...]
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        if steps != len(self.points) - 1:
            raise InputError(f"this grid was made for {len(self.points) - 1} steps: got steps={steps}")
        if self.start is None:
            return self.points
        first = schedule.at(0.5 * self.start)
        if own := next((point for point in self.points if abs(point.lam - first.lam) < SAME), None):
            return self.points[self.points.index(own) :]
        return first, *(point for point in self.points if point.lam > first.lam)


def quarter(point: Point) -> Scalar:
    """What a network of Karras et al. 2022 reads as time, ¼·log σ, in thousands."""
    return point.lam * (-0.25 / 1000.0)


class Scheduler:
    """What a folder says of the noise.

    Args:
        config: the contents of its scheduler_config.json.

    Raises:
        InputError: for a scheduler or an option of training that has no translation.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name = str(config.get("_class_name"))
        self.config = DEFAULTS.get(self.name, {}) | dict(config)
        if self.name not in (*TABLES, *FLOWS, *EDMS):
            raise unknown("scheduler", self.name, (*TABLES, *FLOWS, *EDMS))
        self.flow, self.edm = self.name in FLOWS, self.name in EDMS
        self.count: int = self.get("num_train_timesteps", 1000)
        if not isinstance(self.count, int) or not 1 <= self.count <= COUNT:
            raise self.refused("num_train_timesteps", f"expected a whole number from 1 to {COUNT}")
        said = "flow_prediction" if self.flow else self.get("prediction_type", "epsilon")
        if said not in KINDS or (said == "flow_prediction") != self.flow or (self.edm and said != "epsilon"):
            raise self.refused("prediction_type", "use another scheduler's folder")
        self.data_std: float | None = self.get("sigma_data", 0.5) if self.edm else None
        self.kind = KINDS[said] if self.data_std is None else edm(self.data_std)

    def get(self, name: str, default: Any) -> Any:
        """An option, or its default.

        Raises:
            InputError: for a value that is not of the default's kind.
        """
        value = self.config.get(name, default)
        if value != default and default is not None and not alike(value, type(default)):
            raise self.refused(name, f"expected something like {default!r}")
        return value

    def refused(self, option: str, remedy: str = "give solver= and grid= yourself") -> InputError:
        """The error for an option without translation."""
        said = f"{option} = {self.config.get(option)!r}" if option in self.config else option
        return InputError(f"the folder's {self.name} has {said}, which has no translation: {remedy}")

    @cached_property
    def schedule(self) -> Schedule:
        """The path it was trained on."""
        if self.flow:
            return Flow()
        if self.edm:
            return EDM(self.get("sigma_min", 0.002), self.get("sigma_max", 80.0), self.get("rho", 7.0))
        betas, start, end = self.get("trained_betas", None), self.get("beta_start", 1e-4), self.get("beta_end", 0.02)
        form = self.get("beta_schedule", "linear")
        if betas is not None:
            with following(f"the folder's {self.name}"):
                table = Table(tuple(betas))
            if len(table.betas) != self.count:
                raise self.refused("num_train_timesteps", f"it has {len(table.betas)} trained_betas")
        elif form == "linear":
            table = Table.linear(self.count, start, end)
        elif form == "scaled_linear":
            table = Table.scaled_linear(self.count, start, end)
        elif form == "squaredcos_cap_v2":
            table = Table.cosine(self.count)
        else:
            raise self.refused("beta_schedule", "it says how the network was trained, so nothing can stand in for it")
        return table.zero_terminal() if self.get("rescale_betas_zero_snr", False) else table

    @property
    def time(self) -> str | Callable[[Point], Scalar]:
        """What the network reads as time: σ of a flow, the step of a table, or ¼·log σ, in thousands."""
        if self.edm:
            return quarter
        if not self.flow:
            return Index(self.count)
        return "t" if self.count == 1000 else Sigma(self.count)

    def __call__(self, steps: int, strength: float | None = None) -> dict[str, Any]:
        """The arguments ``solver``, ``steps`` and ``grid`` of :func:`reverie.sample` that take the steps of the folder's scheduler.

        Args:
            steps: of the whole grid.
            strength: with a picture ``x=`` to begin from, in (0, 1]: the share of the steps that are taken, the last ones, rounded as
                diffusers' image-to-image pipelines round it; then ``start`` is among the arguments too.

        Raises:
            InputError: where there is no translation, with the name of the option, or for a strength of which no step is left.
        """
        check_steps(steps)
        if steps > self.count:
            raise InputError(f"the model knows {self.count} levels of noise: got steps={steps}")
        translate = SAMPLERS.get(self.name)
        if translate is None:
            raise self.refused("sampling", "give solver= and grid= yourself, or neither for Reverie's own choice")
        with following(f"the folder's {self.name}"):
            solver, points = translate(self, steps)
        how = {"solver": solver, "steps": steps, "grid": Listed(tuple(points))}
        return how if strength is None else how | {"start": self._start(points, steps, strength)}

    def _start(self, points: list[HostPoint], steps: int, strength: float) -> float:
        """The time at which the last ``strength`` of the steps begin."""
        if not 0.0 < strength <= 1.0:
            raise InputError(f"strength is in (0, 1], 1 forgets the picture: got {strength}")
        left_out = int(steps - steps * strength) if self.flow else steps - int(steps * strength)
        if left_out == steps:
            raise InputError(f"a strength of {strength} leaves none of {steps} steps: give more of either")
        return float(self.schedule.at(points[left_out].lam).t)

    # --- points ---

    def entry(self, index: float) -> HostPoint:
        """The point of the table's entry."""
        return self.schedule.point((index + 1) / self.count)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """σ/α of every entry. A last entry of pure noise has ᾱ = 2⁻²⁴, as theirs has."""
        points = [self.entry(i) for i in range(self.count)]
        sigmas = np.array([p.rho for p in points])
        if math.isinf(sigmas[-1]):
            sigmas[-1] = math.sqrt(2.0**24 - 1.0)
        return sigmas

    def at(self, step: float, sigma: float) -> HostPoint:
        """The point of noise level σ/α at which the network is told ``step``."""
        alpha = 1.0 / math.sqrt(1.0 + sigma**2)
        place = self.schedule.point((step + 1) / self.count)
        return place._replace(alpha=alpha, sigma=sigma * alpha, lam=-math.log(sigma))

    def last(self) -> HostPoint:
        """Where sampling ends."""
        final = self.get("final_sigmas_type", "zero")
        if final not in ("zero", "sigma_min"):
            raise self.refused("final_sigmas_type")
        return self.schedule.clean() if final == "zero" else self.entry(0)

    def inside(self, steps: np.ndarray) -> np.ndarray:
        """The steps, which must lie in the table: an offset can lead out of it."""
        if steps.min() < 0 or steps.max() > self.count - 1:
            raise self.refused("steps_offset")
        return steps

    def neutral(self, **options: Any) -> None:
        """Raise an InputError unless each option is as given, or absent."""
        for name, value in options.items():
            if self.get(name, value) not in (value, None):
                raise self.refused(name)


Translation = tuple[Solver, list[HostPoint]]


def _stride(scheduler: Scheduler, steps: int) -> list[HostPoint]:
    """Integer steps of one stride (DDIM, DDPM): each move goes to the step one stride earlier."""
    count, stride, spacing = scheduler.count, scheduler.count // steps, scheduler.get("timestep_spacing", "leading")
    if spacing == "leading":
        indices = np.arange(steps)[::-1] * stride + scheduler.get("steps_offset", 0)
    elif spacing == "trailing" and count % steps == 0:
        indices = count - 1 - np.arange(steps) * stride
    else:
        remedy = (
            f"a move of {scheduler.name} goes back by a fixed stride, to a point that is not the next one of the grid"
        )
        raise scheduler.refused("timestep_spacing", f"with {steps} steps {remedy}; give solver= and grid= yourself")
    last = scheduler.schedule.clean() if scheduler.get("set_alpha_to_one", True) else scheduler.entry(0)
    if indices[-1] >= stride:
        raise scheduler.refused("steps_offset")
    return [*(scheduler.entry(int(i)) for i in scheduler.inside(indices)), last]


def _ddim(scheduler: Scheduler, steps: int) -> Translation:
    scheduler.neutral(clip_sample=False, thresholding=False)
    if "clip_sample" not in scheduler.config:
        raise scheduler.refused("clip_sample (its default is to clip)")
    return DDIM(), _stride(scheduler, steps)


def _ddpm(scheduler: Scheduler, steps: int) -> Translation:
    scheduler.neutral(clip_sample=False, thresholding=False)
    variance = scheduler.get("variance_type", "fixed_small")
    forms = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "learned_range": "learned"}
    if variance not in forms:
        raise scheduler.refused("variance_type")
    return DDPM(forms[variance]), _stride(scheduler, steps)  # pyright: ignore[reportArgumentType]


def _karras(low: float, high: float, steps: int) -> np.ndarray:
    return np.linspace(high ** (1 / 7), low ** (1 / 7), steps) ** 7


def _levels(scheduler: Scheduler) -> np.ndarray:
    scheduler.neutral(use_exponential_sigmas=False, use_beta_sigmas=False)
    return scheduler.sigmas


def _step_of(scheduler: Scheduler, sigmas: np.ndarray) -> np.ndarray:
    """The step of a noise level, by interpolation in log σ."""
    return np.interp(np.log(sigmas), np.log(scheduler.sigmas), np.arange(scheduler.count))


def _euler(scheduler: Scheduler, steps: int) -> Translation:
    scheduler.neutral(interpolation_type="linear", timestep_type="discrete")
    table, count = _levels(scheduler), scheduler.count
    spacing = scheduler.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        indices = np.linspace(0, count - 1, steps)[::-1]
    elif spacing == "leading":
        indices = np.arange(steps)[::-1] * (count // steps) + scheduler.get("steps_offset", 0)
    elif spacing == "trailing":
        indices = np.arange(count, 0, -count / steps).round() - 1
    else:
        raise scheduler.refused("timestep_spacing")
    sigmas = np.interp(scheduler.inside(indices), np.arange(count), table)
    if scheduler.get("use_karras_sigmas", False):
        low, high = scheduler.get("sigma_min", None), scheduler.get("sigma_max", None)
        sigmas = _karras(low or sigmas[-1], high or sigmas[0], steps)
        indices = _step_of(scheduler, sigmas)
    else:
        scheduler.neutral(sigma_min=None, sigma_max=None)
    return DDIM(), [*(scheduler.at(i, s) for i, s in zip(indices, sigmas, strict=True)), scheduler.last()]


def _dpm(scheduler: Scheduler, steps: int) -> Translation:
    scheduler.neutral(
        algorithm_type="dpmsolver++", solver_type="midpoint", thresholding=False, use_lu_lambdas=False, use_flow_sigmas=False,
        variance_type=None, use_dynamic_shifting=False,
    )  # fmt: skip
    order = scheduler.get("solver_order", 2)
    if order not in (1, 2):  # their third order lacks a factor 2, see the design
        raise scheduler.refused("solver_order", "give solver=rv.solve.DPMpp(order=3), which is the paper's, and grid=")
    table, count = _levels(scheduler), scheduler.count
    lowest = scheduler.get("lambda_min_clipped", -math.inf)
    usable = count - int((-np.log(table) < float(lowest)).sum())
    spacing = scheduler.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        indices = np.linspace(0, usable - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        indices = np.arange(steps + 1)[::-1][:-1] * (usable // (steps + 1)) + scheduler.get("steps_offset", 0)
    elif spacing == "trailing":
        indices = np.arange(usable, 0, -count / steps).round() - 1
    else:
        raise scheduler.refused("timestep_spacing")
    if len(indices) != steps:
        raise scheduler.refused("lambda_min_clipped")
    sigmas = table[scheduler.inside(indices).astype(int)]
    if scheduler.get("use_karras_sigmas", False):
        sigmas = _karras(table[0], table[-1], steps)
        exact = scheduler.get("beta_schedule", "linear") == "squaredcos_cap_v2"
        indices = np.floor(_step_of(scheduler, sigmas)) if exact else _step_of(scheduler, sigmas).round()
    last = scheduler.last()
    if order == 2 and last.sigma > 0.0:
        early = scheduler.get("euler_at_final", False) or (scheduler.get("lower_order_final", True) and steps < 15)
        return DPMpp(2, final_order=1 if early else 2), [*map(scheduler.at, indices, sigmas), last]
    return DPMpp(order), [*map(scheduler.at, indices, sigmas), last]


def _flow(scheduler: Scheduler, steps: int) -> Translation:
    scheduler.neutral(
        use_dynamic_shifting=False, shift_terminal=None, invert_sigmas=False, use_karras_sigmas=False, use_exponential_sigmas=False,
        use_beta_sigmas=False, stochastic_sampling=False,
    )  # fmt: skip
    shift = scheduler.get("shift", 1.0)

    def shifted(sigma: Any) -> Any:
        return shift * sigma / (1.0 + (shift - 1.0) * sigma)

    sigmas = shifted(np.linspace(1.0, shifted(1.0 / scheduler.count), steps))  # theirs shifts the lower end twice
    path = scheduler.schedule
    return DDIM(), [*(path.point(float(min(s, 1.0))) for s in sigmas), path.clean()]


SAMPLERS: dict[str, Callable[[Scheduler, int], Translation]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerDiscreteScheduler": _euler,
    "DPMSolverMultistepScheduler": _dpm,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
"""Schedulers whose steps we take."""
