"""Restoration: what was measured of an image, and the methods that draw from its posterior or come near it."""

from reverie.inverse import operators
from reverie.inverse.dflow import dflow
from reverie.inverse.dps import dps
from reverie.inverse.operators import consistency, residual
from reverie.inverse.pigdm import PiGDM, pigdm
from reverie.inverse.reddiff import reddiff
from reverie.inverse.repaint import RePaint
from reverie.inverse.restore import METHODS, Restored, restore

__all__ = [
    "METHODS",
    "PiGDM",
    "RePaint",
    "Restored",
    "consistency",
    "dflow",
    "dps",
    "operators",
    "pigdm",
    "reddiff",
    "residual",
    "restore",
]
