"""The Inception-v3 in whose features a Fréchet distance is called FID, with its weights from a local file.

The network is that of Szegedy et al. 2016 (arXiv:1512.00567, figures 5 to 7) as TensorFlow published it in 2015 and Heusel et al. 2017
(arXiv:1706.08500) measured with it. Two of its details are missing in other ports, and move every figure: average pooling does not count
the zeros of its border, and the last block pools by the maximum. Pictures are resized to 299 pixels as TensorFlow 1 did, without
antialiasing, and sampled at the corner of a pixel's square instead of its middle; ADM, EDM and torch-fidelity do the same. pytorch-fid,
with the same weights, samples at the middle, and clean-fid resizes with antialiasing: their figures are a little different.
"""

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from reverie.core import files
from reverie.core.errors import InputError, RunError
from reverie.core.progress import Progress
from reverie.measure.figures import FID_EXTRACTOR

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published weights, whose name carries the first eight digits."""
EXPECTED = (
    "expected are the weights pt_inception-2015-12-05-6726825d.pth, which the releases of pytorch-fid have, "
    "or weights-inception-2015-12-05-6726825d.pth of torch-fidelity: the same file of 91 MiB"
)
SIDE = 299

_mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_max = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halve = partial(F.max_pool2d, kernel_size=3, stride=2)


class Inception(nn.Module):
    """The 2,048 features of FID's Inception-v3, averaged over positions.

    Args:
        weights: a file of the published weights, as pytorch-fid and torch-fidelity fetch it, or a safetensors file with the same names.
            Nothing in it is executed. `name` is ``inception-2015-12-05`` for the published file, by its SHA-256, and only then is a
            distance called FID; for any other file it is ``inception:`` and the first eight digits of its SHA-256.

    Raises:
        InputError: if it is not there, or does not hold the weights of this network.
    """

    dim = 2048

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        path = Path(weights).expanduser()
        self.network = FIDInception()
        try:
            self.network.load_state_dict(_read(path))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            raise InputError(f"{path} holds weights of another network: {lines[0][:200]} {EXPECTED}.") from error
        found = files.sha256(path)
        self.name = FID_EXTRACTOR if found == SHA256 else f"inception:{found[:8]}"
        self.eval().requires_grad_(False)

    def forward(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 2048"]:
        """Features of pictures in [-1, 1] of any size, grey or RGB; they are rounded to 8 bits first, as those in files are."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise InputError(
                f"{self.name} reads floating-point pictures (N, 1 or 3, H, W) in [-1, 1]; "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )
        features = []
        with Progress("features of Inception", len(images), "pictures") as progress:
            for chunk in images.split(50):
                pixels = chunk.float().add(1.0).mul(127.5).round().clamp(0, 255).expand(-1, 3, -1, -1)
                features.append(self.network((resize(pixels, SIDE) - 128) / 128))
                progress.advance(len(chunk))
        return torch.cat(features)


def resize(images: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Bilinear interpolation as TensorFlow 1 did by default: output pixel i lies at i · size / side."""
    for dim in (3, 2):
        size = images.shape[dim]
        at = torch.arange(side, dtype=images.dtype, device=images.device) * (size / side)
        low = at.long()
        part = (at - low).view(-1, *[1] * (3 - dim))
        high = (low + 1).clamp(max=size - 1)
        images = torch.lerp(images.index_select(dim, low), images.index_select(dim, high), part)
    return images


class FIDInception(nn.Module):
    """The network without its softmax: pictures (n, 3, 299, 299) in [-1, 1) to features (n, 2048). Names are those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, padded=False)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = _Mixed(
            288,
            [Step("3x3", 384, 3, 2)],
            [Step("3x3dbl_1", 64, 1), Step("3x3dbl_2", 96, 3), Step("3x3dbl_3", 96, 3, 2)],
            [_halve],
        )
        self.Mixed_6b = _mixed_6(128)
        self.Mixed_6c = _mixed_6(160)
        self.Mixed_6d = _mixed_6(160)
        self.Mixed_6e = _mixed_6(192)
        self.Mixed_7a = _Mixed(
            768,
            [Step("3x3_1", 192, 1), Step("3x3_2", 320, 3, 2)],
            [
                Step("7x7x3_1", 192, 1),
                Step("7x7x3_2", 192, (1, 7)),
                Step("7x7x3_3", 192, (7, 1)),
                Step("7x7x3_4", 192, 3, 2),
            ],
            [_halve],
        )
        self.Mixed_7b = _mixed_7(1280, _mean)
        self.Mixed_7c = _mixed_7(2048, _max)

    def forward(self, x: Float[Tensor, "n 3 299 299"]) -> Float[Tensor, "n 2048"]:
        x = _halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))))
        return self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))


