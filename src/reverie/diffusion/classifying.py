"""Training a classifier of noisy samples: cross-entropy at a random time (Dhariwal & Nichol 2021, section 4 and appendix H)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task
from reverie.core.tensors import combine, onto
from reverie.core.times import TimeSampler
from reverie.data import order
from reverie.guide.classifier import NetClassifier


class Classifying(Task):
    """``E −log p(c | x_t)`` with x_t = α(t)·x0 + σ(t)·ε.

    Args:
        classifier: the network on its path.
        times: the density of t; uniform in the paper.
        held_out: images to validate on, each at a fixed time and noise.
    """

    BINS = 8

    def __init__(
        self,
        classifier: NetClassifier,
        times: TimeSampler,
        *,
        held_out: Batch | None = None,
    ) -> None:
        self.classifier, self.times, self.held_out = classifier, times, held_out
        self.players = {"classifier": Player(classifier.net)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        log_p, label = self.judged(batch, self.times(rng.even("time")), rng)
        return {"entropy": F.nll_loss(log_p, label, reduction="none")}

    def judged(self, batch: Batch, t: Tensor, rng: Draws) -> tuple[Tensor, Tensor]:
        """``log p(c | x_t)`` (B, classes) of each image at its time, and the label (B,)."""
        if batch.cond is None or "label" not in batch.cond:
            raise InputError("a classifier learns from labels: use data with classes, and data.labels true")
        x0 = self.classifier.space.to(batch.x.device).encode(batch.x)
        point = self.classifier.schedule.point(t).align(x0)
        noise = onto(rng.normal("noise", x0.shape[1:]), x0)
        return self.classifier(combine((point.alpha, point.sigma), (x0, noise)), point), batch.cond["label"].value

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"logsnr": 2.0 * self.classifier.schedule.lam(self.times(rng.even("time")))}

    def validate(self) -> dict[str, float | list[float]]:
        """On held-out images: ``loss``, ``accuracy``, and ``bins`` of the accuracy, of equal weight under the density of t."""
        if self.held_out is None:
            return {}
        n = len(self.held_out)
        u = (order.indices(0, 0, n, n).double() + 0.5) / n
        device = next(self.classifier.net.parameters()).device
        losses, right = [], []
        for i in range(0, n, 256):
            part = slice(i, min(i + 256, n))
            batch = self.held_out.index(part).to(device)
            log_p, label = self.judged(batch, self.times(u[part]), Draws(0, part.start, part.stop - part.start))
            losses.append(F.nll_loss(log_p, label, reduction="none").cpu().double())
            right.append((log_p.argmax(1) == label).cpu().double())
        hits = torch.cat(right)
        centres = self.times((torch.arange(self.BINS, dtype=torch.float64) + 0.5) / self.BINS)
        bins = [float(hits[(u * self.BINS).long() == b].mean()) for b in range(self.BINS)]
        logsnr: list[float] = (2.0 * self.classifier.schedule.lam(centres)).tolist()
        return {"loss": float(torch.cat(losses).mean()), "accuracy": float(hits.mean()), "logsnr": logsnr, "bins": bins}
