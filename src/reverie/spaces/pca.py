"""Patch-wise principal components: ``z = V·(x − m)`` for each patch x, V the d leading eigenvectors of the patches' covariance.

Chen et al., "Deconstructing denoising diffusion models for self-supervised learning", 2024 (arXiv:2401.14404), section 4.2: the plainest
of their tokenizers, and as good as any for what a denoiser learns. ``Vᵀz + m`` is the closest point of the d-dimensional plane.
"""

from typing import Self

import torch
from torch import Tensor

from reverie.core.batch import Dataset
from reverie.core.errors import InputError
from reverie.spaces.latent import Latent, batches, cut, linear, paste


class PatchPCA(Latent):
    """The space of the leading principal components of each patch. Make one with :meth:`fit`.

    Attributes:
        basis: (D, D), all D = C·patch² eigenvectors as orthonormal rows, the strongest first; V is the first ``dims``.
        variances: (D,), their eigenvalues: the variance of the data along each.
        mean: (D,), the mean patch m.
    """

    name = "pca"
    basis: Tensor
    variances: Tensor
    mean: Tensor

    def __init__(self, channels: int, patch: int, dims: int) -> None:
        super().__init__(channels, patch, dims)
        if dims > self.full:
            raise InputError(
                f"a patch of {channels}x{patch}x{patch} pixels has {self.full} components: got dims={dims}"
            )
        self.register_buffer("basis", torch.eye(self.full))
        self.register_buffer("variances", torch.ones(self.full))
        self.register_buffer("mean", torch.zeros(self.full))

    @classmethod
    @torch.no_grad()
    def fit(cls, images: Tensor | Dataset, patch: int = 4, dims: int = 16) -> Self:
        """From pictures (N, C, H, W) in [−1, 1]; the covariance is summed in float64, the scale follows from the eigenvalues.

        Raises:
            InputError: when the patch does not divide the sides, has fewer pixels than ``dims``, or the pictures are all alike.
        """
        channels = images.shape[1] if isinstance(images, Tensor) else images.spec.shape[0]
        space = cls(channels, patch, dims)
        count, total = 0, torch.zeros(space.full, dtype=torch.float64)
        products = torch.zeros(space.full, space.full, dtype=torch.float64)
        for x in batches(images):
            space.code_shape(tuple(x.shape[1:]))
            rows = cut(x, patch).movedim(1, -1).reshape(-1, space.full).cpu().double()
            count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        basis = vectors.T.flip(0)
        basis = (
            basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        )  # a sign that does not depend on the library
        space.basis.copy_(basis)
        space.variances.copy_(variances.flip(0).clamp(min=0.0))
        space.mean.copy_(mean)
        scale = space.variances[:dims].mean().sqrt()
        if not scale > 0.0:
            raise InputError("the patches do not vary: a space is fitted to pictures that differ")
        space.scale.copy_(scale)
        return space

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.components(x)[:, : self.dims]

    def decode_raw(self, code: Tensor) -> Tensor:
        patches = linear(self.basis[: self.dims].T, code)
        return paste(patches + self.mean.to(code)[:, None, None], self.patch)

    def components(self, x: Tensor) -> Tensor:
        """All D components of each patch, (B, C, H, W) -> (B, D, H/patch, W/patch), neither cut off nor scaled."""
        return linear(self.basis, cut(x, self.patch) - self.mean.to(x)[:, None, None])

    def rotate(self, difference: Tensor) -> Tensor:
        """The components of a difference of two pictures: as :meth:`components`, without the mean. Lengths stay (Parseval)."""
        return linear(self.basis, cut(difference, self.patch))
