"""SDEdit (Meng et al. 2022): noise a picture part of the way, and denoise it under another condition."""

from functools import partial

from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import SampleSeed, Seeds, Span, Tape
from reverie.edit.guidance import guide
from reverie.solve.grids import Grid
from reverie.solve.plan import Solver
from reverie.solve.sampling import sample


class Again(Tape):
    """The plain tape of a repetition: other draws for each."""

    def __init__(self, seeds: list[SampleSeed], repetition: int) -> None:
        super().__init__(seeds)
        self.repetition = repetition

    def draw(self, stream: str, number: int, shape, span: Span | None = None) -> Tensor:
        return super().draw(f"{stream}/{self.repetition}" if self.repetition else stream, number, shape, span)


def sdedit(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    start: float = 0.5,
    solver: Solver | str | None = None,
    steps: int = 30,
    grid: Grid | str | None = None,
    *,
    repeats: int = 1,
    scale: float = 1.0,
    seed: Seeds = 0,
) -> Tensor:
    """Edit by ``rv.sample(denoise, x=images, start=start, cond=cond)``, several times over if asked.

    Args:
        denoise: the model, guided or not.
        images: (n, C, H, W) in [−1, 1].
        cond: of the edit: one for all, or one a picture.
        start: time in (0, 1] to noise to: near 0 keeps the picture, 1 forgets it; .3 to .6 is usual.
        solver, steps, grid: as of :func:`reverie.solve.sample`.
        repeats: how often, each from the result of the one before with noise of its own.
        scale: of classifier-free guidance.
        seed: of the noise.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: as :func:`reverie.solve.sample`.
    """
    if repeats < 1:
        raise InputError(f"repeats is at least 1: got {repeats}")
    guided = guide(denoise, scale)
    own = 1.0 if guided is denoise else None
    for i in range(repeats):
        tape = partial(Again, repetition=i)
        images = sample(
            guided,
            len(images),
            cond,
            solver,
            steps,
            grid,
            seed,
            images,
            start,
            None,
            "editing",
            None,
            None,
            tape,
            scale=own,
        )
    return images
