"""Reading: what a diffusion model has learned. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.read import ddae, gdc, grid, heads, heatmap, probe
    from reverie.read.correspond import co_pca, dense, dift, fuse, match, pck, propagate
    from reverie.read.diffeed import DifFeed
    from reverie.read.difformer import DifFormer
    from reverie.read.extract import features
    from reverie.read.grid import Grid, Probed, untrained
    from reverie.read.maps import attention, blocks, knowing, of_module
    from reverie.read.segment import Ensemble, miou, pixels
    from reverie.read.store import Features, Stored

_HOME = {
    "DifFeed": "diffeed",
    "DifFormer": "difformer",
    "Ensemble": "segment",
    "Features": "store",
    "Grid": "grid",
    "Probed": "grid",
    "Stored": "store",
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
_ROOMS = ("ddae", "gdc", "grid", "heads", "heatmap", "probe")

__all__ = [
    "DifFeed",
    "DifFormer",
    "Ensemble",
    "Features",
    "Grid",
    "Probed",
    "Stored",
    "attention",
    "blocks",
    "co_pca",
    "ddae",
    "dense",
    "dift",
    "features",
    "fuse",
    "gdc",
    "grid",
    "heads",
    "heatmap",
    "knowing",
    "match",
    "miou",
    "of_module",
    "pck",
    "pixels",
    "probe",
    "propagate",
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