class _Conv(nn.Module):
    """A convolution, normalised and rectified; none of stride 2 is padded."""

    def __init__(
        self, before: int, after: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(before, after, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


Pool = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """A convolution of a branch; the name is that of its weights after ``branch``."""

    name: str
    after: int
    kernel: int | tuple[int, int]
    stride: int = 1


class _Mixed(nn.Module):
    """Branches side by side, their outputs concatenated.

    A branch is a list of steps: a pooling, a convolution, or a list of convolutions of the same input, which are concatenated.
    """

    def __init__(self, before: int, *branches: list[Pool | Step | list[Step]]) -> None:
        super().__init__()
        self.branches: list[list[list[Pool]]] = []
        for branch in branches:
            width, steps = before, []
            for step in branch:
                if not isinstance(step, Step | list):
                    steps.append([step])
                    continue
                side = step if isinstance(step, list) else [step]
                steps.append([self._conv(width, each) for each in side])
                width = sum(each.after for each in side)
            self.branches.append(steps)

    def _conv(self, before: int, step: Step) -> _Conv:
        conv = _Conv(before, step.after, step.kernel, step.stride)
        self.add_module(f"branch{step.name}", conv)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for side in branch:
                y = torch.cat([step(y) for step in side], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def _mixed_5(before: int, pooled: int) -> _Mixed:
    """Two 3x3 in place of one 5x5, beside a 5x5 (figure 5)."""
    return _Mixed(
        before,
        [Step("1x1", 64, 1)],
        [Step("5x5_1", 48, 1), Step("5x5_2", 64, 5)],
        [Step("3x3dbl_1", 64, 1), Step("3x3dbl_2", 96, 3), Step("3x3dbl_3", 96, 3)],
        [_mean, Step("_pool", pooled, 1)],
    )


def _mixed_6(width: int) -> _Mixed:
    """1x7 after 7x1 in place of 7x7 (figure 6)."""
    return _Mixed(
        768,
        [Step("1x1", 192, 1)],
        [Step("7x7_1", width, 1), Step("7x7_2", width, (1, 7)), Step("7x7_3", 192, (7, 1))],
        [Step("7x7dbl_1", width, 1), Step("7x7dbl_2", width, (7, 1)), Step("7x7dbl_3", width, (1, 7)),
         Step("7x7dbl_4", width, (7, 1)), Step("7x7dbl_5", 192, (1, 7))],
        [_mean, Step("_pool", 192, 1)],
    )  # fmt: skip


def _mixed_7(before: int, pool: Pool) -> _Mixed:
    """1x3 beside 3x1 at the ends of two branches (figure 7)."""
    return _Mixed(
        before,
        [Step("1x1", 320, 1)],
        [Step("3x3_1", 384, 1), [Step("3x3_2a", 384, (1, 3)), Step("3x3_2b", 384, (3, 1))]],
        [
            Step("3x3dbl_1", 448, 1),
            Step("3x3dbl_2", 384, 3),
            [Step("3x3dbl_3a", 384, (1, 3)), Step("3x3dbl_3b", 384, (3, 1))],
        ],
        [pool, Step("_pool", 192, 1)],
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file without those of the softmax."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: {EXPECTED}.")
    try:
        safe = path.suffix == ".safetensors"
        content = files.read_tensors(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        return {key: value for key, value in content.items() if not key.startswith("fc.")}
    except (
        OSError,
        RunError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(f"{path} is no file of weights that can be read: {EXPECTED}.") from error
