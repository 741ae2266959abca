"""Measurements ``y = A(x) + noise``: operators with adjoint, pseudo-inverse and the solve that posterior methods need."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.tensors import Scalar
from reverie.guide.gradient import Energy, match
from reverie.guide.pixels import as_mask, mask_of, masked, shrink

REC601 = (0.299, 0.587, 0.114)
"""Luma of RGB, ITU-R BT.601."""


class Operator:
    """``A``: images (B, C, H, W) to measurements (B, …). A subclass gives ``__call__``, differentiable, and if A is linear ``adjoint``.

    With these two, :meth:`pinv` and :meth:`solve` run conjugate gradients; a subclass that knows better overrides them.
    """

    gram: float | None = None
    """c where ``A·A* = c`` on the range of A, else None."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        """``A*y``, with ⟨Ax, y⟩ = ⟨x, A*y⟩."""
        raise InputError(
            f"{type(self).__name__} has no adjoint: give it `adjoint(y)` with <Ax, y> = <x, A*y> if it is linear; "
            "dps and dflow need A alone"
        )

    def pinv(self, y: Tensor) -> Tensor:
        """``A⁺y``, the smallest x that comes closest to Ax = y."""
        return self.adjoint(self.solve(y))

    def solve(self, v: Tensor, a: Scalar = 1.0, b: float = 0.0) -> Tensor:
        """``(a·AA* + b)⁻¹v`` for v in the range of A."""
        if self.gram is not None:
            return v / (a * self.gram + b)
        return conjugate_gradients(lambda u: a * self(self.adjoint(u)) + b * u, v)

    def measured(self, y: Tensor) -> Tensor | int:
        """How many numbers of ``y`` are measurements, of each sample."""
        return y[0].numel()


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], v: Tensor, iterations: int = 200, tolerance: float = 1e-6
) -> Tensor:
    """``u`` with apply(u) = v for a positive semi-definite ``apply``; every sample has its own steps (Hestenes & Stiefel 1952)."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (v.ndim - 1))

    u, r = torch.zeros_like(v), v
    p, rr = r, dot(r, r)
    goal = rr * tolerance**2
    for _ in range(iterations):
        if bool((rr <= goal).all()):
            break
        ap = apply(p)
        active = rr > goal
        step = torch.where(active, rr / dot(p, ap).clamp(min=torch.finfo(v.dtype).tiny), 0.0)
        u, r = u + step * p, r - step * ap
        new = dot(r, r)
        p, rr = torch.where(active, r + new / rr.clamp(min=torch.finfo(v.dtype).tiny) * p, p), new
    return u


class Inpaint(Operator):
    """Known pixels: ``m·x``, zero where nothing is known.

    Args:
        mask: (H, W), (C or 1, H, W) or (B or 1, C or 1, H, W), true or 1 where the pixel is known.

    Raises:
        InputError: for a mask that is not of zeros and ones; when called, for one of another size than the images.
    """

    gram = 1.0

    def __init__(self, mask: Tensor) -> None:
        self.mask = as_mask(mask)

    def __call__(self, x: Tensor) -> Tensor:
        return masked(x, self.mask)

    def adjoint(self, y: Tensor) -> Tensor:
        return masked(y, self.mask)

    def measured(self, y: Tensor) -> Tensor:
        return mask_of(y, self.mask).expand_as(y).flatten(1).sum(1)


