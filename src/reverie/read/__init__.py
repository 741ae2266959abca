"""Reading: what a diffusion model has learned. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.read import odise
    from reverie.read.dense_prediction.correspond import co_pca, dense, dift, fuse, match, pck, propagate
    from reverie.read.dense_prediction.segment import Ensemble, miou, pixels
    from reverie.read.extract import features
    from reverie.read.maps import attention, blocks, knowing, of_module
    from reverie.read.probes import ddae, gdc, grid, heads, heatmap, noise_conditional, probe
    from reverie.read.probes.diffeed import DifFeed
    from reverie.read.probes.difformer import DifFormer
    from reverie.read.probes.grid import Grid, Probed, untrained
    from reverie.read.store import Features, Stored

_HOME = {
    "DifFeed": "probes.diffeed",
    "DifFormer": "probes.difformer",
    "Ensemble": "dense_prediction.segment",
    "Features": "store",
    "Grid": "probes.grid",
    "Probed": "probes.grid",
    "Stored": "store",
    "attention": "maps",
    "blocks": "maps",
    "co_pca": "dense_prediction.correspond",
    "dense": "dense_prediction.correspond",
    "dift": "dense_prediction.correspond",
    "features": "extract",
    "fuse": "dense_prediction.correspond",
    "knowing": "maps",
    "match": "dense_prediction.correspond",
    "miou": "dense_prediction.segment",
    "of_module": "maps",
    "pck": "dense_prediction.correspond",
    "pixels": "dense_prediction.segment",
    "propagate": "dense_prediction.correspond",
    "untrained": "probes.grid",
}
_ROOMS = {
    "ddae": "probes.ddae",
    "gdc": "probes.gdc",
    "grid": "probes.grid",
    "heads": "probes.heads",
    "heatmap": "probes.heatmap",
    "noise_conditional": "probes.noise_conditional",
    "odise": "odise",
    "probe": "probes.probe",
}

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
    "noise_conditional",
    "odise",
    "of_module",
    "pck",
    "pixels",
    "probe",
    "propagate",
    "untrained",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"reverie.read.{_ROOMS[name]}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.read.{_HOME[name]}"), name)
    globals()[name] = value
    return value
