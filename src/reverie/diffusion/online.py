"""A denoiser and the prototypes it is conditioned on, learned at once: see :mod:`reverie.guide.online`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.task import Moment, Player
from reverie.core.tensors import combine, onto
from reverie.core.times import TimeSampler
from reverie.diffusion.denoising import Denoising
from reverie.guide.online import Prototypes, pooled, sinkhorn
from reverie.nets import taps


class Online(Denoising):
    """``Denoising(c = code) + clustering·½·(CE(code₁, p₂) + CE(code₂, p₁))``: two noisy views predict each other's balanced code.

    The code of a view is :func:`~reverie.guide.online.sinkhorn` of its similarities, over the batch; p is the softmax of the
    similarities at ``temperature``. The condition is the most likely prototype of the first view, as a label.

    Args:
        denoise: with as many labels as there are prototypes.
        prototypes: on the features at ``site``.
        times: the density of t in denoising.
        site: the tap whose feature is clustered.
        view: the noise level of the views, in t.
        clustering: weight of the clustering.
        temperature: of p.
        balanced: off, codes are the softmax itself: the control that collapses.
        others: as of :class:`~reverie.diffusion.Denoising`.
    """

    def __init__(
        self,
        denoise: NetDenoiser,
        prototypes: Prototypes,
        times: TimeSampler,
        *,
        site: str,
        view: float = 0.2,
        clustering: float = 0.5,
        temperature: float = 0.1,
        balanced: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(denoise, times, **others)
        self.prototypes, self.site, self.view = prototypes, site, view
        self.clustering, self.temperature, self.balanced = clustering, temperature, balanced
        whole = nn.ModuleDict({"net": denoise.net, "prototypes": prototypes})
        self.players = {"denoiser": Player(whole)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        scores = [self.scores(batch.x, rng, f"view {i}") for i in range(2)]
        codes = [self.codes(each) for each in scores]
        log_p = [F.log_softmax(each / self.temperature, dim=1) for each in scores]
        crossed = -0.5 * ((codes[0] * log_p[1]).sum(1) + (codes[1] * log_p[0]).sum(1))
        conditioned = Batch(batch.x, Cond(label=codes[0].argmax(1)))
        return {**super().loss(player, conditioned, rng, progress), "codes": self.clustering * crossed}

    def codes(self, scores: Tensor) -> Tensor:
        """What the other view is to predict, (B, K), without gradient."""
        return sinkhorn(scores) if self.balanced else F.softmax(scores.detach() / self.temperature, dim=1)

    def scores(self, images: Tensor, rng: Draws, stream: str) -> Tensor:
        """Similarities (B, K) of a noisy view of images, from the network without a condition, up to the site."""
        x0 = self.denoise.space.to(images.device).encode(images)
        point = self.denoise.schedule.point(self.view)
        x = combine((point.alpha, point.sigma), (x0, onto(rng.normal(stream, x0.shape[1:]), x0)))
        return self.prototypes(pooled(taps.features(self.denoise, [self.site], x, point, None)[self.site]))

    @torch.no_grad()
    def assign(self, images: Tensor, seed: int = 0) -> Tensor:
        """The nearest prototype of each image, (B,): the annotation whose histogram sampling draws from. In evaluation mode."""
        self.prototypes.eval()
        return self.scores(images, Draws(seed, 0, len(images)), "view 0").argmax(1)
