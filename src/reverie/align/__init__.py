"""Training for representations: losses beside the denoising error, and models trained to be read. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.align import diffae, ldae
    from reverie.align.auxiliary import AuxiliaryLoss, WithAuxiliary
    from reverie.align.dispersive import Dispersive
    from reverie.align.repa import REPA
    from reverie.align.sra import SRA

_HOME = {
    "REPA": "repa",
    "SRA": "sra",
    "AuxiliaryLoss": "auxiliary",
    "Dispersive": "dispersive",
    "WithAuxiliary": "auxiliary",
}
_ROOMS = ("diffae", "ldae")

__all__ = ["REPA", "SRA", "AuxiliaryLoss", "Dispersive", "WithAuxiliary", "diffae", "ldae"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"reverie.align.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.align.{_HOME[name]}"), name)
    globals()[name] = value
    return value
