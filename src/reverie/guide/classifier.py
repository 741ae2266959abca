"""Classifier guidance (Dhariwal & Nichol 2021; Song et al. 2021): the gradient of a classifier of noisy samples, added to the score.

By Bayes' rule ``∇ log p(x_t | c) = ∇ log p(x_t) + ∇ log p(c | x_t)``, so an unconditional model and an exact classifier at scale 1 are the
conditional model. The paper's three forms are

* score: ``s + w·∇ log p(c | x_t)``,
* noise: ``ε − w·σ·∇ log p(c | x_t)``, the same estimate read as ε (algorithm 2): both are :func:`classifier`, for any solver,
* mean: ``μ + w·Σ·∇ log p(c | x_t)`` for the mean and variance of an ancestral step (algorithm 1): :class:`ClassifierMean`, a corrector.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from reverie.core.boundary import Bounded
from reverie.core.call import Call
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import TIME_MAPS, Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.space import Identity, Space
from reverie.core.tensors import Scalar, align, onto
from reverie.guide.contrast import Strength, checked, per_sample, shifted, strength, strongest
from reverie.guide.gradient import fit, need_gradients
from reverie.solve.corrector import Corrector
from reverie.solve.onestep import DDPM
from reverie.solve.plan import Bound, Solver


class Classifier(Protocol):
    """``log p(c | x_t)``, (B, …) at a point of its path -> (B, classes), differentiable in x_t."""

    @property
    def classes(self) -> int: ...
    @property
    def schedule(self) -> Schedule: ...
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self: ...
    def __call__(self, x: Tensor, point: Point) -> Tensor: ...


class NetClassifier(Bounded):
    """A network as a noise-aware classifier: what :class:`reverie.diffusion.Classifying` trains.

    Args:
        net: ``net(x, time) -> logits`` (B, classes).
        schedule: the path it is trained on.
        classes: how many.
        shape: of one sample, (C, H, W).
        time: what the network is told of the time, a name in :data:`reverie.core.denoiser.TIME_MAPS`.
        space: between data and what it reads.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        classes: int,
        *,
        shape: tuple[int, ...],
        time: str = "t",
        space: Space = Identity(),
    ) -> None:
        self.net, self.schedule, self.classes = net, schedule, classes
        self.shape, self.time, self.space = tuple(shape), time, space

    def __call__(self, x: Tensor, point: Point) -> Tensor:
        time = TIME_MAPS[self.time](point)
        time = onto(time.flatten() if time.ndim else time, x) if isinstance(time, Tensor) else x.new_full((), time)
        return torch.log_softmax(self.inside(x, time), dim=1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The classifier itself, its network and space moved and cast."""
        self.net.to(device=device, dtype=dtype)
        self.space.to(device, dtype)
        return self


def gradient(classifier: Classifier, x: Tensor, point: Point, label: Tensor, call: Call | None = None) -> Tensor:
    """``∇ log p(label | x_t)`` in x_t, sample by sample; the classifier may live on another path, and is asked where λ agrees.

    The way back through a network counts in ``call``.

    Raises:
        InputError: where gradients are turned off.
    """
    need_gradients("classifier guidance")
    again = x.requires_grad
    y = x if again else x.detach().requires_grad_()
    inner = classifier.schedule.at(point.lam).align(x)
    scale = (inner.alpha + inner.sigma) / (point.alpha + point.sigma)
    log_p = classifier(y * scale, inner)
    if call is not None and isinstance(classifier, NetClassifier):
        call.count(log_p, forward=False)
    return torch.autograd.grad(log_p.gather(1, label[:, None]).sum(), y, create_graph=again)[0]


class Classified(Wrapper):
    """See :func:`classifier`."""

    def __init__(self, base: Denoiser, classifier: Classifier, scale: Strength, conditional: bool) -> None:
        super().__init__(base)
        own = base.conditions.get("label")
        if isinstance(own, Label) and own.classes != classifier.classes:
            raise InputError(
                f"the classifier knows {classifier.classes} classes, the model {own.classes}: train a classifier on the model's data"
            )
        shape = getattr(classifier, "shape", base.shape)
        if tuple(shape) != tuple(base.shape):
            raise InputError(
                f"the classifier reads samples of shape {tuple(shape)}, the model draws {tuple(base.shape)}"
            )
        if conditional and own is None:
            raise InputError("the model takes no label: leave conditional out, the classifier alone knows the class")
        self.classifier, self.scale, self.conditional = classifier, checked(scale), conditional
        self.conditions = {**base.conditions, "label": Label(classifier.classes)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.classifier.to(device, dtype)
        return super().to(device, dtype)

    @property
    def guidance(self) -> float:
        return self.base.guidance * max(1.0, strongest(self.scale, self))

    @property
    def together(self) -> bool:
        return self.base.together or per_sample(self.scale)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        if cond is None or "label" not in cond:
            raise InputError("classifier guidance needs a label to guide to: pass cond=Cond(label=…)")
        point, entry = self.point(t, x), cond.expand(len(x))["label"]
        estimate = self.base(x, point, cond if self.conditional else self._without(cond), call)
        if not isinstance(point.alpha, Tensor) and point.alpha == 0.0:
            return estimate  # pure noise says nothing of the class
        scale = strength(self.scale, 2.0 * point.lam, x, call) * align(entry.present.to(x.dtype), x)
        score = gradient(self.classifier, x, point, entry.value, call)
        return shifted(estimate, scale * score, "score")

    def _without(self, cond: Cond) -> Cond | None:
        """The condition that the base is given: the label absent, or gone where the base takes none."""
        kept = {name: cond[name] for name in cond}
        label = kept.pop("label")
        if "label" in self.base.conditions:
            kept["label"] = label._replace(present=torch.zeros_like(label.present))
        return Cond(**kept) if kept else None


def classifier(denoise: Denoiser, classifier: Classifier, scale: Strength = 1.0, conditional: bool = False) -> Denoiser:
    """Guide a model by a classifier of noisy samples; its ``conditions`` then have a label, whatever the model's own are.

    Each evaluation costs one pass through the classifier and back; none goes back through the denoiser.

    Args:
        denoise: unconditional, or conditional.
        classifier: on any path: a :class:`NetClassifier`, or ``GaussianMixture.classifier(schedule)``, which is exact.
        scale: 1 with an unconditional model is the conditional one. A number, one a sample (B,), or a function of logsnr.
        conditional: whether a conditional model is given the label too; without, its null branch is guided.

    Raises:
        InputError: for a classifier of other classes or another shape.
    """
    return Classified(denoise, classifier, scale, conditional)


class ClassifierMean(Corrector):
    """``x_u ← x_u + w·Σ·∇ log p(c | x_t)`` after each ancestral step (Dhariwal & Nichol 2021, algorithm 1).

    Σ is the variance of DDPM's step, σ²_ts·σ_u²/σ_t², as "small" has it. It agrees with the other forms to first order in the step.

    Args:
        classifier: of noisy samples.
        cond: the label to guide to, one for all or one a sample.
        scale: w.
        solver: what moves; ancestral sampling.
    """

    def __init__(self, classifier: Classifier, cond: Cond, scale: float = 1.0, solver: Solver = DDPM()) -> None:
        if "label" not in cond:
            raise InputError("classifier guidance needs a label to guide to: pass cond=Cond(label=…)")
        cond.check({"label": Label(classifier.classes)})
        self.classifier, self.label, self.solver = classifier, cond["label"].value, solver
        self.scale = checked(scale)

    def acts(self, to: HostPoint) -> bool:
        return to.sigma > 0.0

    def correct(
        self,
        denoise: Bound,
        x_t: Tensor,
        estimate: Estimate,
        x: Tensor,
        at: HostPoint,
        to: HostPoint,
        noise: Sequence[Tensor],
    ) -> Tensor:
        if at.alpha == 0.0:
            return x  # pure noise says nothing of the class
        label = fit("the label", self.label, x_t).long().expand(len(x_t))
        variance = (1.0 - (at.alpha * to.sigma / (to.alpha * at.sigma)) ** 2) * to.sigma**2
        score = gradient(self.classifier, x_t, at, label)
        return x + self.scale * variance * score
