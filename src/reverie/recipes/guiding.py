"""Guides by words, ``cfg:3`` or ``energy:lowres:0.5``: what ``reverie sample --guide`` takes, in the order given."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError, unknown
from reverie.guide import FreeDoM, apg, cfg, energies
from reverie.guide.freedom import Relative
from reverie.guide.gradient import Energy
from reverie.solve import Solver

RATE = 0.3
ENERGIES: dict[str, Callable[[Tensor, Tensor | None], Energy]] = {
    "colours": lambda target, mask: energies.colours(target),
    "edges": lambda target, mask: energies.edges(target),
    "lowres": lambda target, mask: energies.lowres(target, factor=4),
    "mask": lambda target, mask: energies.masked(target, _needed(mask)),
}
"""Energies of a target picture (1, C, H, W), and of a mask where they need one."""
GUIDES = {"apg": apg, "cfg": cfg}
"""Guides of a conditional model by its scale."""


class Steered(NamedTuple):
    """The guided denoiser, and what corrects its solver's moves; with a corrector, sampling differentiates the network."""

    denoise: Denoiser
    correctors: list[Callable[[Solver], Solver]]

    def correct(self, solver: Solver) -> Solver:
        """The solver with every correction after its moves."""
        for corrector in self.correctors:
            solver = corrector(solver)
        return solver


def scaled(words: Sequence[str]) -> bool:
    """Whether one of the guides sets the scale of the condition."""
    return any(word.split(":")[0] in GUIDES for word in words)


def steer(denoise: Denoiser, words: Sequence[str], target: Tensor | None = None, mask: Tensor | None = None) -> Steered:
    """Put the guides around the denoiser, and collect the energies' corrections of a solver.

    Args:
        words: ``cfg:SCALE``, ``apg:SCALE`` or ``energy:NAME[:RATE]``, NAME in :data:`ENERGIES`; RATE is :class:`Relative`'s.
        target: picture (1, C, H, W) in [−1, 1] that energies compare with.
        mask: (1, 1, H, W), 1 where ``energy:mask`` compares.

    Raises:
        InputError: for an unknown guide, energy or number, or an energy without target or mask.
    """
    correctors: list[Callable[[Solver], Solver]] = []
    for word in words:
        name, *rest = word.split(":")
        if name in GUIDES and len(rest) == 1:
            denoise = GUIDES[name](denoise, _number(word, rest[0]))
        elif name == "energy" and len(rest) in (1, 2):
            if rest[0] not in ENERGIES:
                raise unknown("energy", rest[0], ENERGIES)
            if target is None:
                raise InputError(f"--guide {word} compares with a picture: give it with --target")
            rate = _number(word, rest[1]) if len(rest) == 2 else RATE
            energy = ENERGIES[rest[0]](target, mask)
            correctors.append(partial(FreeDoM, energy=energy, rate=Relative(rate), space=denoise.space))
        elif name in GUIDES or name == "energy":
            raise InputError(f"--guide {word} is not complete: cfg:3, apg:3, energy:lowres or energy:lowres:0.5")
        else:
            raise unknown("guide", name, [*GUIDES, "energy"])
    return Steered(denoise, correctors)


def _number(word: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--guide {word} ends in a number, such as {word.rsplit(':', 1)[0]}:3: got {text!r}") from None


def _needed(mask: Tensor | None) -> Tensor:
    if mask is None:
        raise InputError("--guide energy:mask compares where a mask is white: give it with --mask")
    return mask
