"""REPA: what an early block says of a noisy picture is aligned with what a trained encoder says of the clean one.

Yu et al., "Representation alignment for generation: training diffusion transformers is easier than you think", ICLR 2025
(arXiv:2410.06940), equation 8: ``−E mean_n cos(y_n, h_φ(z_n))`` over the tokens n, h_φ a perceptron of three layers. They take block 8
of 28, DINOv2-B and weight 0.5.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.align.auxiliary import AuxiliaryLoss, Observation
from reverie.core.errors import InputError

Extractor = Callable[[Tensor], Tensor]
"""Pictures (B, C, H, W) in [−1, 1] -> features, maps (B, dim, h, w) or one vector a picture (B, dim)."""


class REPA(AuxiliaryLoss):
    """Alignment of a block to an extractor.

    Args:
        site: of the block, such as "blocks.3".
        width: its features.
        extractor: any frozen encoder.
        dim: its features.
        hidden: width of the perceptron h_φ.
        weight: of the loss.
    """

    name = "repa"

    def __init__(
        self, site: str, width: int, extractor: Extractor, dim: int, hidden: int = 2048, weight: float = 0.5
    ) -> None:
        self.site, self.sites, self.extractor, self.dim, self.weight = site, (site,), extractor, dim, weight
        self.trained = self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim)
        )

    def loss(self, seen: Observation) -> Tensor:
        """Minus the mean cosine over places, (B,). A map of the extractor on another grid is interpolated to the block's.

        Raises:
            InputError: when the extractor gives other features than ``dim``.
        """
        z = seen.map(self.site)
        with torch.no_grad():
            y = self.extractor(seen.images)
        if y.ndim not in (2, 4) or y.shape[:2] != (len(z), self.dim):
            raise InputError(
                f"the extractor gives ({len(z)}, {self.dim}) or ({len(z)}, {self.dim}, h, w): got {tuple(y.shape)}"
            )
        if y.ndim == 2:
            z, y = z.mean((2, 3), keepdim=True), y[:, :, None, None]
        elif y.shape[2:] != z.shape[2:]:
            y = F.interpolate(y, z.shape[2:], mode="bilinear", antialias=True)
        h = self.projector(z.movedim(1, -1)).movedim(-1, 1)
        return -F.cosine_similarity(h, y.detach().to(h), dim=1).flatten(1).mean(1)
