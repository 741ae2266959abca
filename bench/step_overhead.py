"""What a step costs besides the network and the drawing of noise: 16x3x32x32 float32 on one thread.

    python bench/step_overhead.py

The network returns its input and the tape the same tensor, so what is measured is the algebra, the table and the driver. Each figure is the
least of several runs, with freed memory kept as ``reverie sample`` keeps it; the floor is what the tensor operations of the step themselves
cost, written out by hand. Schedulers of diffusers are timed by their ``step`` alone.
"""

import time
from collections.abc import Callable

import diffusers
import torch

from reverie.core.denoiser import NetDenoiser
from reverie.core.memory import keep_freed_memory
from reverie.core.schedules import VP
from reverie.solve import (
    DDIM,
    DDPM,
    Churn,
    DPMpp,
    DPMpp2S,
    Euler,
    EulerMaruyama,
    Heun,
    Multistep,
    SDEDPMpp,
    UniPC,
    grids,
    iterate,
    plain,
)

SHAPE = (16, 3, 32, 32)
STEPS = 50


class Nothing(torch.nn.Module):
    def forward(self, x: torch.Tensor, time: torch.Tensor, cond: object) -> torch.Tensor:
        return x


class Same:
    """A tape that draws nothing."""

    def __init__(self) -> None:
        self.z = torch.randn(SHAPE)

    def draw(self, stream: str, number: int, shape: object, span: object = None) -> torch.Tensor:
        return self.z


def least(run: Callable[[], None], repeats: int = 40) -> float:
    """Microseconds of the fastest run."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def by_hand(x: torch.Tensor, y: torch.Tensor) -> None:
    for _ in range(STEPS):
        x = torch.add(x * 0.5, y, alpha=0.5)


def peers(x: torch.Tensor) -> None:
    for kind in ("DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"):
        scheduler = getattr(diffusers, f"{kind}Scheduler")()
        scheduler.set_timesteps(STEPS)

        def run(scheduler=scheduler) -> None:
            scheduler.set_timesteps(STEPS)
            z = x
            for t in scheduler.timesteps:
                z = scheduler.step(scheduler.scale_model_input(z, t), t, z).prev_sample

        begun = least(lambda s=scheduler: s.set_timesteps(STEPS))
        print(f"{'diffusers ' + kind:60s} {(least(run) - begun) / STEPS:10.1f}")


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    denoise = NetDenoiser(Nothing(), VP(), "v", shape=SHAPE[1:])
    x, walk, tape = torch.randn(SHAPE), plain(grids.logsnr(end=8.0)(VP(), STEPS)), Same()
    stages = [Heun(), DPMpp2S(), Churn()]
    multistep = [DPMpp(2), DPMpp(3), UniPC(3), SDEDPMpp(2), Multistep(2, corrector=1.0), Multistep(5, corrector=1.0)]
    solvers = [Euler(), DDIM(1.0), DDPM(), EulerMaruyama(), *stages, *multistep]
    print(f"{'solver':60s} {'us a step':>10s} {'us an evaluation':>17s}")
    with torch.inference_mode():
        y = torch.randn(SHAPE)
        two = least(lambda: by_hand(x, y)) / STEPS
        print(f"{'floor: one scale and one add of such tensors':60s} {two:10.1f}")
        for solver in solvers:
            count = solver.plan(VP(), walk).evaluations

            def run(solver=solver) -> None:
                for _ in iterate(denoise, x=x, solver=solver, walk=walk, tape=tape):
                    pass

            each = least(run)
            print(f"{solver!s:60s} {each / STEPS:10.1f} {each / count:17.1f}")
        peers(x)


if __name__ == "__main__":
    main()
