"""Regional prompts: every place of a picture attends only to the texts in whose region it lies.

The attention of a place to the tokens of a text is masked, in one pass of the network for all texts. It is the limit of eDiff-I's
paint-with-words (Balaji et al. 2022, arXiv:2211.01324), which adds to the logits of a word inside its region; here those outside are −∞.
Texts are encoded apart, so that none has heard of another; what their objects have to do with each other is left to self-attention.

    left = torch.zeros(32, 32)
    left[:, :16] = 1
    told = rv.guide.regional(denoise, [(left, denoise.conditioner("a red heart")), (1 - left, denoise.conditioner("a dog"))])
    rv.sample(rv.guide.cfg(told, 3.0), text="two things")  # which is told where no region is
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.call import Call
from reverie.core.condition import Cond, Entry
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.guide.contrast import constant
from reverie.nets import taps

Region = tuple[Tensor, Cond]
"""Where a text is told, (H, W) of zeros and ones, and the text as the model's conditioner makes it."""


class Regional(Wrapper):
    """See :func:`regional`."""

    def __init__(self, base: Denoiser, regions: Sequence[Region]) -> None:
        super().__init__(base)
        if "text" not in base.conditions:
            raise InputError(f"regions are told texts, the model takes: {', '.join(base.conditions) or 'nothing'}")
        size = tuple(base.shape[1:])
        for mask, cond in regions:
            if tuple(mask.shape) != size or not bool(((mask == 0) | (mask == 1)).all()):
                raise InputError(f"a region is a mask {size} of zeros and ones: got {tuple(mask.shape)}, {mask.dtype}")
            constant(cond, "a region's text").check(base.conditions)
            if "text" not in cond:
                raise InputError(f"a region is told a text, as the model's conditioner makes it: got {cond!r}")
        there = [(mask, cond) for mask, cond in regions if bool(mask.any())]
        self.masks = torch.stack([mask.float() for mask, _ in there]) if there else torch.zeros(0, *size)
        self.conds = [cond for _, cond in there]
        attending = [site for site, place in taps.find(base, taps.sites(base)).items() if place.attention]
        self.places = taps.find(base, attending)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        parts = [own.to(x.device).expand(len(x)) for own in self.conds]
        if not parts:
            return self.base(x, t, cond, call)
        around = _nothing(parts[0]) if cond is None else cond.expand(len(x))
        if len(parts) == 1 and bool(self.masks.all()):
            return self.base(x, t, _told(around, {name: parts[0][name] for name in parts[0]}), call)
        texts = [part["text"] for part in (around, *parts)]
        lengths = torch.tensor([text.value.shape[1] for text in texts])
        owner, passed = torch.arange(len(texts)).repeat_interleave(lengths), []

        def look(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
            if at.streams or len(q) != len(x):
                raise InputError(
                    "regions are told by cross-attention, which this network has not (unet and dit have), or a guide inside has made "
                    "several branches: guide what is told by regions, cfg(regional(denoise, …))"
                )
            if not at.cross:
                return at.attend(q, k, v)
            passed.append(at.site)
            hears = F.pad(self.hears(q.shape[2])[:, owner], (0, k.shape[2] - len(owner)), value=True).to(q.device)
            allowed = hears | ~texts[0].present[:, None, None, None]
            if at.mask is not None:
                boolean = at.mask.dtype == torch.bool
                allowed = allowed & at.mask if boolean else at.mask.masked_fill(~allowed, -torch.inf)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=at.scale)

        joined = {"text": _joined(texts)}
        for name in (name for name in parts[0] if name != "text" and name in around):
            vectors = torch.stack([part[name].value for part in (around, *parts)])
            joined[name] = around[name]._replace(value=torch.einsum("r,rbd->bd", self.shares.to(vectors), vectors))
        call = (call or Call()).changed(taps.AttentionEdit(self.places, dict.fromkeys(self.places, look)))
        estimate = self.base(x, t, _told(around, joined), call)
        if not passed:
            raise InputError("regions are told by cross-attention to a text, and the network has none: use unet or dit")
        return estimate

    def hears(self, places: int) -> Tensor:
        """Which texts, first the one around all regions, each place of a grid hears: (places, 1 + regions) bool."""
        height, width = self.base.shape[1:]
        h = round((places * height / width) ** 0.5)
        inside = F.interpolate(self.masks[None], (h, places // h), mode="area")[0].flatten(1) >= 0.5
        return torch.cat([~inside.any(0, keepdim=True), inside]).T

    @property
    def shares(self) -> Tensor:
        """How much of the picture hears each text, (1 + regions,), float64; of a place that hears several, each its part."""
        each = torch.cat([(self.masks.sum(0, keepdim=True) == 0).double(), self.masks.double()])
        return (each / each.sum(0)).mean((1, 2))


def regional(denoise: Denoiser, regions: Sequence[Region]) -> Denoiser:
    """The model told a text of its own in each region of the picture.

    Where regions overlap a place attends to the texts of all of them, and where there is none to the one that the sample is told. A region
    of the whole picture is the plain text; of an empty one nothing is heard. What is told one vector of a text beside its tokens gets the
    mean over the picture. An evaluation costs one of the base: guide the result, ``cfg(regional(denoise, …), 3.0)``.

    Args:
        denoise: a model that attends to a text (unet, dit).
        regions: masks (H, W) of zeros and ones in the diffused space, and texts: the same for all samples.

    Raises:
        InputError: for a mask of another size, what is no text, or (when called) a network without cross-attention to it.
    """
    return Regional(denoise, regions)


def _nothing(cond: Cond) -> Cond:
    """What stands for no text beside texts like these: the null of their own, else that of networks, which is zeros."""

    def none(entry: Entry) -> Entry:
        there = torch.ones_like(entry.present)
        if entry.null is not None:
            return Entry(entry.null, entry.null_mask, there)
        value = entry.value[:, :1] if entry.value.ndim == 3 else entry.value
        return Entry(torch.zeros_like(value), None, there)

    return Cond(**{name: none(cond[name]) for name in cond})


def _told(around: Cond, said: dict[str, Entry]) -> Cond:
    """The conditions with other texts, absent and with the nulls as before."""
    new = {
        name: entry._replace(present=around[name].present, null=around[name].null, null_mask=around[name].null_mask)
        for name, entry in said.items()
        if name in around
    }
    return Cond(**{**{name: around[name] for name in around}, **new})


def _joined(texts: Sequence[Entry]) -> Entry:
    """Texts one after the other, with their masks."""
    masks = [torch.ones_like(t.value[..., 0], dtype=torch.bool) if t.mask is None else t.mask for t in texts]
    return texts[0]._replace(value=torch.cat([t.value for t in texts], 1), mask=torch.cat(masks, 1))
