"""Control: guides (Denoiser -> Denoiser), correctors (Solver -> Solver) and objectives.

A guide changes the estimate only; guides nest, and forward the attributes of what they guide. A corrector changes the state after a move;
correctors stack. An objective is a loss that uses a denoiser or a whole run. What restores is in :mod:`reverie.inverse`, and serves by its
name here too.
"""

from importlib import import_module
from typing import Any

from reverie.guide import energies
from reverie.guide.apg import APG, apg
from reverie.guide.attention import Attentive, appearance, attention, look, position, shape, size
from reverie.guide.auto import Auto, auto
from reverie.guide.cfg import CFG, cfg
from reverie.guide.classifier import Classified, ClassifierMean, NetClassifier, classifier
from reverie.guide.compose import Compose, compose
from reverie.guide.energy import EnergyGuide, energy
from reverie.guide.freedom import FreeDoM, time_travel
from reverie.guide.instruct import Instructed, instruct
from reverie.guide.online import Prototypes, sinkhorn
from reverie.guide.rcg import rcg, standardise
from reverie.guide.regions import Regional, regional
from reverie.guide.rescaled import Rescaled, rescaled
from reverie.guide.sds import sds
from reverie.guide.self_guided import boxes, clusters, draw, masks
from reverie.guide.threshold import Threshold, threshold
from reverie.guide.windows import Windows, windows
from reverie.guide.without import Without, without

__all__ = [
    "APG",
    "CFG",
    "Attentive",
    "Auto",
    "Classified",
    "ClassifierMean",
    "Compose",
    "EnergyGuide",
    "FreeDoM",
    "Instructed",
    "NetClassifier",
    "Prototypes",
    "Regional",
    "Rescaled",
    "Threshold",
    "Windows",
    "Without",
    "apg",
    "appearance",
    "attention",
    "auto",
    "boxes",
    "cfg",
    "classifier",
    "clusters",
    "compose",
    "draw",
    "energies",
    "energy",
    "instruct",
    "look",
    "masks",
    "position",
    "rcg",
    "regional",
    "rescaled",
    "sds",
    "shape",
    "sinkhorn",
    "size",
    "standardise",
    "threshold",
    "time_travel",
    "windows",
    "without",
]

_INVERSE = (
    "METHODS", "PiGDM", "RePaint", "Restored", "consistency", "dflow", "dps", "operators", "pigdm", "reddiff", "residual", "restore",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _INVERSE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("reverie.inverse"), name)
