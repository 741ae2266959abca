"""More paths: sub-VP, EDM, trigonometric, DDPM's table, and paths made from other paths or from a user's functions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule, lifted
from reverie.core.tensors import exact


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance preserving (Song et al. 2021, eq. 29): the α of :class:`VP` with ``σ = 1 − α²``."""

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(-torch.expm1(2.0 * self.log_alpha(t)))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        # e^(−λ) = 1/α − α = 2 sinh(−log α)
        return self._t_of_log_alpha(-torch.asinh(0.5 * torch.exp(-lam)))

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return -2.0 * self.alpha(t) * self.d_alpha(t)


@dataclass(frozen=True)
class EDM(Schedule):
    """Karras et al. 2022 (eq. 5), continuous: α = 1 and ``σ^(1/ρ)`` linear in t from σ_min to σ_max."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)

    def _root(self, t: Tensor) -> Tensor:
        low, high = self._ends
        return low + t * (high - low)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return self.rho * torch.log(self._root(t))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        low, high = self._ends
        return (torch.exp(-lam / self.rho) - low) / (high - low)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        low, high = self._ends
        return self.rho * (high - low) * self._root(t) ** (self.rho - 1.0)

    def lam_range(self) -> tuple[float, float]:
        return -math.log(self.sigma_max), -math.log(self.sigma_min)


def Trigonometric() -> Cosine:
    """``α = cos(πt/2)``, ``σ = sin(πt/2)`` (Lu & Song 2024, their TrigFlow with data of unit variance)."""
    return Cosine(0.0)


@dataclass(frozen=True)
class Table(Schedule):
    """DDPM's discrete β as a path: exact at the table's points, α linear in t between them, α²+σ² = 1.

    Entry i = 0 … T−1 lies at ``t = (i + 1)/T`` and clean data at t = 0 (Ho et al. 2020). Because α is finite at both ends, a
    table that ends with β = 1 (zero terminal SNR) is an ordinary one.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        if not self.betas or not all(0.0 < b < 1.0 for b in self.betas[:-1]) or not 0.0 < self.betas[-1] <= 1.0:
            raise InputError("the β of a table lie in (0, 1); only the last may be 1 (zero terminal SNR)")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.betas)

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> "Table":
        """β uniform from start to end (Ho et al. 2020)."""
        return cls(tuple(torch.linspace(start, end, steps, dtype=torch.float64, device="cpu").tolist()))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> "Table":
        """√β uniform (Rombach et al. 2022, the latent diffusion models)."""
        return cls(
            tuple((torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64, device="cpu") ** 2).tolist())
        )

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> "Table":
        """Nichol & Dhariwal 2021 (eq. 17): ``β_i = min(1 − ᾱ(t_{i+1})/ᾱ(t_i), largest)``."""
        alpha = Cosine(offset).alpha(torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu"))
        return cls(tuple((1.0 - (alpha[1:] / alpha[:-1]) ** 2).clamp(max=largest).tolist()))

    def zero_terminal(self) -> "Table":
        """Lin et al. 2024 (algorithm 1): √ᾱ shifted and scaled so that the last entry is pure noise and the first stays."""
        alpha = self._alpha[1:]
        scaled = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        before = torch.cat([scaled.new_ones(1), scaled[:-1]])
        return Table(tuple((1.0 - (scaled / before) ** 2).tolist()))

    def time(self, index: int | Tensor) -> float | Tensor:
        """t of an entry."""
        return (index + 1) / len(self.betas)

    def index(self, t: float | Tensor) -> float | Tensor:
        """The entry at t, a real number between entries: what a network trained on integer steps reads."""
        return t * len(self.betas) - 1.0

    @cached_property
    def _log(self) -> Tensor:
        steps = torch.log1p(-torch.tensor(self.betas, dtype=torch.float64, device="cpu"))
        return torch.cat([steps.new_zeros(1), 0.5 * steps.cumsum(0)])

    @cached_property
    def _alpha(self) -> Tensor:
        return self._log.exp()

    @cached_property
    def _lost(self) -> Tensor:
        """1 − α with all its digits."""
        return -torch.expm1(self._log)

    @cached_property
    def _steps(self) -> Tensor:
        """What α loses from each entry to the next."""
        return self._lost.diff()

    def _between(self, knots: Tensor, t: Tensor) -> Tensor:
        place = t.to(exact(t)) * len(self.betas)
        i = place.detach().floor().clamp(0, len(self.betas) - 1).long()
        knots = knots.to(t.device, place.dtype)
        w = place - i
        return ((1.0 - w) * knots[i] + w * knots[i + 1]).to(t.dtype)

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        return self._between(self._alpha, t)

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        lost = self._between(self._lost, t)
        return torch.sqrt(lost * (2.0 - lost))

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.alpha(t))

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma(t))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        wide = lam.to(exact(lam))
        alpha = torch.sqrt(torch.sigmoid(2.0 * wide))
        lost = torch.sigmoid(-2.0 * wide) / (1.0 + alpha)
        knots, alphas = (table.to(wide.device, wide.dtype) for table in (self._lost, self._alpha))
        i = (torch.searchsorted(knots, lost.detach().contiguous(), right=True) - 1).clamp(0, len(self.betas) - 1)
        width = self._steps.to(wide.device, wide.dtype)[i]
        # from whichever end of the path keeps the digits
        w = torch.where(lost < 0.5, (lost - knots[i]) / width, (alphas[i] - alpha) / width)
        return ((i + w) / len(self.betas)).to(lam.dtype)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        i = (t.detach().to(exact(t)) * len(self.betas)).floor().clamp(0, len(self.betas) - 1).long()
        return (-self._steps.to(t.device, exact(t))[i] * len(self.betas)).to(t.dtype)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)


