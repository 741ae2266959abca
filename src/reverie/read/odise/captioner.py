"""The implicit captioner: a condition made of the picture (section 3.2): ``null + tanh(a)⊙(W·e + pos)``, e an embedding of the picture.

The gates a start at zero, element by element, so that training begins with the model as it is without a condition. The same is added to
what the network makes of the time.
"""

import torch
from torch import Tensor, nn

from reverie.core.denoiser import Denoiser
from reverie.nets import taps
from reverie.nets.embeddings import TimeEmbedding
from reverie.nets.places import Place


class Gated(nn.Module):
    """``base + tanh(a)⊙(W·e + pos)`` for a fixed or a given base of this shape.

    Args:
        dim: of e.
        shape: of the result for one sample, its last axis filled by W.
    """

    def __init__(self, dim: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, shape[-1])
        self.positions = nn.Parameter(0.02 * torch.randn(shape))
        self.gate = nn.Parameter(torch.zeros(shape))

    def forward(self, base: Tensor, e: Tensor) -> Tensor:
        """``base`` of the shape or with a batch before it, e (B, dim) -> ``(B, *shape)``."""
        value = self.linear(e)
        value = value.reshape(len(e), *(1,) * (self.gate.ndim - 1), -1)
        return base + torch.tanh(self.gate) * (value + self.positions)


class Captioner(nn.Module):
    """Makes the condition of a picture.

    Args:
        null: the null condition, (L, d) tokens (77 x 768 for Stable Diffusion) or a vector (d,).
        dim: of the picture's embedding (768 for CLIP-L).
        time: features of the network's time embedding, to which a second gate adds; none without.
    """

    null: Tensor

    def __init__(self, null: Tensor, dim: int, time: int | None = None) -> None:
        super().__init__()
        self.register_buffer("null", null.detach().clone())
        self.tokens = Gated(dim, tuple(null.shape))
        self.time = None if time is None else Gated(dim, (time,))

    def forward(self, e: Tensor) -> Tensor:
        """(B, dim) -> the condition, ``(B, *null.shape)``."""
        return self.tokens(self.null, e)

    def timed(self, denoise: Denoiser, e: Tensor) -> Denoiser:
        """The denoiser with the pictures added to its network's embedding of time."""
        modules = getattr(denoise, "net", nn.Module()).named_modules()
        path = next((path for path, module in modules if isinstance(module, TimeEmbedding)), None)
        if (gated := self.time) is None or path is None:
            return denoise
        edit = taps.Edit({"time": Place(path)}, {"time": lambda value, at: gated(value, e)})
        return taps.changed(denoise, edit)
