"""Denoisers: a network, a path, a prediction kind. Calling one gives an estimate, from which everything else is read."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce, wraps
from typing import Any, Self

import torch
from torch import Tensor

from reverie.core import describe
from reverie.core.boundary import Bounded
from reverie.core.call import Call, Change
from reverie.core.condition import Cond, Conditions, as_cond
from reverie.core.conditioner import Conditioner
from reverie.core.count import Count
from reverie.core.errors import InputError, unknown
from reverie.core.estimate import Estimate
from reverie.core.flow_map import FlowMap
from reverie.core.predictions import Kind
from reverie.core.predictions import kind as as_kind
from reverie.core.sampling import Sampling
from reverie.core.schedules import Point, Schedule, as_schedule
from reverie.core.space import Identity, Space
from reverie.core.tensors import Scalar, align, onto


class Denoiser(ABC):
    """Callable ``(x_t, t, cond) -> Estimate`` with the path it lives on, the shape of a sample, its conditions and its space.

    ``t`` is a :class:`Point` (what samplers pass), a float, or a tensor of shape () or (B,). ``call`` is what else the evaluation is told;
    a denoiser that is made of others hands it on, and one whose ``__call__`` does not take it is evaluated without.

    Attributes:
        calibrations: where a model has any, grids fitted to it, by the number of steps and the guidance scale.
        sampling: how the recipe of a loaded model draws, None without one; :func:`reverie.sample` alone looks at it.
        together: it holds something of each sample, so that a run must not be split into batches.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    conditions: Conditions
    space: Space
    calibrations: Mapping[tuple[int, float], Any]
    sampling: Sampling | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("__call__")
        if own is not None and not _takes_call(own):
            cls.__call__ = _uncalled(own)  # pyright: ignore[reportAttributeAccessIssue]

    @abstractmethod
    def __call__(
        self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None
    ) -> Estimate: ...

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The denoiser itself, all that it holds moved and cast."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of what it computes with; the state of a run is of this dtype, and at least float32."""
        return torch.float32

    @property
    def guidance(self) -> float:
        """The strongest guidance scale acting, 1 without any: solvers choose their order by it."""
        return 1.0

    @property
    def smooth(self) -> bool:
        """Whether the estimate has no kinks and no jumps in x_t but those of the model's own: what a density of its flow needs."""
        return True

    @property
    def together(self) -> bool:
        return False

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        """The point of a time, with per-sample fields broadcast over ``x``."""
        if isinstance(t, Point):
            return t.align(x)
        if isinstance(t, Tensor) and t.ndim:
            align(t, x)
        return self.schedule.point(t).align(x)

    def under(self, schedule: Schedule) -> "Denoiser":
        """The same denoiser on another path: the state is rescaled to the point of its own path that has the same λ."""
        return self if schedule == self.schedule else Under(self, as_schedule(schedule))

    def branches(
        self,
        x: Tensor | Mapping[str, Tensor],
        t: Point | Scalar,
        conds: Mapping[str, Cond | None],
        call: Call | None = None,
    ) -> dict[str, Estimate]:
        """The estimates of several named branches in one batched evaluation (branch-major).

        Args:
            x: one state for all, (B, …), or one a branch.
            t: as in a call.
            conds: the condition of each branch; what one has and another lacks is absent there.

        Raises:
            InputError: for states of other branches than the conditions', or of unequal shapes.
        """
        states = [x] * len(conds) if isinstance(x, Tensor) else [x[name] for name in conds if name in x]
        if len(states) < len(conds) or (isinstance(x, Mapping) and len(x) > len(conds)):
            raise InputError(
                f"each branch has a state and a condition: got states of {list(x)}, conditions of {list(conds)}"
            )
        if len({state.shape for state in states}) > 1:
            raise InputError(f"the states of branches have one shape: got {[tuple(state.shape) for state in states]}")
        call, point, n, k = (call or Call()).within(list(conds)), self.point(t, states[0]), len(states[0]), len(conds)
        if k == 1:
            return {name: self(states[0], point, cond, call) for name, cond in conds.items()}
        tiled = Point(*(f.repeat(k, *(1,) * (f.ndim - 1)) if isinstance(f, Tensor) and f.ndim else f for f in point))
        outs = self(torch.cat(states), tiled, _joined(list(conds.values()), n), call)
        pair: Any = tuple(v[:n] if isinstance(v, Tensor) and v.ndim else v for v in outs.pair)
        variances = [None] * k if outs.variance is None else outs.variance.chunk(k)
        each = enumerate(zip(conds, states, outs.out.chunk(k), variances, strict=True))
        return {
            name: Estimate(state, out, pair, point, variance, _of_branch(outs.features, i, k, n))
            for i, (name, state, out, variance) in each
        }