@dataclass(frozen=True)
class Shifted(Schedule):
    """Resolution shift (Hoogeboom et al. 2023; Esser et al. 2024, eq. 23): the same path re-timed so that ``λ(t)`` falls by log ``shift``.

    The state is ``r·(α·x0 + s·σ·ε)`` with r restoring the base's own scale; on the straight path this is ``t' = s·t/(1 + (s − 1)·t)``.
    """

    base: Schedule
    shift: float

    def __post_init__(self) -> None:
        if not self.shift > 0.0:
            raise InputError(f"a shift is positive: got {self.shift}")
        for t in (0.0, 1.0):
            wanted = self.lam(t)
            if math.isfinite(wanted) and not math.isclose(
                self.base.lam(self._inner(t)), wanted, rel_tol=1e-9, abs_tol=1e-9
            ):
                raise InputError(
                    f"{type(self.base).__name__} has no point at logsnr {2 * wanted:.4g} to shift its end to"
                )

    @lifted
    def _inner(self, t: Tensor) -> Tensor:
        return self.base.t_of_lam(self.lam(t))

    def _scale(self, t: Tensor) -> Tensor:
        inner = self._inner(t)
        total = self.base.alpha(inner) + self.base.sigma(inner)
        return total / (self.base.alpha(t) + self.shift * self.base.sigma(t))

    @lifted
    def lam(self, t: Tensor) -> Tensor:
        return self.base.lam(t) - math.log(self.shift)

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        return self._scale(t) * self.base.alpha(t)

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * self._scale(t) * self.base.sigma(t)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self._scale(t)) + self.base.log_alpha(t)

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self._scale(t)) + math.log(self.shift) + self.base.log_sigma(t)

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return self.base.t_of_lam(lam + math.log(self.shift))

    def _rate(self, t: Tensor) -> Tensor:
        """dt'/dt = s·r²·W(t)/W(t') with W = α′σ − ασ′; at t = 0 its limit, which 1e-30 gives to all digits."""
        t = t.clamp(min=1e-30)
        inner, base = self._inner(t), self.base
        ratio = _wronskian(base, t) / _wronskian(base, inner)
        return self.shift * self._scale(t) ** 2 * ratio

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return self._rate(t) * self.base.d_alpha(self._inner(t))

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return self._rate(t) * self.base.d_sigma(self._inner(t))


def _wronskian(path: Schedule, t: Tensor) -> Tensor:
    return path.d_alpha(t) * path.sigma(t) - path.alpha(t) * path.d_sigma(t)


@dataclass(frozen=True)
class ZeroTerminal(Schedule):
    """A path with α(0) = 1 and α²+σ² = 1, rescaled to end at pure noise (after Lin et al. 2024): ``α' = (α − α(1))/(1 − α(1))``."""

    base: Schedule

    def __post_init__(self) -> None:
        ends = self.base.alpha(0.0), self.base.alpha(1.0) ** 2 + self.base.sigma(1.0) ** 2
        if not all(math.isclose(v, 1.0, rel_tol=1e-9) for v in ends):
            raise InputError(
                f"only a variance-preserving path that starts at clean data has a terminal SNR to remove: got {self.base}"
            )

    @property
    def _last(self) -> float:
        return self.base.alpha(1.0)

    def _lost(self, t: Tensor) -> Tensor:
        """1 − α' with all its digits."""
        return -torch.expm1(self.base.log_alpha(t)) / (1.0 - self._last)

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        return (self.base.alpha(t) - self._last) / (1.0 - self._last)

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        lost = self._lost(t)
        return torch.sqrt(lost * (2.0 - lost))

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.alpha(t))

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma(t))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        alpha = torch.sqrt(torch.sigmoid(2.0 * lam))
        lost = torch.sigmoid(-2.0 * lam) / (1.0 + alpha) * (1.0 - self._last)  # 1 − α of the base
        return self.base.t_of_lam(torch.log1p(-lost) - 0.5 * torch.log(lost * (2.0 - lost)))

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return self.base.d_alpha(t) / (1.0 - self._last)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)


@dataclass(frozen=True)
class Custom(Schedule):
    """A path from two functions of a tensor t, α and σ; derivatives by autograd, the inverse of λ by root finding to 1e-12.

    λ = log(α/σ) must fall strictly in t. A σ that is accurate to its last digit near t = 0 gives a path that is (``√(1 − α²)`` is not).
    """

    alpha_of: Callable[[Tensor], Tensor]
    sigma_of: Callable[[Tensor], Tensor]

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_of(t)

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_of(t)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.alpha(t))

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma(t))

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return _derivative(self.alpha_of, t)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return _derivative(self.sigma_of, t)

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        target = lam.to(exact(lam))
        low, high = torch.zeros_like(target), torch.ones_like(target)
        first, last = self.lam(low), self.lam(high)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.lam(middle) > target
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        t = 0.5 * (low + high)
        for _ in range(2):  # Newton adds the relative digits near t = 0, and carries the derivative in λ
            t = t - (self.lam(t) - target) / self.d_lam(t)
        t = torch.where(target == first, torch.zeros_like(t), torch.where(target == last, torch.ones_like(t), t))
        return torch.where((target > first) | (target < last), torch.full_like(t, math.nan), t).to(lam.dtype)


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "flow": Flow,
    "cosine": Cosine,
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "trigonometric": Trigonometric,
    "ddpm": Table.linear,
    "scaled_linear": Table.scaled_linear,
    "squaredcos_cap_v2": Table.cosine,
}
"""Paths by the names that recipes and the command line use."""
