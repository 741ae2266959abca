"""Inversion: from a picture back to what it is drawn from, kept as an object that edits take."""

from reverie.edit.inversion.cycle import cycle
from reverie.edit.inversion.drawn import drawn
from reverie.edit.inversion.edict import EDICT, edict
from reverie.edit.inversion.edit_friendly import edit_friendly
from reverie.edit.inversion.fixed_point import FixedPoint, Midpoint, fixed_point
from reverie.edit.inversion.negative_prompt import negative_prompt
from reverie.edit.inversion.null_text import null_text
from reverie.edit.inversion.ode import ode
from reverie.edit.inversion.record import Inversion
from reverie.edit.inversion.regularised import regularised

METHODS = {
    "cycle": cycle,
    "edict": edict,
    "edit_friendly": edit_friendly,
    "fixed_point": fixed_point,
    "negative_prompt": negative_prompt,
    "null_text": null_text,
    "ode": ode,
    "regularised": regularised,
}
"""Inversions by name: each is ``(denoise, images, cond, steps, …, scale=) -> Inversion``."""

__all__ = [
    "EDICT",
    "METHODS",
    "FixedPoint",
    "Inversion",
    "Midpoint",
    "cycle",
    "drawn",
    "edict",
    "edit_friendly",
    "fixed_point",
    "negative_prompt",
    "null_text",
    "ode",
    "regularised",
]
