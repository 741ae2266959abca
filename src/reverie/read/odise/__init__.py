"""ODISE: open-vocabulary panoptic segmentation from the inside of a diffusion model.

Xu et al., "Open-vocabulary panoptic segmentation with text-to-image diffusion models", CVPR 2023 (arXiv:2303.04803). A frozen denoiser
sees the picture under a condition that a small module, the captioner, makes of the picture itself; its maps feed a mask generator
(Mask2Former, Cheng et al. 2022); each mask is named by the text embedding it lies closest to, so that the words may be new.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.read.odise.captioner import Captioner
    from reverie.read.odise.criterion import Criterion, Segments
    from reverie.read.odise.masks import MaskGenerator
    from reverie.read.odise.model import ODISE, PRESETS, Backbone, Config
    from reverie.read.odise.naming import CAPTIONS, LABELS, Helper, Naming, Vocabulary, masked
    from reverie.read.odise.panoptics import Quality, panoptic, quality

_HOME = {
    "CAPTIONS": "naming",
    "Helper": "naming",
    "LABELS": "naming",
    "masked": "naming",
    "ODISE": "model",
    "PRESETS": "model",
    "Backbone": "model",
    "Captioner": "captioner",
    "Config": "model",
    "Criterion": "criterion",
    "MaskGenerator": "masks",
    "Naming": "naming",
    "Quality": "panoptics",
    "Segments": "criterion",
    "Vocabulary": "naming",
    "panoptic": "panoptics",
    "quality": "panoptics",
}

__all__ = [
    "CAPTIONS",
    "LABELS",
    "ODISE",
    "PRESETS",
    "Backbone",
    "Captioner",
    "Config",
    "Criterion",
    "Helper",
    "MaskGenerator",
    "Naming",
    "Quality",
    "Segments",
    "Vocabulary",
    "masked",
    "panoptic",
    "quality",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.read.odise.{_HOME[name]}"), name)
