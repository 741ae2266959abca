"""Whether the density of a model tells other pictures from its own.

A density that is high on what was learned should be low on anything else. That of a deep model need not be: pictures that are simpler than
those it was trained on score higher, whatever they show (Nalisnick et al., "Do deep generative models know what they don't know?", ICLR
2019). What a picture costs is to a large part how complex it is, which any lossless format measures without having learned anything:
less that, what is left is a likelihood ratio of the model to the format (Serrà et al., "Input complexity and out-of-distribution
detection with likelihood-based generative models", ICLR 2020, equation 2).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.core.condition import Cond, Label
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.progress import Progress
from reverie.data import ImageSet
from reverie.learn.grid import to_bytes
from reverie.measure.figures import Outliers
from reverie.measure.pictures import lossless
from reverie.solve.likelihood import bits_per_dimension, dequantise


def auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> float:
    """The area under the receiver operating characteristic: the share of all pairs in which the score inside is higher, ties counting half
    (Mann & Whitney 1947).

    Raises:
        InputError: for no scores, or one that is not a number.
    """
    if not len(inside) or not len(outside) or bool(torch.cat([inside, outside]).isnan().any()):
        raise InputError(f"scores are numbers of at least one picture each: got {len(inside)} and {len(outside)}")
    ranked = outside.double().sort().values
    below, up_to = (torch.searchsorted(ranked, inside.double(), right=right) for right in (False, True))
    return ((below + up_to).double().mean() / (2 * len(outside))).item()


@torch.no_grad()
def log_density(generator: Generator, x: Tensor, *, unlabelled: bool, batch_size: int = 100) -> Tensor:
    """Log density of pictures of which no class is known, or a lower bound on it, in nats.

    Args:
        generator: a model with ``log_prob`` or ``log_prob_bound``.
        x: (N, C, H, W) on the 256 levels of [−1, 1]; each is spread over its bin by the same noise in each call.
        unlabelled: whether a model of classes can also do without; of one that cannot, the mean density over its classes is taken.
        batch_size: pictures at a time.

    Returns:
        (N,) float64.

    Raises:
        InputError: for a model without a density, or with conditions that are no label.
    """
    density = generator.log_prob or generator.log_prob_bound
    if density is None:
        raise InputError(
            "this model has no density of pictures. Those of the tasks pixelcnn, pixelcnnpp, pixelrnn, subpixel and tile (with a mixture "
            "head) have one, and denoising in pixels; vae has a bound"
        )
    told: list[Cond | None] = [None]
    if generator.conditions and not unlabelled:
        label = generator.conditions.get("label")
        if not isinstance(label, Label) or len(generator.conditions) > 1:
            raise InputError(f"only labels can be averaged over: this model is told {', '.join(generator.conditions)}")
        told = [Cond(label=c) for c in range(label.classes)]
    device = next((p.device for module in generator.modules().values() for p in module.parameters()), x.device)
    parts = []
    with Progress("log density", len(x), "pictures") as progress:
        for rows in torch.arange(len(x)).split(batch_size):
            some = dequantise(x[rows], seed=[(0, int(row)) for row in rows]).to(device)
            each = torch.stack([density(some, cond).cpu().double() for cond in told])
            parts.append(each.logsumexp(0) - math.log(len(told)))
            progress.advance(len(rows))
    return torch.cat(parts)


def outliers(
    generator: Generator,
    held_out: ImageSet,
    others: ImageSet,
    *,
    unlabelled: bool = False,
    n: int = 1000,
    batch_size: int = 100,
) -> Outliers:
    """How well held-out pictures are told from ``others`` by a model's density, by the size of their files, and by both.

    Args:
        generator: as in :func:`log_density`.
        held_out: pictures of its own data that it was not trained on.
        others: pictures of other data, of the same shape.
        unlabelled: as in :func:`log_density`.
        n: pictures of each, at most, evenly spaced.
        batch_size: pictures at a time.

    Raises:
        InputError: for a model without a density, no pictures, or pictures of another shape.
    """
    if not len(held_out) or not len(others) or held_out.shape != others.shape:
        raise InputError(
            f"held-out and other pictures are of one shape, at least one each: got {len(held_out)} of {held_out.shape} and {len(others)} "
            f"of {others.shape}"
        )
    scores, sizes = [], []
    for images in (held_out, others):
        x = images.batch(torch.arange(min(n, len(images))) * len(images) // min(n, len(images))).x
        scores.append(log_density(generator, x, unlabelled=unlabelled, batch_size=batch_size))
        shortest = torch.stack(list(lossless(to_bytes(x)).values())).amin(0)
        sizes.append(8 * math.log(2) * shortest.double())  # in nats
    bits = [bits_per_dimension(score, held_out.shape).mean().item() for score in scores]
    files = [size.mean().item() / (math.log(2) * math.prod(held_out.shape)) for size in sizes]
    return Outliers(
        data=others.name,
        split=others.split,
        count=len(scores[1]),
        own=held_out.name,
        reference=len(scores[0]),
        density=auroc(*scores),
        complexity=auroc(-sizes[0], -sizes[1]),
        corrected=auroc(*(score + size for score, size in zip(scores, sizes, strict=True))),
        bits=bits[0],
        other_bits=bits[1],
        file_bits=files[0],
        other_file_bits=files[1],
        bound=generator.log_prob is None,
    )
