"""One code a picture, whatever its size: a variational auto-encoder of convolutions and a linear layer of all places.

Kingma & Welling, "Auto-encoding variational Bayes", ICLR 2014. It is the space of :mod:`reverie.families.vae`, which draws from its prior.
To a network a code is a picture of one pixel, so that a transformer of patch 1 sees a single token and is a perceptron.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.spaces.convolutional import decoder, encoder
from reverie.spaces.latent import Latent

LEAST = 4
"""Sides of the coarsest level, at least: over fewer places normalisation leaves nothing of a channel, and the code says nothing."""


class Net(nn.Module):
    """Both directions and the noise between: convolutions down to a few places a side, and a linear layer of all of them.

    Args:
        shape: (C, H, W) of the pictures.
        dims: numbers of z.
        classes: 0 for none; else both directions are told the class.
        width: channels of the first level.
    """

    def __init__(self, shape: tuple[int, int, int], dims: int, classes: int, width: int) -> None:
        super().__init__()
        channels, height, wide = shape
        patch, features = 1, 2 * width
        while min(height, wide) // (2 * patch) >= LEAST and height % (2 * patch) == wide % (2 * patch) == 0:
            patch *= 2
        self.shape, self.classes, self.width = shape, classes, width
        self.grid, self.fold = (height // patch, wide // patch), min(2, patch)
        places, folded = math.prod(self.grid), channels * self.fold**2
        self.encoder = encoder(folded, patch // self.fold, width, features)
        self.towards = nn.Linear(places * features + classes, 2 * dims)
        self.back = nn.Linear(dims + classes, places * features)
        self.decoder = decoder(folded, patch // self.fold, width, features)
        self.log_variance = nn.Parameter(
            torch.tensor(-3.0)
        )  # of pictures in [−1, 1]: a step of Adam moves it by the rate only

    def encode(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x,y), both (B, dims)."""
        h = F.silu(self.encoder(F.pixel_unshuffle(x, self.fold))).flatten(1)
        mean, log_variance = self.towards(self._told(h, label)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, label: Tensor | None) -> Tensor:
        """The mean of p(x|z,y), (B, C, H, W)."""
        h = self.back(self._told(z, label)).unflatten(1, (-1, *self.grid))
        return F.pixel_shuffle(self.decoder(h), self.fold)

    def _told(self, h: Tensor, label: Tensor | None) -> Tensor:
        return h if label is None else torch.cat([h, F.one_hot(label, self.classes).to(h)], 1)


class VectorVAE(Latent):
    """Pictures (B, C, H, W) to the means of their codes (B, dims, 1, 1), and back; opened from the run of a VAE without labels.

    Args:
        channels, height, wide: of the pictures.
        dims: numbers of a code.
        width: channels of the first level.
    """

    name = "vector-vae"

    def __init__(self, channels: int, height: int, wide: int, dims: int, width: int = 32) -> None:
        super().__init__(channels, max(height, wide), dims)
        self.net = Net((channels, height, wide), dims, 0, width)

    @property
    def settings(self) -> dict[str, float | int]:
        channels, height, wide = self.net.shape
        return {"channels": channels, "height": height, "wide": wide, "dims": self.dims, "width": self.net.width}

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.net.encode(x, None)[0][:, :, None, None]

    def decode_raw(self, code: Tensor) -> Tensor:
        return self.net.decode(code.flatten(1), None)

    def code_shape(self, data: tuple[int, ...]) -> tuple[int, int, int]:
        if tuple(data) != self.net.shape:
            raise InputError(
                f"this space codes pictures of shape {self.net.shape}, each as one vector: got {tuple(data)}"
            )
        return self.dims, 1, 1

    def data_shape(self, code: tuple[int, ...]) -> tuple[int, int, int]:
        return self.net.shape
