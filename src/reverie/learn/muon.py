"""Muon: momentum, orthogonalised, for the weight matrices of a network.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. The step of a matrix is its Nesterov
momentum U S Vᵀ with every singular value moved to about 1, so rare directions learn as fast as frequent ones. What is
not a hidden matrix (vectors, tables, the first and the last layer) learns by AdamW. In float32 and for all matrices of one
shape at once: on a CPU the half precision and the one-by-one loop of ``torch.optim.Muon`` cost more than they save.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

QUINTIC = (3.4445, -4.7750, 2.0315)
OUTER = ("embed", "out", "conditioning")


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices ``(..., m, n)`` with their singular vectors kept and their singular values moved into about [0.7, 1.2].

    A Newton–Schulz iteration of the odd polynomial with coefficients ``QUINTIC``, which is steep at zero.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalise(matrices.mT, steps).mT
    a, b, c = QUINTIC
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained hidden matrices of a network, and its other trained parameters.

    Convolutions count as matrices; depthwise ones, which mix no channels, do not.
    """
    hidden, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            outer = name.split(".")[0] in OUTER or "modulation" in name.split(".")
            matrix = parameter.ndim >= 2 and parameter.shape[1] > 1
            (hidden if matrix and not outer else rest).append(parameter)
    return hidden, rest


class Muon(Optimizer):
    """Muon for the hidden matrices of a network, AdamW for everything else: two parameter groups, each with its rate.

    Args:
        module: the network; its children ``embed``, ``out`` and ``conditioning`` are outer layers, and so is any ``modulation``.
        lr: rate of the matrices; a step moves a matrix by about ``lr`` in spectral norm (more if taller than wide).
        adam_lr: rate of the rest.
        momentum: of the matrices.
        betas: of AdamW.
        weight_decay: decoupled, of both groups, relative to their rates.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float = 0.02,
        adam_lr: float = 3e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        hidden, rest = split(module)
        groups = [
            {"params": hidden, "lr": lr, "momentum": momentum},
            {"params": rest, "lr": adam_lr, "betas": betas},
        ]
        super().__init__(groups, {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step from the gradients as they are."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            (self._matrices if "momentum" in group else self._adam)(group, trained)

    def _matrices(self, group: dict, parameters: list[Tensor]) -> None:
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            alike[p.shape].append(p)
        for shape, same in alike.items():
            gradient = torch.stack([cast(Tensor, p.grad) for p in same])
            momenta = [self._state(p, "momentum")["momentum"] for p in same]
            for momentum, g in zip(momenta, gradient, strict=True):
                momentum.lerp_(g, 1 - group["momentum"])
            ahead = gradient.lerp(torch.stack(momenta), group["momentum"])
            steps = orthogonalise(ahead.flatten(2)).view_as(ahead)
            stretch = max(1.0, shape[0] / shape[1:].numel()) ** 0.5
            for p, step in zip(same, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"] * stretch)

    def _adam(self, group: dict, parameters: list[Tensor]) -> None:
        states = [self._state(p, "exp_avg", "exp_avg_sq") for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [cast(Tensor, p.grad) for p in parameters],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _state(self, parameter: Tensor, *names: str) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state.update({name: torch.zeros_like(parameter) for name in names})
            if "exp_avg" in names:
                state["step"] = torch.zeros((), dtype=torch.float32)
        return state
