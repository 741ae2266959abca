"""Control: guides (Denoiser -> Denoiser), correctors (Solver -> Solver) and objectives.

A guide changes the estimate only; guides nest, and forward the attributes of what they guide. A corrector changes the state after a move;
correctors stack. An objective is a loss that uses a denoiser or a whole run.
"""

from reverie.guide import energies, operators
from reverie.guide.cfg import CFG, cfg
from reverie.guide.dflow import dflow
from reverie.guide.dps import dps
from reverie.guide.energy import EnergyGuide, energy
from reverie.guide.freedom import FreeDoM, time_travel
from reverie.guide.operators import consistency, residual
from reverie.guide.pigdm import PiGDM, pigdm
from reverie.guide.reddiff import reddiff
from reverie.guide.repaint import RePaint
from reverie.guide.sds import sds

__all__ = [
    "CFG",
    "EnergyGuide",
    "FreeDoM",
    "PiGDM",
    "RePaint",
    "cfg",
    "consistency",
    "dflow",
    "dps",
    "energies",
    "energy",
    "operators",
    "pigdm",
    "reddiff",
    "residual",
    "sds",
    "time_travel",
]
