"""An :class:`ODISE` on any denoiser, trained on pictures whose segments are known."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.data import order
from reverie.learn.descend import descend
from reverie.nets import taps
from reverie.read.maps import blocks, knowing, maps
from reverie.read.odise.criterion import Segments
from reverie.read.odise.model import ODISE, PRESETS, Backbone
from reverie.read.odise.naming import Vocabulary
from reverie.read.odise.panoptics import Panoptic


def closed(names: Sequence[str]) -> Vocabulary:
    """Categories by names that mean nothing: their embeddings are orthogonal, so that no other name can be asked for later."""
    return Vocabulary([[name] for name in names], torch.eye(len(names)))


def sites(denoise: Denoiser) -> list[str]:
    """Where to read: the inputs of each level of a U-Net's way up, as in the paper; the blocks that know of a transformer."""
    levels = sorted({site.split(".")[1] for site in blocks(denoise) if site.startswith("up.")})
    found = [f"up.{level}.0.in" for level in levels]
    return found if found and set(found) <= set(taps.sites(denoise)) else knowing(denoise)


def segments(m: Panoptic) -> Segments:
    """A panoptic map as masks."""
    numbers = torch.tensor(list(m.labels))
    return Segments(torch.tensor(list(m.labels.values())), m.segments[None] == numbers[:, None, None])


def train(
    denoise: Denoiser,
    images: Tensor,
    truth: Sequence[Panoptic],
    vocabulary: Vocabulary,
    *,
    at: Sequence[str] | None = None,
    t: float = 0.05,
    steps: int = 300,
    batch: int = 8,
    lr: float = 4e-3,
    seed: int = 0,
) -> ODISE:
    """A small model (``PRESETS["small"]``, with enough queries) for the segments of pictures: AdamW with cosine decay.

    Args:
        denoise: what is read, under the null condition; it stays as it is.
        images: (N, C, H, W) in [−1, 1], of the network's size or larger.
        truth: the panoptic map of each.
        vocabulary: the categories.
        at: sites; :func:`sites` by default.
        t: time of the reading.
        steps, batch, lr: of the training.
        seed: of weights and order.

    Raises:
        InputError: for an unknown site, pictures that are too small or no segments at all.
    """
    at, known = list(sites(denoise) if at is None else at), [segments(m) for m in truth]
    most = max((len(s.labels) for s in known), default=0)
    if not most:
        raise InputError("no picture has a segment: masks hold a class number a pixel")
    config = replace(PRESETS["small"], queries=max(PRESETS["small"].queries, 2 * most))
    blank = torch.zeros(1, *denoise.shape, device=denoise.device)
    with torch.no_grad():
        seen = maps(denoise, blank, denoise.schedule.point(t), at)
    batch, device = min(batch, len(images)), denoise.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [seen[site].shape[1] for site in at]
        model = ODISE(Backbone(denoise, at, widths, config, t=t), vocabulary.embeddings.shape[1], config).to(device)

    def loss(step: int) -> Tensor:
        rows = order.indices(seed, step * batch, batch, len(images)).tolist()
        some = [Segments(known[i].labels.to(device), known[i].masks.to(device)) for i in rows]
        return torch.stack(list(model.losses(images[rows].to(device), some, vocabulary).values())).sum()

    descend(torch.optim.AdamW(model.parameters(), lr), loss, steps, label="training a mask generator")
    return model.eval().requires_grad_(False)
