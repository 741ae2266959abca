"""Distillation and flow maps: sampling in one to four evaluations.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.distill.add import ADD
    from reverie.distill.dmd2 import DMD2
    from reverie.distill.drifting import Drifting
    from reverie.distill.guided import Guided, at_scale
    from reverie.distill.ladd import LADD
    from reverie.distill.moments import Moments
    from reverie.distill.progressive import Progressive
    from reverie.distill.student import Distilling, Student, hearing

_HOME = {
    "ADD": "add",
    "DMD2": "dmd2",
    "LADD": "ladd",
    "Distilling": "student",
    "Drifting": "drifting",
    "Guided": "guided",
    "Moments": "moments",
    "Progressive": "progressive",
    "Student": "student",
    "at_scale": "guided",
    "hearing": "student",
}

__all__ = [
    "ADD",
    "DMD2",
    "LADD",
    "Distilling",
    "Drifting",
    "Guided",
    "Moments",
    "Progressive",
    "Student",
    "at_scale",
    "hearing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.distill.{_HOME[name]}"), name)
    globals()[name] = value
    return value
