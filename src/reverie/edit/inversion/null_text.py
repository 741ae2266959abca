"""Null-text inversion (Mokady et al. 2023, "Null-text inversion for editing real images using guided diffusion models", algorithm 1).

Plain inversion at scale 1 gives pivots x*_t. Decoding at a larger scale leaves them; at each move the null, which is all that is free, is
optimised until the move lands on the pivot again: min over ∅_t of ‖x*_u − step(x_t; ∅_t, C)‖². The model and the condition stay.
"""

import torch
from torch import Tensor

from reverie.core.condition import Cond, Label, Tokens
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.core.tensors import combine
from reverie.edit.guidance import scale_at
from reverie.edit.inversion.ode import along
from reverie.edit.inversion.record import Inversion
from reverie.guide.gradient import need_gradients
from reverie.nets.embeddings import LabelEmbedding
from reverie.solve.fast import network
from reverie.solve.grids import Grid
from reverie.solve.onestep import DDIM
from reverie.solve.plan import first_order
from reverie.solve.variables import STRAIGHT


def null_text(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond,
    steps: int = 50,
    grid: Grid | str | None = None,
    *,
    scale: float = 7.5,
    iterations: int = 10,
    rate: float = 1e-2,
    tolerance: float = 1e-5,
) -> Inversion:
    """Invert with DDIM at scale 1, and optimise a null for each decoding move at ``scale``.

    An inversion costs an evaluation and at most ``iterations`` passes of the null branch forward and back a move, and serves any number of
    edits at that scale. Of a class the null is its embedding.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, grid: as of :func:`reverie.solve.sample`.
        scale: of guidance that edits decode with.
        iterations: of Adam at each move, at most.
        rate: of Adam at the first move; it falls by a hundredth of that each move.
        tolerance: mean square distance to the pivot at which a picture's null is left as it is, rising by 2·10⁻⁵ each move; states are
            compared as those of a variance-preserving path.

    Raises:
        InputError: with gradients off; without a condition; for one whose null is no vector.
    """
    need_gradients("null_text")
    code = along(denoise, images, cond, steps, DDIM(), grid, method="null_text", scale=scale)
    assert code.cond is not None
    cond, x = code.cond, code.code
    nulls = {name: null_of(denoise, cond, name) for name in cond}
    stored: dict[str, list[Tensor]] = {name: [] for name in nulls}
    every = enumerate(zip(code.points, code.points[1:], strict=False))
    for i, (at, to) in track(every, "optimising nulls", len(code.points) - 1, "moves"):
        row, pivot = first_order(at, to, STRAIGHT.pair, to.alpha, to.sigma).row, code.trajectory[i + 1]
        size, here = to.alpha**2 + to.sigma**2, scale_at(denoise, scale, at, x)
        with torch.no_grad():
            towards = denoise(x, at, cond).linear(*STRAIGHT.pair)

        def move(nulls: dict[str, Tensor], x=x, towards=towards, at=at, row=row, scale=here) -> Tensor:
            away = denoise(x, at, cond.null().with_null(**nulls)).linear(*STRAIGHT.pair)
            return combine((row.c, row.w[0] * scale, row.w[0] * (1.0 - scale)), (x, towards, away))

        nulls = {name: value.detach().clone().requires_grad_() for name, value in nulls.items()}
        adam = torch.optim.Adam(nulls.values(), rate * max(0.01, 1.0 - i / 100.0))  # elementwise: pictures do not mix
        for _ in range(iterations if here != 1.0 else 0):
            loss = (move(nulls) - pivot).square().flatten(1).mean(1) / size
            open_ = loss.detach() > tolerance + 2e-5 * i
            if not bool(open_.any()):
                break
            grads = torch.autograd.grad(loss.sum(), list(nulls.values()))
            before = {name: value.detach().clone() for name, value in nulls.items()}
            for value, grad in zip(nulls.values(), grads, strict=True):
                value.grad = grad
            adam.step()
            with torch.no_grad():
                for name, value in nulls.items():
                    value.copy_(torch.where(open_.reshape(-1, *(1,) * (value.ndim - 1)), value, before[name]))
        with torch.no_grad():
            x = move(nulls)
        for name, value in nulls.items():
            stored[name].append(value.detach())
    told = {name: torch.stack(values) for name, values in stored.items()}
    return Inversion(**{**vars(code), "nulls": told})


def null_of(denoise: Denoiser, cond: Cond, name: str) -> Tensor:
    """The null that optimisation starts from, (n, …): the condition's own, or the network's.

    Raises:
        InputError: for a condition whose null cannot be optimised.
    """
    entry, spec = cond[name], denoise.conditions[name]
    if entry.null is not None:
        return entry.null
    if isinstance(spec, Label):
        net = network(denoise)
        for module in () if net is None else net.modules():
            if isinstance(module, LabelEmbedding):
                return module.table.weight[module.null].detach().expand(len(cond), -1)
        raise InputError(
            "null_text optimises a null that is numbers, and this model's classes have no embedding: use negative_prompt or edict"
        )
    if isinstance(spec, Tokens):
        return entry.value.new_zeros(len(cond), 1, spec.dim)
    return torch.zeros_like(entry.value)
