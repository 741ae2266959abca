"""SRA: a diffusion transformer aligns an early block with a late block of its own moving average, on a less noisy state.

Jiang et al., "No other representation component is needed: diffusion transformers can provide representation guidance by themselves",
2025 (arXiv:2505.02831), section 3.2. The teacher sees the same picture and noise at t − U(0, 0.2); the head exists in training only.
They first measured the distance as smooth L1; the cosine, weight 0.5, is what their code has come to recommend.
"""

from copy import copy, deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.align.auxiliary import AuxiliaryLoss, Observation
from reverie.core.denoiser import NetDenoiser
from reverie.core.task import Moment
from reverie.core.tensors import combine, onto
from reverie.nets import taps


class SRA(AuxiliaryLoss):
    """Self-alignment.

    Args:
        denoise: the model that is trained; the teacher starts as a copy of its network.
        site, target: the student's early block and the teacher's late one.
        width: features of both.
        closer: the largest difference of their times.
        decay: of the teacher's average, a step.
        weight: of the loss.
    """

    name = "sra"

    def __init__(
        self,
        denoise: NetDenoiser,
        site: str,
        target: str,
        width: int,
        closer: float = 0.2,
        decay: float = 0.9999,
        weight: float = 0.5,
    ) -> None:
        self.site, self.sites, self.target = site, (site,), target
        self.closer, self.decay, self.weight = closer, decay, weight
        self.student = denoise.net
        self.teacher = copy(denoise)
        self.teacher.net = deepcopy(denoise.net).eval().requires_grad_(False)
        self.kept = {"teacher": self.teacher.net}
        self.trained = self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def loss(self, seen: Observation) -> Tensor:
        """Minus the mean cosine over places, (B,)."""
        z = self.head(seen.map(self.site).movedim(1, -1))
        y = self.see(seen).movedim(1, -1)
        return -F.cosine_similarity(z, y.to(z), dim=-1).flatten(1).mean(1)

    @torch.no_grad()
    def see(self, seen: Observation) -> Tensor:
        """The teacher's map, (B, C, h, w), of the same pictures and noise at an earlier time."""
        t = (seen.t - self.closer * seen.rng.uniform("closer")).clamp(min=0.0)
        x0 = seen.denoise.space.encode(seen.images)
        noise = onto(seen.rng.normal("noise", x0.shape[1:]), x0)
        point = seen.denoise.schedule.point(t).align(x0)
        x_t = combine((point.alpha, point.sigma), (x0, noise))
        read = taps.features(self.teacher, [self.target], x_t, point, seen.cond)
        return Observation(self.teacher, seen.images, seen.cond, t, seen.rng, read).map(self.target)

    @torch.no_grad()
    def after_step(self, progress: Moment) -> None:
        averages, weights = ([p.detach() for p in net.parameters()] for net in (self.teacher.net, self.student))
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
