"""DiT: a diffusion transformer on patches, conditioned by adaptive layer norm.

Peebles & Xie, "Scalable Diffusion Models with Transformers", ICCV 2023. A block normalises its tokens, scales and
shifts them by numbers computed from time and class, and gates what it adds (adaLN-Zero). Those numbers start at zero:
every block starts as the identity, the network as the constant 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.embeddings import Conditioning, TimeEmbedding, grid_positions
from reverie.nets.layers import (
    FeedForward,
    check_picture,
    check_size,
    norm_modulate,
    normalised,
    pair,
    places,
    plain_norm,
    unpatch,
    zeroed,
)
from reverie.nets.network import Network, conditions, with_image

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Block(nn.Module):
    """Attention and a perceptron on tokens ``(B, N, width)``, modulated and gated by ``(B, width)`` (figure 3).

    With ``local``, a depthwise convolution over the ``grid`` of tokens comes first.
    """

    def __init__(
        self, width: int, heads: int, activation: str, local: bool, grid: tuple[int, int], mlp_eps: float
    ) -> None:
        super().__init__()
        self.grid = grid
        self.local = zeroed(nn.Conv2d(width, width, 3, padding=1, groups=width)) if local else None
        self.norm_attention = plain_norm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = plain_norm(width, mlp_eps)
        self.mlp = FeedForward(width, 4 * width, activation)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        if self.local is not None:
            x = x + self.local(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        x = torch.addcmul(x, gate_a, normalised(self.attention, self.norm_attention, x, shift_a, scale_a))
        return torch.addcmul(x, gate_m, normalised(self.mlp, self.norm_mlp, x, shift_m, scale_m))


class DiT(Network):
    """Diffusion transformer.

    Args:
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of ``patch``.
        patch: side of a patch in pixels.
        width: features per token.
        depth: number of blocks.
        heads: attention heads per block.
        activation: of the perceptrons, "gelu" (tanh form) or "relu".
        local: a depthwise 3x3 convolution over the tokens before each attention (Chu et al. 2023), zero at the start.
        vector: numbers of the condition "vector", or 0.
        image: channels of the condition "image", or 0.
        variance: twice the channels come out, for a learned variance (Nichol & Dhariwal 2021).
        endpoint: of the time's sinusoids, see :func:`~reverie.nets.embeddings.sinusoids`.
        mlp_eps: of the normalisation before the perceptrons.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the patch does not divide the size, or the heads the width, or for an unknown activation.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        activation: str = "gelu",
        local: bool = False,
        vector: int = 0,
        image: int = 0,
        variance: bool = False,
        endpoint: bool = False,
        mlp_eps: float = 1e-6,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.size = pair(size)
        check_size(self.size, patch)
        self.channels, self.patch, self.image = channels, patch, image
        self.conditions = conditions(classes, vector, image=image)
        self.grid = (self.size[0] // patch, self.size[1] // patch)

        self.embed = nn.Conv2d(channels + image, width, patch, stride=patch)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        self.conditioning = Conditioning(TimeEmbedding(256, width, endpoint=endpoint), classes, vector)
        self.blocks = nn.ModuleList(Block(width, heads, activation, local, self.grid, mlp_eps) for _ in range(depth))
        self.norm = plain_norm(width)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, patch * patch * channels * (2 if variance else 1)))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: the conditions; one that is absent is its null.

        Returns:
            ``(B, channels, H, W)``, or twice the channels with a variance.
        """
        check_picture(x, self.channels, self.patch, self.size)
        condition = self.conditioning(time, cond, x.shape[0])
        tokens = places(self.embed(with_image(x, cond, self.image))) + self.positions  # pyright: ignore[reportOperatorIssue]
        for block in self.blocks:
            tokens = self.through(block, tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return unpatch(self.out(norm_modulate(self.norm, tokens, shift, scale)), self.grid, self.patch)
