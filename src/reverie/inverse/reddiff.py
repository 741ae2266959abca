"""RED-diff: restoration by optimisation, the denoiser a regulariser (Mardani et al. 2023, "A variational perspective on solving inverse
problems with diffusion models", algorithm 1)."""

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import RunError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import Point
from reverie.core.tensors import finite
from reverie.guide.gradient import match, need_gradients
from reverie.inverse.operators import Operator
from reverie.solve.sampling import Seeds


def reddiff_loss(
    denoise: Denoiser,
    operator: Operator,
    y: Tensor,
    mu: Tensor,
    point: Point,
    noise: Tensor,
    weight: float = 0.25,
    cond: Cond | None = None,
) -> Tensor:
    """``½·mean((y − A(μ))²) + weight·(σ/α)·mean(sg(ε̂ − ε)·μ)`` of each sample, (B,): no gradient goes through the network.

    Means make the weight mean the same for images of all sizes. For N(0, 1) data it pulls μ like a ridge penalty of ``weight·E[r²]/d``.

    Args:
        mu: (B, …) in the diffused space, with α > 0 at ``point``.
        noise: ε, like ``mu``.
    """
    with torch.no_grad():
        error = denoise(point.alpha * mu + point.sigma * noise, point, cond).eps - noise
    seen = operator(denoise.space.decode(mu))
    data = 0.5 * (match("the measurement", y, seen) - seen).flatten(1).square().mean(1)
    return data + weight * (point.rho * error * mu).flatten(1).mean(1)


def reddiff(
    denoise: Denoiser,
    operator: Operator,
    y: Tensor,
    n: int | None = None,
    cond: Cond | None = None,
    steps: int = 200,
    weight: float = 0.25,
    lr: float = 0.1,
    seed: Seeds = 0,
    init: Tensor | None = None,
) -> Tensor:
    """Restore from ``y = A(x)``: Adam on :func:`reddiff_loss` while the noise level falls, one evaluation a step.

    It finds one likely image, no sample of the posterior.

    Args:
        n: how many, by default one for each row of ``y``.
        cond: one condition for all, or one a sample.
        steps: of Adam, with times descending uniformly.
        weight, lr: λ and the rate of Adam, as in the paper's code.
        init: images to start from, A⁺y by default.

    Returns:
        (n, C, H, W) images.

    Raises:
        InputError: with gradients off, or without a pseudo-inverse and ``init``.
    """
    need_gradients("reddiff")
    n = len(y) if n is None else n
    images = operator.pinv(y.to(denoise.device)) if init is None else init.to(denoise.device)
    mu = denoise.space.encode(images).expand(n, *denoise.shape).detach().clone().requires_grad_()
    cond = None if cond is None else cond.expand(n).to(denoise.device)
    tape = Tape(sample_seeds(seed, n))
    adam = torch.optim.Adam([mu], lr, betas=(0.9, 0.99))  # elementwise, so samples do not mix
    for i in range(steps):
        point = denoise.schedule.point(1.0 - (i + 0.5) / steps)
        noise = tape.draw("reddiff", i, denoise.shape).to(mu)
        loss = reddiff_loss(denoise, operator, y, mu, point, noise, weight, cond).sum()
        (mu.grad,) = torch.autograd.grad(loss, mu)
        adam.step()
    if not finite(mu):
        raise RunError(f"the optimisation of reddiff left the finite numbers: take a smaller lr than {lr:g}")
    return denoise.space.decode(mu.detach())
