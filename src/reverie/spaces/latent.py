"""What the tokenizers share: codes of square patches as a small picture, shifted and scaled by one number each."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Dataset
from reverie.core.errors import InputError
from reverie.core.space import Space
from reverie.nets.precision import KeepsPrecision

CHUNK = 500


class Latent(KeepsPrecision, nn.Module, Space):
    """Pictures (B, C, H, W) in [−1, 1] to codes (B, dims, H/patch, W/patch) and back.

    A method gives :meth:`encode_raw` and :meth:`decode_raw`; :meth:`encode` and :meth:`decode` add the normalisation: codes have mean 0 and
    standard deviation 1 over everything that :meth:`normalise` saw, one number each for all channels, so that the code's own
    proportions stay.

    Args:
        channels: of the pictures.
        patch: side in pixels of the square that one code stands for.
        dims: numbers per code.

    Raises:
        InputError: for sizes below 1.
    """

    name: ClassVar[str]
    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int, patch: int, dims: int) -> None:
        super().__init__()
        if min(channels, patch, dims) < 1:
            raise InputError(
                f"channels, patch and dims are at least 1: got {channels}, {patch} and {dims} for a {self.name} space"
            )
        self.channels, self.patch, self.dims = channels, patch, dims
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @property
    def settings(self) -> dict[str, float | int]:
        """The arguments that make the same space, without its weights."""
        return {"channels": self.channels, "patch": self.patch, "dims": self.dims}

    @property
    def full(self) -> int:
        """Numbers in a patch: C·patch²."""
        return self.channels * self.patch**2

    @abstractmethod
    def encode_raw(self, x: Tensor) -> Tensor:
        """Pictures to codes as the method makes them."""

    @abstractmethod
    def decode_raw(self, code: Tensor) -> Tensor:
        """Codes as the method makes them to pictures."""

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What training sees: pictures coded, with ``noise`` N(0, I) where codes are random, and restored; and losses besides, each (B,).

        Raises:
            InputError: when the space is not trained by descent.
        """
        raise InputError(f"a {self.name} space is fitted in closed form: use {type(self).__name__}.fit(images)")

    @property
    def last(self) -> Tensor:
        """The weights that the decoder ends in.

        Raises:
            InputError: when the space is not trained by descent.
        """
        raise InputError(f"a {self.name} space is fitted in closed form: it has no last layer")

    def settle(self, step: int) -> None:
        """What training moves without a gradient when a step has been made: a codebook."""

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] to normalised codes (B, dims, H/patch, W/patch).

        Raises:
            InputError: when the pictures have other channels, or sides that the patch does not divide.
        """
        self.code_shape(tuple(x.shape[1:]))
        return (self.encode_raw(self._cast(x)).to(x.dtype) - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Normalised codes (B, dims, h, w) to pictures (B, C, h·patch, w·patch)."""
        if z.ndim != 4 or z.shape[1] != self.dims:
            raise InputError(f"this space has codes (B, {self.dims}, h, w): got {tuple(z.shape)}")
        return self.decode_raw(self._cast(z * self.scale + self.shift)).to(z.dtype)

    def code_shape(self, data: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of a picture to (dims, h, w).

        Raises:
            InputError: when it has other channels, or sides that the patch does not divide.
        """
        channels, height, width = data if len(data) == 3 else (0, 0, 0)
        if channels != self.channels or height % self.patch or width % self.patch or not height:
            raise InputError(
                f"this space codes pictures of {self.channels} channels whose sides are multiples of {self.patch}: got {data}"
            )
        return self.dims, height // self.patch, width // self.patch

    def data_shape(self, code: tuple[int, ...]) -> tuple[int, int, int]:
        """(dims, h, w) to (C, H, W)."""
        return self.channels, code[1] * self.patch, code[2] * self.patch

    @torch.no_grad()
    def normalise(self, images: Tensor | Dataset) -> Self:
        """Set mean and standard deviation of the codes from data."""
        count, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for x in batches(images):
            code = self.encode_raw(self._cast(x.to(self.scale.device))).cpu().double()
            count, total, square = count + code.numel(), total + code.sum(), square + code.square().sum()
        mean = total / count
        self.shift.copy_(mean)
        self.scale.copy_((square / count - mean**2) ** 0.5)
        return self

    def _cast(self, x: Tensor) -> Tensor:
        """In the dtype of the weights, where the space has any."""
        return x.to(next((p.dtype for p in self.parameters()), x.dtype))


def batches(images: Tensor | Dataset) -> Iterator[Tensor]:
    """Pictures (N, C, H, W) in [−1, 1], some hundreds at a time."""
    for start in range(0, len(images), CHUNK):
        stop = min(start + CHUNK, len(images))
        yield images[start:stop] if isinstance(images, Tensor) else images.batch(range(start, stop)).x


def cut(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> the patches as channels, (B, C·patch², H/patch, W/patch)."""
    return F.pixel_unshuffle(x, patch)


def paste(patches: Tensor, patch: int) -> Tensor:
    """The inverse of :func:`cut`."""
    return F.pixel_shuffle(patches, patch)


def linear(matrix: Tensor, patches: Tensor) -> Tensor:
    """A matrix (m, n) on the channels of (B, n, h, w): (B, m, h, w)."""
    return F.conv2d(patches, matrix.to(patches)[:, :, None, None])


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL from N(mean, variance) to N(0, 1), summed over each sample: (B, …) -> (B,) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(1)