def _takes_call(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    return "call" in parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())


def _uncalled(own: Callable[..., Estimate]) -> Callable[..., Estimate]:
    """``own(self, x, t, cond)`` as one that can be given a call: it is counted as one pass, and nothing inside can be reached."""

    @wraps(own)
    def __call__(
        self: Denoiser, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None
    ) -> Estimate:
        if call is None:
            return own(self, x, t, cond)
        call.outside(type(self).__name__)
        estimate = own(self, x, t, cond)
        call.count(estimate.out)
        return estimate

    return __call__


def _joined(conds: Sequence[Cond | None], n: int) -> Cond | None:
    """The conditions of branches of ``n`` samples, one after the other; what one of them lacks is absent there."""
    known = {name: cond[name] for cond in conds if cond is not None for name in cond}
    if not known:
        return None
    absent = Cond(**{name: entry._replace(null=None, null_mask=None) for name, entry in known.items()}).null()
    whole = (
        absent if cond is None else Cond(**{name: (cond if name in cond else absent)[name] for name in known})
        for cond in conds
    )
    return reduce(Cond.cat, (cond.expand(n) for cond in whole))


def _of_branch(features: Mapping[str, Tensor] | None, i: int, k: int, n: int) -> dict[str, Tensor] | None:
    """The rows of branch i of k in what was read of a batch; of branches inside, whose axis leads, all."""
    if features is None:
        return None
    return {site: value.unflatten(0, (-1, k, n))[:, i].flatten(0, 1) for site, value in features.items()}


