"""DiffusionCLIP (Kim et al. 2022, "DiffusionCLIP: Text-guided diffusion models for robust image manipulation"): a model tuned by a score.

Pictures are inverted to x(t0) once, by deterministic DDIM under the model as it is. The model that decodes them in a few steps is then
fine-tuned until the decoded pictures x̂0(θ) have moved, in the space of a picture-text model E, as one text lies from another:
``1 − cos(E(x̂0) − E(x0), E(y_tar) − E(y_ref)) + λ·|x̂0 − x0|`` (equations 4 and 10; without the paper's loss of faces). A direction has no
picture that fools the score as the nearness to one text has. What is found is an adapter: it edits any picture, not only those it saw.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import apply, unmerged
from reverie.adapt.dreambooth import changes
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.guide.gradient import need_gradients
from reverie.measure.retrieval import PictureText
from reverie.solve import grids
from reverie.solve.invert import invert
from reverie.solve.onestep import DDIM
from reverie.solve.sampling import sample

STEPS = (40, 6)
"""Of DDIM, to invert and to decode."""


def direction_loss(before: Tensor, after: Tensor, towards: Tensor) -> Tensor:
    """``1 − cos(E(after) − E(before), towards)`` of embeddings (n, D) and a direction (D,): (n,)."""
    return 1.0 - cosine_similarity(after - before, towards[None], dim=1)


def diffusion_clip(
    denoise: NetDenoiser,
    images: Tensor,
    score: PictureText,
    texts: tuple[str, str],
    cond: Cond | None = None,
    start: float = 0.5,
    *,
    iterations: int = 40,
    rate: float = 1e-4,
    keep: float = 0.3,
    batch: int = 4,
) -> Adapter:
    """Tune a model to do to any picture what leads from one text to another.

    Args:
        denoise: the model, unguided; not inside torch.no_grad().
        images: some pictures, (n, C, H, W) in [−1, 1].
        score: a picture-text model, such as a run of the task "towers", whose pictures are of this size.
        texts: what the pictures are, and what they become, such as ``("a dog", "a cat")``; they need not be the model's.
        cond: of the pictures, and of what is drawn of them; none for a model that is told nothing.
        start: t0 in (0, 1), the time that pictures are inverted to: the larger it is, the more can change.
        iterations: passes over the pictures.
        rate: of Adam.
        keep: λ, of the mean absolute difference from the pictures, in their range of 2.
        batch: pictures a step.

    Returns:
        The adapter; :func:`restyle` edits with it.

    Raises:
        InputError: with gradients off, for a start out of range, or texts that the score holds for the same.
    """
    need_gradients("diffusion_clip")
    check_start(start)
    with torch.no_grad():
        reference, target = score.texts(list(texts))
        towards = target - reference
        if not float(towards.norm()) > 1e-6:
            raise InputError(
                f"the score holds {texts[0]!r} and {texts[1]!r} for the same text: say what changes in other words"
            )
        images = images.to(denoise.device)
        cond = None if cond is None else cond.expand(len(images)).to(denoise.device)
        before, codes = score.pictures(images), _codes(denoise, images, cond, start)
    adapter = Adapter("diffusion_clip", fingerprint(denoise.net), changes(denoise.net)).to(denoise.device)
    tuned, weights = unmerged(denoise, adapter), list(adapter.parameters())
    adam = torch.optim.Adam(weights, rate)
    order = [range(i, min(i + batch, len(images))) for i in range(0, len(images), batch)] * iterations
    for rows in track(order, "fine-tuning", len(order), "steps"):
        some = list(rows)
        after = _decode(tuned, codes[some], None if cond is None else cond.index(some), start)
        loss = direction_loss(before[some], score.pictures(after), towards)
        loss = loss + keep * (after - images[some]).abs().flatten(1).mean(1)
        grads = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        adam.step()
    return adapter.requires_grad_(False)


@torch.no_grad()
def restyle(
    denoise: NetDenoiser, adapter: Adapter, images: Tensor, cond: Cond | None = None, start: float = 0.5
) -> Tensor:
    """Edit pictures with what :func:`diffusion_clip` has found, (n, C, H, W).

    Args:
        denoise: the model that was tuned.
        adapter: for it.
        images: (n, C, H, W) in [−1, 1], also ones that it has not seen.
        cond, start: as there.

    Raises:
        InputError: for an adapter of another base, or a start out of range.
    """
    check_start(start)
    images = images.to(denoise.device)
    cond = None if cond is None else cond.expand(len(images)).to(denoise.device)
    return _decode(apply(denoise, adapter), _codes(denoise, images, cond, start), cond, start)


def check_start(start: float) -> None:
    """Raise an :class:`InputError` unless a time lies inside (0, 1)."""
    if not 0.0 < start < 1.0:
        raise InputError(f"start is a time in (0, 1), to which pictures are inverted: got {start}")


def _codes(denoise: NetDenoiser, images: Tensor, cond: Cond | None, start: float) -> Tensor:
    return invert(denoise, images, STEPS[0], cond, DDIM(), _until(denoise, start))


def _decode(denoise: NetDenoiser, codes: Tensor, cond: Cond | None, start: float) -> Tensor:
    how: dict[str, Any] = {"scale": 1.0} if denoise.sampling is not None and cond is not None else {}
    return sample(denoise, len(codes), cond, DDIM(), STEPS[1], _until(denoise, start), x=codes, progress="", **how)


def _until(denoise: NetDenoiser, start: float) -> grids.Grid:
    """The grid from ``start`` to data."""
    return replace(grids.time(), start=2.0 * denoise.schedule.point(start).lam)  # pyright: ignore[reportArgumentType]
