"""Parti: text to image as a sequence, translated as a sentence is: from the tokens of a text to those of a picture.

Yu et al., "Scaling autoregressive models for content-rich text-to-image generation", 2022 (arXiv:2206.10789). An encoder reads the text y,
and a decoder, every block of which attends to it, gives ``p(r | y) = Πᵢ p(rᵢ | r₁ … rᵢ₋₁, y)``, r the tokens of a VQ space in raster order
(section 2.2); both learn by maximum likelihood. A tenth of the texts is dropped, so that the logits of each token can be led away from
those without a text, and of several candidates the one is kept that a picture-text model finds nearest to the text (section 2.3):
:mod:`reverie.measure.reranking`. The decoder is the transformer of :mod:`reverie.families.tile`, whose cache makes a step cost one token.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reverie.core.batch import DataSpec
from reverie.core.errors import InputError
from reverie.diffusion.texts import texts_of
from reverie.families.autoregressive import Autoregressive
from reverie.families.layout import Layout
from reverie.families.tile import SpaceTiles
from reverie.families.token_net import tokenizer
from reverie.spaces.vq import VQ

if TYPE_CHECKING:
    from reverie.families.token_config import PartiConfig

LEVELS = 256
"""Of a sub-pixel, which the bits of training's log are counted by."""


def build(config: PartiConfig, spec: DataSpec, seed: int, folder: Path | None) -> Autoregressive:
    """The model, freshly initialised, with the space that was prepared in ``folder``.

    Raises:
        InputError: for data without captions, a space without tokens, or sizes that do not fit.
    """
    texts = texts_of(config.text, spec, seed, pooled=False, folder=folder)
    if texts is None:
        raise InputError(
            "parti draws what a text says, and the data says nothing: use pictures with captions and --data.captions; to draw by class, "
            "train tile with --space"
        )
    space = tokenizer(config.space, spec, folder, VQ)
    layout = Layout(spec.shape, LEVELS, space.patch)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (config.width, config.depth, config.heads, config.dropout)
        net = SpaceTiles(layout, None, *sizes, space, texts.width)
    return Autoregressive(net, spec, config.Sample(), config.unlabelled, texts)