class Wrapper(Denoiser):
    """A denoiser made of another one; forwards the attributes of ``base``. Guides are wrappers.

    Raises:
        InputError: for a flow map.
    """

    def __init__(self, base: Denoiser) -> None:
        if isinstance(base, FlowMap):
            raise InputError(
                f"a guide changes what a denoiser expects of the data at one time, and a {type(base).__name__} says where a leap ends, "
                "which is no mean that could be pushed: guide the teacher that it is distilled from (`reverie distill RUN --scale 3`), or "
                "leap with a guided denoiser, rv.solve.DDIMStep(guided)"
            )
        self.base = base

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def sampling(self) -> Sampling | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.sampling

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([repr(self.base), *describe.settings(self)])})"

    @property
    def device(self) -> torch.device:
        return self.base.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.base.to(device, dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def guidance(self) -> float:
        return self.base.guidance

    @property
    def smooth(self) -> bool:
        return self.base.smooth

    @property
    def together(self) -> bool:
        return self.base.together

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        return self.base.point(t, x)


class Told(Wrapper):
    """A denoiser whose every call is told more: ``tell`` makes of a call another."""

    def __init__(self, base: Denoiser, tell: Callable[[Call], Call]) -> None:
        super().__init__(base)
        self.tell = tell

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        return self.base(x, t, cond, self.tell(call or Call()))


def counted(denoise: Denoiser, count: Count) -> Denoiser:
    """The denoiser with its passes through networks noted in ``count``."""
    return Told(denoise, partial(Call.counted, count=count))


class Under(Wrapper):
    """A denoiser re-expressed on another path by λ: ``x' = α'x0 + σ'ε`` is the base's state up to a factor where λ agrees."""

    def __init__(self, base: Denoiser, schedule: Schedule) -> None:
        super().__init__(base)
        self.schedule = schedule

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        return Denoiser.point(self, t, x)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        outer = self.point(t, x)
        inner = self.base.schedule.at(outer.lam).align(x)
        scale = (inner.alpha + inner.sigma) / (outer.alpha + outer.sigma)
        estimate = self.base(x * scale, inner, cond, call)
        return Estimate(x, estimate.out, estimate.pair, outer, estimate.variance, estimate.features)


TIME_MAPS: dict[str, Callable[[Point], Scalar]] = {
    "t": lambda point: point.t,
    "log_sigma": lambda point: -0.25 * point.lam,
}
"""What the network is told of the time: t itself, or ¼·log(σ/α) (Karras et al. 2022, table 1)."""


class NetDenoiser(Bounded, Denoiser):
    """A network as a denoiser.

    Args:
        net: ``net(x, time, cond) -> out`` with x (B, C, H, W) in the dtype of its weights, and time of shape () or (B,) in that of the
            state, which half precision is too coarse for; if its ``forward`` has an argument ``call``, it is given the
            :class:`~reverie.core.call.Call`.
        schedule: the path it was (or is being) trained on.
        kind: what ``out`` predicts.
        shape: of one sample, (C, H, W).
        time: what the network is told of it: a name in :data:`TIME_MAPS`, or a function of the point.
        data_std: if given, the network's input is scaled to unit variance for data of this standard deviation,
            ``c_in = 1/√(α²·data_std² + σ²)`` (Karras et al. 2022); otherwise x_t goes in as it is. The kind "edm" is of the same.
        learned_variance: the network gives 2C channels, the second half the place v in [−1, 1] of the log variance of a reverse step
            between its bounds (Nichol & Dhariwal 2021, eq. 15); the estimate's ``variance`` is the fraction (v + 1)/2.
        conditions: what it takes; the network's own by default.
        space: between data and what is diffused.

    A network with a ``prior`` (see :mod:`reverie.nets.prior`) is shown that closed form's x0 as its condition "image" and corrects its
    estimate, and the model takes what conditions the prior does: ``out = net + share·prior``.

    Attributes:
        conditioner: makes conditions of texts, class names and pictures.
        told: of a model with text encoders, makes of a text as data holds it what the network takes; what is that already stays.
        within: a change of the network that acts in every call.
    """

    told: Callable[[Cond], Cond] | None = None
    within: Change | None = None

    def __init__(
        self,
        net: torch.nn.Module,
        schedule: Schedule,
        kind: str | Kind = "flow",
        *,
        shape: tuple[int, ...],
        time: str | Callable[[Point], Scalar] = "t",
        data_std: float | None = None,
        learned_variance: bool = False,
        conditions: Conditions | None = None,
        space: Space | None = None,
    ) -> None:
        if isinstance(time, str) and time not in TIME_MAPS:
            raise unknown("time map", time, TIME_MAPS)
        self.net, self.schedule, self.kind = net, as_schedule(schedule), as_kind(kind, data_std)
        self.shape = tuple(shape)
        self.time, self.data_std, self.learned_variance = time, data_std, learned_variance
        self.asks = "call" in inspect.signature(getattr(net, "_orig_mod", net).forward).parameters
        self.prior: Any = getattr(net, "prior", None)
        own = {k: v for k, v in getattr(net, "conditions", {}).items() if self.prior is None or k != "image"}
        own |= getattr(self.prior, "conditions", {})
        self.conditions = dict(own if conditions is None else conditions)
        self.space = Identity() if space is None else space
        self.conditioner = Conditioner(self.conditions)

    def __repr__(self) -> str:
        path, shape = type(self.schedule).__name__.lower(), "x".join(map(str, self.shape))
        kind = path if path == self.kind.name else f"{self.kind.name} on {path}"
        return f"NetDenoiser({describe.network(self.net)}, {kind}, {shape}, {describe.conditions(self.conditions)})"

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        if (cond := as_cond(cond)) is not None:
            cond = cond if self.told is None else self.told(cond)
            cond.check_names(self.conditions)
        call = call if self.within is None else (call or Call()).changed(self.within)
        point = self.point(t, x)
        scaled = x if self.data_std is None else x * (self.data_std**2 * point.alpha**2 + point.sigma**2) ** -0.5
        time = (TIME_MAPS[self.time] if isinstance(self.time, str) else self.time)(point)
        if isinstance(time, Tensor):
            time = onto(time.flatten() if time.ndim else time, x)
        elif math.isfinite(time):
            time = x.new_full((), time)
        else:
            raise InputError(
                f"the network reads the time as {self.time!r}, which is infinite at t = {point.t}: use a finite logsnr"
            )
        first = None if self.prior is None else self.prior(x, point, cond)
        if first is not None:
            shown = self.prior.shown(first, cond)  # pyright: ignore[reportOptionalMemberAccess]
            cond = Cond(**{name: cond[name] for name in cond or ()}, image=shown)  # pyright: ignore[reportOptionalSubscript]
        context = {"call": call} if self.asks else {}
        run = self.net if call is None else partial(call.run, self.net, point, **context)
        out, variance = self.inside(scaled, time, cond, net=run), None
        if self.learned_variance:
            out, place = out.chunk(2, dim=1)
            variance = 0.5 * (place + 1.0)
        if self.prior is not None and first is not None:
            out = out + self.prior.share(point) * first.linear(*self.kind(point))
        return Estimate(x, out, self.kind(point), point, variance)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The denoiser itself: network, prior, space and text encoder moved and cast."""
        self.net.to(device=device, dtype=dtype)
        self.space.to(device, dtype)
        self.conditioner.to(device, dtype)
        return self
