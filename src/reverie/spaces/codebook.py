"""A codebook: the nearest of K vectors in place of each vector (van den Oord et al. 2017, VQ-VAE).

A code is the running mean of the vectors that it stands for (their appendix A.1), the encoder learns through it as if it were not there
(the straight-through gradient), and a code that nothing is near to is put where a vector of the last batch is (Dhariwal et al. 2020,
Jukebox, section 3.1), one that its own code is far from (Arthur & Vassilvitskii 2007, k-means++). So the whole codebook begins: nothing
has been near to it yet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.processes import gathered
from reverie.core.tensors import onto
from reverie.nets.precision import KeepsPrecision

DECAY, DEAD = 0.99, 0.03
"""What the running means keep a step; the share of the mean count below which a code is dead."""


class Codebook(KeepsPrecision, nn.Module):
    """K vectors of ``dims`` numbers.

    Attributes:
        codes: (K, dims).
        counts: (K,), the running mean of how many vectors of a batch a code stands for.
        sums: (K, dims), the running mean of their sum.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, size: int, dims: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, dims))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dims))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def nearest(self, z: Tensor) -> Tensor:
        """Of vectors (B, dims, …), the numbers of the nearest codes, (B, …) int64."""
        z = z.movedim(1, -1).to(self.codes)
        distances = self.codes.square().sum(1) - 2.0 * z @ self.codes.T  # and ‖z‖², which is the same for all
        return distances.argmin(-1)

    def vectors(self, numbers: Tensor) -> Tensor:
        """The codes of numbers (B, …), (B, dims, …)."""
        return F.embedding(numbers, self.codes).movedim(-1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """The nearest code in place of each vector (B, dims, …); in training it is remembered for :meth:`settle`."""
        numbers = self.nearest(z)
        if self.training and torch.is_grad_enabled():
            self._seen.append((z.detach().movedim(1, -1).flatten(0, -2).to(self.codes), numbers.flatten()))
        return self.vectors(numbers).to(z.dtype)

    def settle(self, step: int) -> None:
        """Move the codes to the running means of what they stood for since the last time, and revive the dead ones.

        Args:
            step: of training; it decides which vectors the dead ones are put at.
        """
        if not self._seen:
            return
        z, numbers = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen = []
        hits = F.one_hot(numbers, len(self.codes)).to(z)
        batch = (
            gathered(torch.cat([hits.sum(0)[:, None], hits.T @ z], 1)).view(-1, len(self.codes), 1 + z.shape[1]).sum(0)
        )
        self.counts.lerp_(batch[:, 0], 1.0 - DECAY)
        self.sums.lerp_(batch[:, 1:], 1.0 - DECAY)
        mean = self.counts.mean()
        dead = self.counts < DEAD * mean
        self.sums.copy_(torch.where(dead[:, None], mean * self._far(z, numbers, step), self.sums))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.codes.copy_(self.sums / self.counts[:, None])

    def _far(self, z: Tensor, numbers: Tensor, step: int) -> Tensor:
        """K of the vectors (n, dims), each as likely as it is far from its code, squared: (K, dims)."""
        rows = gathered(torch.cat([z, (z - self.codes[numbers]).square().sum(1, keepdim=True)], 1))
        reach = rows[:, -1].cumsum(0)
        u = onto(torch.rand(len(self.codes), generator=torch.Generator().manual_seed(step)), z)
        return rows[torch.searchsorted(reach, u * reach[-1]).clamp(max=len(rows) - 1), :-1]


def usage(numbers: Tensor, size: int) -> tuple[float, float]:
    """The share of ``size`` codes that occur among numbers, and of how many equally frequent codes these would have the entropy."""
    p = torch.bincount(numbers.flatten().cpu(), minlength=size).double() / numbers.numel()
    used = p[p > 0]
    return len(used) / size, float(torch.exp(-(used * used.log()).sum()))
