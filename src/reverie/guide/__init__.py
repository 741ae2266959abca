"""Guides: Denoiser -> Denoiser. They change the estimate only, nest, and forward the attributes of what they guide."""

from reverie.guide.cfg import CFG, cfg

__all__ = ["CFG", "cfg"]
