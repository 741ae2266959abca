"""Real data: bundled sets, pictures on the disk, tensors, codes, and the order in which training sees them.

``names()`` lists the bundled sets without importing torch; everything else is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reverie.data.catalog import names

if TYPE_CHECKING:
    from reverie.data import order
    from reverie.data.captions import Captioned, Captions
    from reverie.data.codes import encoded
    from reverie.data.images import ImageSet, Skipped
    from reverie.data.loader import Loader
    from reverie.data.loading import load
    from reverie.data.maps import Mapped
    from reverie.data.packing import pack
    from reverie.data.tensors import Mirrored, TensorSet
    from reverie.data.wrapped import Wrapped

__all__ = [
    "Captioned",
    "Captions",
    "ImageSet",
    "Loader",
    "Mapped",
    "Mirrored",
    "Skipped",
    "TensorSet",
    "Wrapped",
    "encoded",
    "load",
    "names",
    "order",
    "pack",
]

_WHERE = {"ImageSet": "images", "Skipped": "images", "Loader": "loader", "load": "loading", "encoded": "codes"}
_WHERE |= {"Captioned": "captions", "Captions": "captions"}
_WHERE |= {"Mirrored": "tensors", "TensorSet": "tensors", "Wrapped": "wrapped", "pack": "packing", "Mapped": "maps"}


def __getattr__(name: str) -> Any:
    if name == "order":
        return import_module("reverie.data.order")
    if name in _WHERE:
        return getattr(import_module(f"reverie.data.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
