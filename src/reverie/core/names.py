"""Names that the command line and recipes offer, where they cost nothing to import; each has its one list here."""

from typing import Literal

GridName = Literal[
    "time",
    "simple",
    "normal",
    "sgm_uniform",
    "quadratic",
    "linear_quadratic",
    "beta",
    "logsnr",
    "exponential",
    "polyexponential",
    "karras",
    "arctan",
    "kl_optimal",
    "logistic",
]
"""Grids of :mod:`reverie.solve.grids`."""
