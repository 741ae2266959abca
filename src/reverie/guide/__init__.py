"""Control: guides (Denoiser -> Denoiser), correctors (Solver -> Solver) and objectives.

A guide changes the estimate only; guides nest, and forward the attributes of what they guide. A corrector changes the state after a move;
correctors stack. An objective is a loss that uses a denoiser or a whole run.
"""

from reverie.guide import energies, operators
from reverie.guide.apg import APG, apg
from reverie.guide.attention import Attentive, appearance, attention, look, position, shape, size
from reverie.guide.auto import Auto, auto
from reverie.guide.cfg import CFG, cfg
from reverie.guide.classifier import Classified, ClassifierMean, NetClassifier, classifier
from reverie.guide.compose import Compose, compose
from reverie.guide.dflow import dflow
from reverie.guide.dps import dps
from reverie.guide.energy import EnergyGuide, energy
from reverie.guide.freedom import FreeDoM, time_travel
from reverie.guide.online import Prototypes, sinkhorn
from reverie.guide.operators import consistency, residual
from reverie.guide.pigdm import PiGDM, pigdm
from reverie.guide.rcg import rcg, standardise
from reverie.guide.reddiff import reddiff
from reverie.guide.repaint import RePaint
from reverie.guide.rescaled import Rescaled, rescaled
from reverie.guide.restore import METHODS, Restored, restore
from reverie.guide.sds import sds
from reverie.guide.self_guided import boxes, clusters, draw, masks
from reverie.guide.threshold import Threshold, threshold
from reverie.guide.windows import Windows, windows
from reverie.guide.without import Without, without

__all__ = [
    "APG",
    "CFG",
    "METHODS",
    "Attentive",
    "Auto",
    "Classified",
    "ClassifierMean",
    "Compose",
    "EnergyGuide",
    "FreeDoM",
    "NetClassifier",
    "PiGDM",
    "Prototypes",
    "RePaint",
    "Rescaled",
    "Restored",
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
    "consistency",
    "dflow",
    "dps",
    "draw",
    "energies",
    "energy",
    "look",
    "masks",
    "operators",
    "pigdm",
    "position",
    "rcg",
    "reddiff",
    "rescaled",
    "residual",
    "restore",
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
