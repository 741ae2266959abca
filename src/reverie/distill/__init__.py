"""Distillation and flow maps: sampling in one to four evaluations.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.distill.add import ADD
    from reverie.distill.consistency import CD, CT, ECT, ICT
    from reverie.distill.dmd2 import DMD2
    from reverie.distill.drifting import Drifting
    from reverie.distill.guided import Guided, at_scale
    from reverie.distill.imm import IMM
    from reverie.distill.ladd import LADD
    from reverie.distill.lcm import LatentConsistency, lcm_lora, leaping
    from reverie.distill.meanflow import MeanFlow
    from reverie.distill.moments import Moments
    from reverie.distill.progressive import Progressive
    from reverie.distill.scm import SCM
    from reverie.distill.shortcut import Shortcut
    from reverie.distill.student import Distilling, Student, hearing
    from reverie.distill.tvm import TVM

_HOME = {
    "ADD": "add",
    "CD": "consistency",
    "CT": "consistency",
    "DMD2": "dmd2",
    "ECT": "consistency",
    "ICT": "consistency",
    "IMM": "imm",
    "LADD": "ladd",
    "SCM": "scm",
    "TVM": "tvm",
    "Distilling": "student",
    "Drifting": "drifting",
    "Guided": "guided",
    "MeanFlow": "meanflow",
    "LatentConsistency": "lcm",
    "Moments": "moments",
    "Progressive": "progressive",
    "Shortcut": "shortcut",
    "Student": "student",
    "at_scale": "guided",
    "hearing": "student",
    "lcm_lora": "lcm",
    "leaping": "lcm",
}

__all__ = [
    "ADD",
    "CD",
    "CT",
    "DMD2",
    "ECT",
    "ICT",
    "IMM",
    "LADD",
    "SCM",
    "TVM",
    "Distilling",
    "Drifting",
    "Guided",
    "LatentConsistency",
    "MeanFlow",
    "Moments",
    "Progressive",
    "Shortcut",
    "Student",
    "at_scale",
    "hearing",
    "lcm_lora",
    "leaping",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.distill.{_HOME[name]}"), name)
    globals()[name] = value
    return value