class SuperResolution(Operator):
    """Every pixel of the small image is the mean of ``factor × factor`` pixels.

    Raises:
        InputError: for a factor that is not a whole number of at least 1; when called, for images that it does not divide.
    """

    def __init__(self, factor: int = 4) -> None:
        if factor < 1 or factor != int(factor):
            raise InputError(f"factor is a whole number of at least 1: got {factor}")
        self.factor, self.gram = int(factor), 1.0 / factor**2

    def __call__(self, x: Tensor) -> Tensor:
        return shrink(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


class Blur(Operator):
    """Convolution with a centered kernel, periodic at the borders, so that it is diagonal in Fourier space.

    Frequencies that the kernel passes at less than ``cut`` of its strongest are taken to be lost: A is zero there, not small.

    Args:
        kernel: (h, w), odd sides.
    """

    def __init__(self, kernel: Tensor, cut: float = 1e-3) -> None:
        if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            raise InputError(f"a blur kernel is (h, w) with odd sides: got {tuple(kernel.shape)}")
        self.kernel, self.cut = kernel, cut

    @classmethod
    def gaussian(cls, std: float, cut: float = 1e-3) -> "Blur":
        """A Gaussian kernel of ``std`` pixels, out to three of them."""
        if not 0.0 < std < math.inf:
            raise InputError(f"the standard deviation of a blur is positive, in pixels, and finite: got {std}")
        reach = math.ceil(3.0 * std)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / std) ** 2)
        kernel = line[:, None] * line
        return cls(kernel / kernel.sum(), cut)

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self._transfer(y).conj())

    def pinv(self, y: Tensor) -> Tensor:
        h = self._transfer(y)
        return self._filter(y, torch.where(h == 0, 0.0, h.conj() / _safe(h.abs() ** 2)))

    def solve(self, v: Tensor, a: Scalar = 1.0, b: float = 0.0) -> Tensor:
        gram = a * self._transfer(v).abs() ** 2 + b
        return self._filter(v, torch.where(gram == 0, 0.0, 1.0 / _safe(gram)))

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])

    def _transfer(self, x: Tensor) -> Tensor:
        (h, w), (height, width) = self.kernel.shape, x.shape[-2:]
        if h > height or w > width:
            raise InputError(f"the blur kernel is {h}x{w}, larger than the images of {height}x{width}")
        padded = torch.nn.functional.pad(self.kernel.to(x), (0, width - w, 0, height - h))
        transfer = torch.fft.rfft2(padded.roll((-(h // 2), -(w // 2)), (0, 1)))
        return torch.where(transfer.abs() >= self.cut * transfer.abs().max(), transfer, 0.0)


def _safe(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1.0, value)


class Colourise(Operator):
    """A grey image of one in colour: ``Σ w·channel`` with the weights of :data:`REC601`, which are Pillow's."""

    def __init__(self) -> None:
        self.gram = sum(w * w for w in REC601)

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise InputError(f"only images of 3 channels can be colourised: the model's have {x.shape[1]}")
        return (x * self._weights(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._weights(y)

    def _weights(self, x: Tensor) -> Tensor:
        return torch.tensor(REC601, dtype=x.dtype, device=x.device).reshape(3, 1, 1)


class CompressedSensing(Operator):
    """``count`` numbers out of the cosine transform of the image with random signs: A·A* = 1, no matrix is stored.

    Args:
        shape: (C, H, W) of the images.
        count: of measurements, at most C·H·W.
        seed: of signs and choice.
    """

    gram = 1.0

    def __init__(self, shape: tuple[int, ...], count: int, seed: int = 0) -> None:
        size = math.prod(shape)
        if not 1 <= count <= size:
            raise InputError(f"an image of {size} numbers can be measured 1 to {size} times: got {count}")
        random = torch.Generator().manual_seed(seed)
        self.shape, self.turns = tuple(shape), [cosine(n) for n in shape]
        self.signs = torch.randint(0, 2, self.shape, generator=random) * 2.0 - 1.0
        self.chosen = torch.randperm(size, generator=random)[:count]

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"this operator measures images of shape {self.shape}: got {tuple(x.shape[1:])}")
        return self._turn(x * self.signs.to(x), "forward").flatten(1)[:, self.chosen.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        full = y.new_zeros(len(y), math.prod(self.shape)).index_copy(1, self.chosen.to(y.device), y)
        return self._turn(full.reshape(-1, *self.shape), "back") * self.signs.to(y)

    def _turn(self, x: Tensor, way: Literal["forward", "back"]) -> Tensor:
        for dim, turn in enumerate(self.turns, start=1):
            matrix = turn.to(x)
            x = (x.movedim(dim, -1) @ (matrix if way == "back" else matrix.T)).movedim(-1, dim)
        return x


def cosine(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), (n, n) in float64."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * k * (i + 0.5)) * math.sqrt(2.0 / n)
    matrix[0] /= math.sqrt(2.0)
    return matrix


class Phase(Operator):
    """Phase retrieval: the modulus of the Fourier transform of the image (moved to [0, 1]), padded to ``oversample`` times its size.

    It is not linear: no adjoint, no pseudo-inverse. It cannot tell an image from its rotation by half a turn.
    """

    def __init__(self, oversample: float = 2.0) -> None:
        if not oversample >= 1.0:
            raise InputError(f"oversample is at least 1: got {oversample}")
        self.oversample = oversample

    def __call__(self, x: Tensor) -> Tensor:
        size = [math.ceil(self.oversample * n) for n in x.shape[-2:]]
        return torch.fft.fft2(0.5 * (x + 1.0), s=size, norm="ortho").abs()


def consistency(operator: Operator, y: Tensor, images: Tensor) -> Tensor:
    """How far images are from what was measured: the root mean square of ``A(x) − y`` over the measurements, (B,).

    Raises:
        InputError: for a measurement of another shape than the images'.
    """
    seen = operator(images)
    y = match("the measurement", y, seen)
    return ((seen - y).flatten(1).square().sum(1) / operator.measured(y)).sqrt()


def residual(operator: Operator, y: Tensor) -> Energy:
    """The energy ``‖y − A(x)‖₂`` of each sample."""

    def distance(images: Tensor) -> Tensor:
        seen = operator(images)
        return torch.linalg.vector_norm((match("the measurement", y, seen) - seen).flatten(1), dim=1)

    return distance
