"""Whether each number of a code says one thing: the mutual information gap, and pictures whose factors are known.

Chen et al., "Isolating sources of disentanglement in variational autoencoders", NeurIPS 2018, equation 6: for each factor v the mutual
information with the number that knows most of it, less that with the second, as a share of the factor's entropy.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from reverie.core.errors import InputError

BINS = 20
"""Equal intervals that each number's range is cut into (Locatello et al. 2019, appendix B)."""


def mutual_information(codes: Float[Tensor, "n d"], factors: Int64[Tensor, "n k"]) -> Float[Tensor, "d k"]:
    """I(z_j; v_k) in nats, each number cut into :data:`BINS` intervals between its least and greatest.

    Raises:
        InputError: for codes and factors of different length.
    """
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise InputError(
            f"codes (n, d) and factors (n, k) are of the same pictures: got {tuple(codes.shape)} and {tuple(factors.shape)}"
        )
    low, high = codes.min(0).values, codes.max(0).values
    bins = ((codes - low) / (high - low).clamp(min=1e-12) * BINS).long().clamp(max=BINS - 1)
    found = torch.empty(codes.shape[1], factors.shape[1], dtype=torch.float64)
    for j, z in enumerate(bins.T):
        for k, v in enumerate(factors.T):
            joint = (
                torch.bincount(z * (int(v.max()) + 1) + v, minlength=BINS * (int(v.max()) + 1)).double().view(BINS, -1)
            )
            found[j, k] = entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)
    return found


def mutual_information_gap(codes: Float[Tensor, "n d"], factors: Int64[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """The gap of each factor, from 0 (no number knows it better than another) to 1 (one knows it, and no other anything of it).

    Args:
        codes: of n pictures, at least 2 numbers each.
        factors: what the pictures were made of, whole numbers from 0.

    Raises:
        InputError: for codes of one number, a factor that does not vary, or lengths that differ.
    """
    most = mutual_information(codes, factors).sort(0, descending=True).values
    if len(most) < 2:
        raise InputError("the gap is between two numbers of a code: got codes of one")
    spread = torch.stack([entropy(torch.bincount(v).double()) for v in factors.T])
    if not (spread > 0).all():
        raise InputError(f"factor {int((spread <= 0).nonzero()[0])} is the same for all pictures: leave it out")
    return (most[0] - most[1]) / spread


def entropy(counts: Tensor) -> Tensor:
    """In nats, of frequencies that need not sum to 1."""
    p = counts[counts > 0] / counts.sum()
    return -(p * p.log()).sum()


def discs(
    n: int, size: int = 16, steps: int = 8, seed: int = 0
) -> tuple[Float[Tensor, "n 1 s s"], Int64[Tensor, "n 4"]]:
    """Pictures of one soft disc in [−1, 1], and what they were made of: column, row, radius and brightness, each one of ``steps``."""
    factors = torch.randint(steps, (n, 4), generator=torch.Generator().manual_seed(seed))
    column, row, radius, bright = (factors / (steps - 1)).T[..., None, None]
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    away = ((x - 0.3 - 0.4 * column).square() + (y - 0.3 - 0.4 * row).square()).sqrt()
    inside = torch.sigmoid((0.12 + 0.16 * radius - away) * size)
    return ((0.8 + 1.2 * bright) * inside - 1.0)[:, None], factors
