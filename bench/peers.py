"""Every deterministic scheduler of diffusers and sampler of azula, driven on any decreasing grid of noise levels ρ = σ/α.

Each gets the exact denoiser at exactly the point that it stands on (their own integer times would round it), float64, and the start and
end that everybody has. Schedulers that are the same formula under another name (the DDIM family, EDM and flow forms of Euler, Heun and
DPM-Solver++ 2M in x0 and λ) run once. Two-stage schedulers take half as many steps, so that a column compares equal evaluations.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x/α, ρ) -> x0."""


def drive(make: Callable[[], Any], frame: str, output: str, denoise: Denoise, z: Tensor, rhos: np.ndarray) -> Tensor:
    """A multistep diffusers scheduler with a table of sigmas."""
    n = len(rhos) - 1
    scheduler = make()
    scheduler.set_timesteps(n)
    scheduler.sigmas = torch.from_numpy(rhos)
    scheduler.timesteps = torch.arange(n, 0, -1.0)
    scheduler.set_begin_index(0)
    scale = (1.0 + rhos**2) ** -0.5 if frame == "vp" else np.ones_like(rhos)
    x = z * scale[0]
    for i in range(n):
        x = _call(scheduler, denoise, x, scheduler.timesteps[i], rhos[i], scale[i], output)
    return x / scale[-1]


def _call(scheduler: Any, denoise: Denoise, x: Tensor, t: Tensor, rho: float, scale: float, output: str) -> Tensor:
    x0 = denoise(x / scale, float(rho))
    return scheduler.step(x0 if output == "sample" else (x / scale - x0) / rho, t, x).prev_sample


def two_stage(make: Callable[[], Any], denoise: Denoise, z: Tensor, rhos: np.ndarray) -> Tensor:
    """Heun and KDPM2 of diffusers, whose tables repeat each sigma."""
    n = len(rhos) - 1
    scheduler = make()
    scheduler.set_timesteps(n)
    twice = np.concatenate([rhos[:1], np.repeat(rhos[1:], 2)])
    scheduler.sigmas, stages = torch.from_numpy(twice), twice
    if hasattr(scheduler, "sigmas_interpol"):
        middle = np.sqrt(rhos[1:] * rhos[:-1])
        stages = np.concatenate([rhos[:1], np.stack([middle, rhos[1:]], 1).ravel()])
        scheduler.sigmas_interpol = torch.from_numpy(np.concatenate([rhos[:1], np.repeat(middle, 2)]))
    scheduler.timesteps = torch.arange(2 * n, 0, -1.0)
    scheduler.set_begin_index(0)
    for i in range(2 * n):
        z = _call(scheduler, denoise, z, scheduler.timesteps[i], stages[i], 1.0, "epsilon")
    return z


def pndm(denoise: Denoise, z: Tensor, rhos: np.ndarray) -> Tensor:
    """PLMS: one evaluation more than steps."""
    from diffusers import PNDMScheduler

    n, a2 = len(rhos) - 1, 1.0 / (1.0 + rhos**2)
    scheduler = PNDMScheduler(num_train_timesteps=n, skip_prk_steps=True)
    scheduler.set_timesteps(n)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = (
        torch.from_numpy(a2[:-1][::-1].copy()),
        torch.tensor(a2[-1]),
    )
    x = z * a2[0] ** 0.5
    for t in scheduler.timesteps:
        i = n - 1 - int(t)
        x = _call(scheduler, denoise, x, int(t), rhos[i], a2[i] ** 0.5, "epsilon")  # pyright: ignore[reportArgumentType]
    return x / a2[-1] ** 0.5


def ipndm(denoise: Denoise, z: Tensor, rhos: np.ndarray) -> Tensor:
    from diffusers import IPNDMScheduler

    n, alpha = len(rhos) - 1, (1.0 + rhos**2) ** -0.5
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(n)
    scheduler.alphas, scheduler.betas = torch.from_numpy(alpha), torch.from_numpy(alpha * rhos)
    scheduler.timesteps = torch.arange(n, 0, -1.0)
    scheduler.set_begin_index(0)
    x = z * alpha[0]
    for i in range(n):
        x0 = denoise(x / alpha[i], float(rhos[i]))
        eps = (x / alpha[i] - x0) / rhos[i]
        x = scheduler.step(alpha[i] * eps - alpha[i] * rhos[i] * x0, scheduler.timesteps[i], x).prev_sample
    return x / alpha[-1]


