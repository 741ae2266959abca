"""What an inpainting network of latent diffusion is shown beside the noise (Rombach et al. 2022, section 4.5): the hole and what is around.

Its further channels are the mask, at the codes' resolution, and the codes of the picture with grey in the hole. Both branches of guidance
are shown them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.bridge.loading import Pretrained
from reverie.core.condition import Entry, Image
from reverie.core.errors import InputError
from reverie.core.tensors import check_range
from reverie.guide.pixels import as_mask, mask_of


def inpainting(model: Pretrained, pictures: Tensor, mask: Tensor) -> Entry:
    """The condition "image" of a network that was trained to fill holes.

    That is ``model.conditioner(text, image=inpainting(model, pictures, mask))``.

    Args:
        model: whose network takes 1 channel more than twice its codes': 9 of Stable Diffusion's.
        pictures: (n, C, H, W) in [−1, 1].
        mask: true or 1 in the hole: (H, W), (1, H, W) or (n or 1, 1, H, W).

    Returns:
        An entry (n, 1 + codes, h, w), its null the same.

    Raises:
        InputError: for another network, pictures of another size or range, or a mask that is not of zeros and ones.
    """
    channels, *sides = model.shape
    if model.conditions.get("image") != Image(1 + channels):
        raise InputError(
            f"an inpainting network is shown {1 + channels} channels, a mask and codes: this one takes "
            f"{model.conditions.get('image', 'none')}. rv.edit.masked fills holes with any model"
        )
    check_range(pictures, "pictures")
    if tuple(pictures.shape[1:]) != (wanted := tuple(model.space.data_shape(model.shape))):
        raise InputError(f"pictures of this model are (n, {', '.join(map(str, wanted))}): got {tuple(pictures.shape)}")
    pictures = pictures.to(model.device, torch.promote_types(pictures.dtype, torch.float32))
    hole = mask_of(pictures, as_mask(mask))[:, :1]
    codes = model.space.encode(torch.where(hole.bool(), 0.0, pictures))
    shown = torch.cat([F.interpolate(hole.to(codes), size=tuple(sides)).expand(len(codes), -1, -1, -1), codes], dim=1)
    return Entry.of(shown)._replace(null=shown)
