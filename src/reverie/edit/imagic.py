"""Imagic (Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", CVPR 2023): between two embeddings of one picture.

The embedding e_tgt of the target is optimised until the model, as it is, says the picture under it: e_opt. Then the model is
fine-tuned at e_opt, which binds the picture's look to it. A sample of the fine-tuned model at ``ē = η·e_tgt + (1 − η)·e_opt`` (eq. 3) is
the edit: η = 0 is the picture, η = 1 the target. Of a text the embedding is what its encoder gives, of a class its row in the table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter
from reverie.adapt.applying import apply, unmerged
from reverie.adapt.change import Change
from reverie.adapt.dreambooth import changes
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.progress import track
from reverie.edit.guidance import guide
from reverie.guide.gradient import need_gradients
from reverie.solve.grids import Grid
from reverie.solve.plan import Solver
from reverie.solve.probe import innermost
from reverie.solve.sampling import sample

TOKEN = "<imagic>"
LEVELS = (0.05, 0.95)
"""σ/(α + σ) is uniform between these."""


class Embedding:
    """What a model is told of a picture, as numbers that are free; and the model with further weights, which hears them.

    Raises:
        InputError: for a model that is told neither a class nor a text, or a condition of several pictures.
    """

    def __init__(self, denoise: Denoiser, cond: Cond) -> None:
        model = innermost(denoise)
        if not isinstance(model, NetDenoiser) or not {"label", "text"} & set(cond):
            raise InputError(
                "imagic optimises what a network is told: give a class or a text of a model that takes one"
            )
        if len(cond) != 1:
            raise InputError(f"imagic edits one picture towards one condition: got {len(cond)}")
        cond.check(denoise.conditions)
        self.denoise, self.model, self.cond = denoise, model, cond.to(denoise.device)
        if "text" in cond:
            start = self.cond["text"].value[0]
        else:
            start = tokens.rows_of(model.net)[int(cond["label"].value)]
        self.start = start.detach().clone()

    def told(self, e: Tensor) -> Cond:
        """The condition whose embedding is e."""
        if "text" not in self.cond:
            return Cond(label=self.model.conditions["label"].classes)  # pyright: ignore[reportAttributeAccessIssue]
        entries = {name: self.cond[name] for name in self.cond}
        return Cond(**{**entries, "text": entries["text"]._replace(value=e[None])})

    def adapter(self, e: Tensor, tuned: Mapping[str, Change]) -> Adapter:
        if "text" in self.cond:
            return Adapter("imagic", "", tuned)
        return Adapter("imagic", "", tuned, {TOKEN: e}, {TOKEN: int(self.cond["label"].value)})

    def within(self, f: Callable[[NetDenoiser], NetDenoiser]) -> Denoiser:
        """The denoiser with f of the model in the place of the model."""

        def rebuilt(denoise: Denoiser) -> Denoiser:
            if denoise is self.model:
                return f(self.model)
            other = copy.copy(denoise)
            other.base = rebuilt(denoise.base)  # pyright: ignore[reportAttributeAccessIssue]
            return other

        return rebuilt(self.denoise)


def imagic(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond,
    eta: float | Sequence[float] = 0.7,
    *,
    optimise: int = 200,
    tune: int = 300,
    rates: tuple[float, float] = (1e-2, 1e-3),
    batch: int = 4,
    scale: float = 1.0,
    solver: Solver | str = "auto",
    steps: int = 20,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
) -> Tensor:
    """Edit one picture by way of embeddings. The model stays as it is.

    Args:
        denoise: the model, unguided; not inside torch.no_grad().
        images: one picture, (1, C, H, W) in [−1, 1].
        cond: what it is to become.
        eta: η: 0 is the picture, 1 the target; beyond it goes further. Several give a sample each, of one fit.
        optimise, tune: steps of Adam on the embedding, and on the weights.
        rates: of learning of the two.
        batch: noise levels a step.
        scale: of classifier-free guidance of the sample.
        solver, steps, grid: as of :func:`reverie.solve.sample`.
        seed: of levels, noises and the sample.

    Returns:
        (1, C, H, W), or one for each η.

    Raises:
        InputError: with gradients off, for several pictures, or a model that is told nothing that could be optimised.
    """
    need_gradients("imagic")
    if len(images) != 1:
        raise InputError(f"imagic fine-tunes on one picture: got {len(images)}, edit them one by one")
    embedding = Embedding(denoise, cond)
    z = denoise.space.encode(images.to(denoise.device, torch.promote_types(images.dtype, torch.float32)))

    def descend(
        model: Denoiser, e: Tensor, trained: Sequence[nn.Parameter], rate: float, steps: range, label: str
    ) -> None:
        adam = torch.optim.Adam(trained, rate)
        for i in track(steps, label, len(steps), "steps"):
            loss = error(model, z, embedding.told(e), i, batch, seed)
            grads = torch.autograd.grad(loss, trained, allow_unused=True)
            for parameter, grad in zip(trained, grads, strict=True):
                parameter.grad = grad
            adam.step()

    adapter = embedding.adapter(embedding.start.clone(), {})
    free = adapter.rows[TOKEN] if adapter.tokens else nn.Parameter(embedding.start.clone())
    model = embedding.within(lambda m: unmerged(m, adapter))
    descend(model, free, [free], rates[0], range(optimise), "optimising the embedding")
    found = free.detach()
    tuned = embedding.adapter(found, changes(embedding.model.net)).to(denoise.device)
    weights = [p for name, p in tuned.named_parameters() if name.startswith("changed.")]
    model = embedding.within(lambda m: unmerged(m, tuned))
    descend(model, found, weights, rates[1], range(optimise, optimise + tune), "fine-tuning")
    edited, own = [], 1.0 if scale == 1.0 else None
    for each in (eta,) if isinstance(eta, float | int) else eta:
        between = each * embedding.start + (1.0 - each) * found
        if tuned.tokens:
            tuned.rows[TOKEN].data.copy_(between)
        model, told = guide(embedding.within(lambda m: apply(m, tuned, anyway=True)), scale), embedding.told(between)
        edited.append(sample(model, 1, told, solver, steps, grid, seed, progress="editing", scale=own))
    return torch.cat(edited)


def error(denoise: Denoiser, z: Tensor, cond: Cond, step: int, batch: int, seed: Seeds) -> Tensor:
    """The mean squared error of ε − x0 of one picture at ``batch`` noise levels, spread evenly."""
    low, high = LEVELS
    tape = Tape(sample_seeds(seed, 1), torch.float64)
    shape = (batch, *z.shape[1:])
    noise = tape.draw("imagic", step, shape)[0].to(z)
    shift = 0.5 * (1.0 + torch.erf(tape.draw("time", step, ()) / 2**0.5))
    tau = low + (high - low) * ((torch.arange(batch, dtype=torch.float64) + shift) / batch)
    point = denoise.point(denoise.schedule.at(torch.log1p(-tau) - torch.log(tau)), noise)
    estimate = denoise(point.alpha * z + point.sigma * noise, point, cond.expand(batch))
    return (estimate.linear(-1.0, 1.0) - (noise - z)).square().mean()