def azula(kind: str, options: dict[str, Any], denoise: Denoise, z: Tensor, rhos: np.ndarray) -> Tensor:
    """A sampler of azula on the VE path through the grid."""
    import azula.sample

    n = len(rhos) - 1

    class Exact(torch.nn.Module):
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            level = torch.from_numpy(rhos)[((1.0 - t) * n).round().long()]
            return torch.ones_like(level), level

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return type("Posterior", (), {"mean": denoise(x, float(self.schedule(t)[1]))})

    sampler = getattr(azula.sample, kind)(Exact(), steps=n, silent=True, dtype=torch.float64, **options)
    return sampler(z)


def configurations() -> Iterator[tuple[str, Callable[[Denoise, Tensor, np.ndarray], Tensor], Callable[[int], int]]]:
    """(name, run(denoise, z, rhos), steps for a number of evaluations) of every peer."""
    import diffusers as d

    def same(n: int) -> int:
        return n

    for cls in (d.EulerDiscreteScheduler, d.LMSDiscreteScheduler):
        yield f"diffusers {cls.__name__[:-9]}", partial(drive, cls, "ve", "epsilon"), same
    for cls in (d.HeunDiscreteScheduler, d.KDPM2DiscreteScheduler):
        yield f"diffusers {cls.__name__[:-9]}", partial(two_stage, cls), lambda n: n // 2
    yield "diffusers PNDM", pndm, lambda n: n - 1
    yield "diffusers IPNDM", ipndm, same

    def sigma(cls: Any, output: str = "sample", **options: Any) -> tuple[str, Any, Any]:
        if cls in (d.DPMSolverMultistepScheduler, d.DPMSolverSinglestepScheduler, d.UniPCMultistepScheduler):
            options["final_sigmas_type"] = "sigma_min"
        name = " ".join(f"{k}={v}" for k, v in options.items() if k not in ("tau_func", "final_sigmas_type"))
        return (
            f"diffusers {cls.__name__[:-9]} {name}",
            partial(drive, partial(cls, prediction_type=output, **options), "vp", output),
            same,
        )

    flags = (True, False)
    for order, kind, low in product((2, 3), ("midpoint", "heun"), flags):
        if order == 3 and kind == "heun":
            continue  # the same formula as midpoint
        yield sigma(d.DPMSolverMultistepScheduler, solver_order=order, solver_type=kind, lower_order_final=low)
    for order, low in product((2, 3), flags):
        yield sigma(
            d.DPMSolverMultistepScheduler,
            "epsilon",
            solver_order=order,
            algorithm_type="dpmsolver",
            lower_order_final=low,
        )
        yield sigma(d.DEISMultistepScheduler, "epsilon", solver_order=order, lower_order_final=low)
    for order in (2, 3):
        yield sigma(d.DPMSolverSinglestepScheduler, solver_order=order, lower_order_final=True)
    for order, form, low in product((1, 2, 3), ("bh1", "bh2"), flags):
        yield sigma(d.UniPCMultistepScheduler, solver_order=order, solver_type=form, lower_order_final=low)
    for order, low in product((2, 3), flags):
        yield sigma(d.UniPCMultistepScheduler, "epsilon", solver_order=order, predict_x0=False, lower_order_final=low)
    for order, low in product((2, 3), flags):
        yield sigma(
            d.SASolverScheduler, predictor_order=order, corrector_order=order, lower_order_final=low, tau_func=_zero
        )
    yield "azula HeunSampler", partial(azula, "HeunSampler", {}), lambda n: n // 2
    for kind, order in product(("zABSampler", "vABSampler", "zEABSampler", "xEABSampler", "REABSampler"), (2, 3, 4)):
        yield f"azula {kind} order={order}", partial(azula, kind, {"order": order}), same


def _zero(t: Any) -> float:
    return 0.0


warnings.filterwarnings("ignore", module="diffusers")
