"""Reading: what a diffusion model has learned. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.read import ddae, diffae, gdc, grid, heads, heatmap, ldae, odise, probe, road
    from reverie.read.correspond import co_pca, dense, dift, fuse, match, pck, propagate
    from reverie.read.diffeed import DifFeed
    from reverie.read.difformer import DifFormer
    from reverie.read.dispersive import Dispersive
    from reverie.read.extract import features
    from reverie.read.grid import Grid, Probed, untrained
    from reverie.read.maps import attention, blocks, knowing, of_module
    from reverie.read.parts import Part, With
    from reverie.read.repa import REPA
    from reverie.read.segment import Ensemble, miou, pixels
    from reverie.read.sra import SRA
    from reverie.read.store import Features, Stored

_HOME = {
    "REPA": "repa",
    "SRA": "sra",
    "DifFeed": "diffeed",
    "DifFormer": "difformer",
    "Dispersive": "dispersive",
    "Ensemble": "segment",
    "Features": "store",
    "Grid": "grid",
    "Part": "parts",
    "Probed": "grid",
    "Stored": "store",
    "With": "parts",
    "attention": "maps",
    "blocks": "maps",
    "co_pca": "correspond",
    "dense": "correspond",
    "dift": "correspond",
    "features": "extract",
    "fuse": "correspond",
    "knowing": "maps",
    "match": "correspond",
    "miou": "segment",
    "of_module": "maps",
    "pck": "correspond",
    "pixels": "segment",
    "propagate": "correspond",
    "untrained": "grid",
}
_ROOMS = ("ddae", "diffae", "gdc", "grid", "heads", "heatmap", "ldae", "odise", "probe", "road")

__all__ = [
    "REPA",
    "SRA",
    "DifFeed",
    "DifFormer",
    "Dispersive",
    "Ensemble",
    "Features",
    "Grid",
    "Part",
    "Probed",
    "Stored",
    "With",
    "attention",
    "blocks",
    "co_pca",
    "ddae",
    "dense",
    "diffae",
    "dift",
    "features",
    "fuse",
    "gdc",
    "grid",
    "heads",
    "heatmap",
    "knowing",
    "ldae",
    "match",
    "miou",
    "odise",
    "of_module",
    "pck",
    "pixels",
    "probe",
    "propagate",
    "road",
    "untrained",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"reverie.read.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.read.{_HOME[name]}"), name)
    globals()[name] = value
    return value
