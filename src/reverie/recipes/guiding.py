"""Guides by words, ``cfg:3``, ``auto:runs/small:2`` or ``energy:lowres:0.5``: what ``reverie sample --guide`` takes, in the order given."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError, unknown
from reverie.guide import FreeDoM, apg, auto, cfg, classifier, energies
from reverie.guide.classifier import NetClassifier
from reverie.guide.freedom import Relative
from reverie.guide.gradient import Energy
from reverie.recipes.runs import Run
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
WITH = {"auto": auto, "classifier": classifier}
"""Guides by what another run trained, and a scale."""
SAID = "cfg:3, apg:3, auto:RUN:2, classifier:RUN:2, energy:lowres or energy:lowres:0.5"


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
    """Whether one of the guides takes the place of the recipe's scale."""
    return any(word.split(":")[0] in {**GUIDES, **WITH} for word in words)


def labelled(words: Sequence[str]) -> bool:
    """Whether one of the guides asks for a label."""
    return any(word.split(":")[0] in {*GUIDES, "classifier"} for word in words)


def teacher(words: Sequence[str]) -> Run | None:
    """The run of a classifier among the guides: it knows classes, whether or not the model does."""
    return next((Run(_other(word)[0]) for word in words if word.startswith("classifier:")), None)


def steer(
    denoise: Denoiser,
    words: Sequence[str],
    target: Tensor | None = None,
    mask: Tensor | None = None,
    open: Callable[[Path], Run] = Run,
) -> Steered:
    """Put the guides around the denoiser, and collect the energies' corrections of a solver.

    Args:
        words: ``cfg:SCALE``, ``apg:SCALE``, ``auto:RUN:SCALE`` (a weaker model: another run, or a checkpoint of this one),
            ``classifier:RUN:SCALE``, or ``energy:NAME[:RATE]``, NAME in :data:`ENERGIES`; RATE is :class:`Relative`'s.
        target: picture (1, C, H, W) in [−1, 1] that energies compare with.
        mask: (1, 1, H, W), 1 where ``energy:mask`` compares.
        open: gives the run in a folder, on the device that is drawn on.

    Raises:
        InputError: for an unknown guide, energy or number, an energy without target or mask, or a run that trained something else.
    """
    correctors: list[Callable[[Solver], Solver]] = []
    for word in words:
        name, *rest = word.split(":")
        if name in GUIDES and len(rest) == 1:
            denoise = GUIDES[name](denoise, _number(word, rest[0]))
        elif name in WITH and len(rest) >= 2:
            folder, scale = _other(word)
            run = open(folder)
            if name == "auto":
                denoise = auto(denoise, run.denoiser(), scale)
                continue
            if not isinstance(known := run.open(), NetClassifier):
                raise InputError(
                    f"{folder} holds no classifier of noisy pictures: train one with `reverie train classifier`"
                )
            denoise = classifier(denoise, known, scale)
        elif name == "energy" and len(rest) in (1, 2):
            if rest[0] not in ENERGIES:
                raise unknown("energy", rest[0], ENERGIES)
            if target is None:
                raise InputError(f"--guide {word} compares with a picture: give it with --target")
            rate = _number(word, rest[1]) if len(rest) == 2 else RATE
            energy = ENERGIES[rest[0]](target, mask)
            correctors.append(partial(FreeDoM, energy=energy, rate=Relative(rate), space=denoise.space))
        elif name in {**GUIDES, **WITH, "energy": None}:
            raise InputError(f"--guide {word} is not complete: {SAID}")
        else:
            raise unknown("guide", name, [*GUIDES, *WITH, "energy"])
    return Steered(denoise, correctors)


def _other(word: str) -> tuple[Path, float]:
    """The folder and the scale of ``NAME:FOLDER:SCALE``."""
    folder, _, scale = word.partition(":")[2].rpartition(":")
    if not folder:
        raise InputError(f"--guide {word} is not complete: {SAID}")
    return Path(folder), _number(word, scale)


def _number(word: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--guide {word} ends in a number, such as {word.rsplit(':', 1)[0]}:3: got {text!r}") from None


def _needed(mask: Tensor | None) -> Tensor:
    if mask is None:
        raise InputError("--guide energy:mask compares where a mask is white: give it with --mask")
    return mask
