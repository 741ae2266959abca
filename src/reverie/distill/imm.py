"""Inductive moment matching: leaps from two near times end in one distribution (Zhou, Ermon & Song 2025, "Inductive moment matching").

A leap from t to s and one from r, a little nearer, both give samples of z_s if the map is right. Over groups of samples of one (t, r,
s) the squared maximum mean discrepancy between ``f(z_t, t, s)`` and ``sg f(z_r, r, s)`` is made small (their eq. 12), with Laplace's
kernel ``exp(−w̃·‖x − y‖/D)``, w̃ the inverse of the leap's length, and the weight

    ``w = ½·sigmoid(b − logsnr)·(−d logsnr/dτ)·αᵃ/(α² + σ²)``

(their eq. 13). z_r is the point of the line from z_t to its x0 (DDIM with the true x0), from scratch, or one step of the teacher on.
With groups of one sample only the points attract each other, and the mean of all data is a solution; the repulsion inside of a group
forbids it. Pairs of samples of different labels are left out: the discrepancy is that of sample and label.
"""

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.core.tensors import onto
from reverie.distill.flow_config import IMMConfig
from reverie.distill.mapping import Mapping
from reverie.distill.student import Student

LARGEST = 160.0
"""σ/α where the nearer times begin; here stretched to pure noise, as sampling begins there."""


class IMM(Mapping):
    """The task.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: IMMConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.group, self.bias, self.exponent = config.group, config.bias, config.exponent
        self.step = (LARGEST - 1.0 / LARGEST) / 2.0**config.halvings

    def leaps(self, rng: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """τ of t, r and s, each (B,), of groups of neighbours in the batch."""
        low, high = 1.0 / (1.0 + LARGEST), LARGEST / (1.0 + LARGEST)
        first = torch.arange(rng.count) // self.group * self.group
        t = low + (high - low) * rng.even("time")[first]
        s = low + (t - low) * rng.uniform("until")[first]
        rho = (t / (1.0 - t) - self.step).clamp(min=1.0 / LARGEST)
        return t, torch.maximum(rho / (1.0 + rho), s), s

    def time(self, tau: Tensor) -> Tensor:
        """t of τ (B,), stretched so that the largest is that of pure noise."""
        return self.at((tau * (1.0 + 1.0 / LARGEST)).clamp(max=1.0))

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.time(self.leaps(rng)[0])

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        taus = self.leaps(rng)
        t, r, s = (self.time(tau) for tau in taus)
        x = self.noised(*pair, t)
        far = self.moved(x, t, s, self.mean_velocity(x, t, s, cond))
        with torch.no_grad():
            at_r = self.solved(x, t, r, cond) if self.taught else self.noised(*pair, r)
            near = self.moved(at_r, r, s, self.mean_velocity(at_r, r, s, cond))
        tau, length = (onto(v, x) for v in (taus[0], taus[0] - taus[2]))
        weight = 0.5 * torch.sigmoid(self.bias - 2.0 * torch.logit(1.0 - tau)) * 2.0 / (tau * (1.0 - tau))
        weight = weight * (1.0 - tau) ** self.exponent / ((1.0 - tau).square() + tau.square())
        return {"imm": weight * self.discrepancy(far, near, 1.0 / length, labels(cond))}

    def discrepancy(self, far: Tensor, near: Tensor, inverse: Tensor, label: Tensor | None) -> Tensor:
        """Each sample's share of the squared discrepancy of its group, (B, …) twice and (B,) -> (B,)."""
        x, y = far.flatten(1), near.flatten(1)
        group = torch.arange(len(x), device=x.device) // self.group
        same = group[:, None] == group
        if label is not None:
            same = same & (label[:, None] == label)
        each = kernel(x, x, inverse) + kernel(y, y, inverse) - 2.0 * kernel(x, y, inverse)
        return (each * same).sum(1) / same.sum(1)


def kernel(x: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """``exp(−w̃·‖x − y‖/D)`` between all rows, (B, D) twice and w̃ (B,) -> (B, B), round where two are one."""
    distance = (torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() + 1e-12).sqrt()
    return torch.exp(-inverse[:, None] * distance / x.shape[1])


def labels(cond: Cond | None) -> Tensor | None:
    """What pairs of samples must have in common, (B,): the label, −1 where there is none."""
    if cond is None or "label" not in cond:
        return None
    return torch.where(cond["label"].present, cond["label"].value, -1)
