"""Energies on the clean estimate: the guide's closed form, FreeDoM's ring, and what each ready-made energy asks for."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VE, VP, Flow
from reverie.guide import FreeDoM, energies, time_travel
from reverie.guide.freedom import Relative
from reverie.solve import DDIM, DDPM, Heun, grids, plain, sample

from ..margin import apart

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
TILT = torch.tensor([1.0, -0.5], dtype=torch.float64)


class Draws:
    """Noise for many samples at once, antithetic."""

    def __init__(self, seeds: Sequence) -> None:
        self.n, self.random = len(seeds), torch.Generator().manual_seed(7)

    def draw(self, stream: str, number: int, shape: Sequence[int], span=None) -> Tensor:
        half = torch.randn((self.n + 1) // 2, *shape, dtype=torch.float64, generator=self.random)
        return torch.cat([half, -half])[: self.n]


@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=repr)
def test_a_linear_energy_tilts_a_gaussian_exactly(path) -> None:
    """``p(x0)·e^(−s·a·x0)`` is N(m − sΣa, Σ): the guided estimate is its denoiser's own, at every level."""
    tilted = Gaussian(MEAN - 0.8 * COVARIANCE @ TILT, COVARIANCE).denoiser(path)
    guided = rv.guide.energy(Gaussian(MEAN, COVARIANCE).denoiser(path), lambda x: x @ TILT, 0.8)
    for t in (0.95, 0.5, 0.1):
        x = path.point(t).sigma * torch.randn(6, 2, dtype=torch.float64)
        assert torch.allclose(guided(x, t).x0, tilted(x, t).x0, atol=1e-9)
        assert torch.allclose(guided(x, t).score, tilted(x, t).score, atol=1e-6)
    times = torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64)  # a time and a scale for each sample
    x = torch.randn(3, 2, dtype=torch.float64)
    scales = torch.tensor([0.8, 0.8, 0.0], dtype=torch.float64)
    mixed = rv.guide.energy(guided.base, lambda x: x @ TILT, scales)(x, times).x0
    assert torch.allclose(mixed[:2], tilted(x, times).x0[:2], atol=1e-9)
    assert torch.allclose(mixed[2], guided.base(x, times).x0[2], atol=1e-12)


def test_a_quadratic_energy_is_not_exact() -> None:
    """The control: an energy of the estimate is not the estimate of the energy, and the spread of x0 given x_t is left out."""
    a = 2.0  # p(x)·e^(−a|x|²/2) of N(0, 1) is N(0, 1/(1 + a))
    unit = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)).denoiser(VP())
    x = torch.ones(1, 1, dtype=torch.float64)
    tilted = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64) / (1 + a)).denoiser(VP())
    guided = rv.guide.energy(unit, lambda x: 0.5 * a * x.square().sum(1))
    assert (guided(x, 0.3).x0 - tilted(x, 0.3).x0).abs() > 0.05


def ring() -> GaussianMixture:
    angle = 2 * math.pi * torch.arange(12, dtype=torch.float64) / 12
    means = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(
        torch.ones(12, dtype=torch.float64), means, 0.15**2 * torch.eye(2, dtype=torch.float64).expand(12, 2, 2)
    )


NORMAL = torch.tensor([0.6, 0.8], dtype=torch.float64)


def line(x: Tensor) -> Tensor:
    return (x @ NORMAL - 1.0).abs()


def test_freedoms_ring() -> None:
    """Twelve modes on a ring and a line across: time travel brings samples to where both are likely, a projection does not."""
    data, points = ring(), grids.time()(VP(), 100)
    denoise = data.denoiser(VP())
    found = {}
    for repeat in (1, 3, 10):
        solver = FreeDoM(DDPM(), line, 0.1)
        found[repeat] = sample(denoise, 400, solver=solver, walk=time_travel(points, repeat), tape=Draws)
    energy = {repeat: float(line(x).mean()) for repeat, x in found.items()}
    assert energy[1] > 1.3 * energy[3] and energy[1] > 1.6 * energy[10] and energy[10] < 0.07, energy
    assert float(data.log_prob(found[10]).mean()) > -3.0
    free = sample(denoise, 400, solver=DDPM(), walk=plain(points), tape=Draws)
    assert float(line(free).mean()) > 1.0
    projected = free - (free @ NORMAL - 1.0)[:, None] * NORMAL
    assert float(line(projected).max()) < 1e-9 and float(data.log_prob(projected).mean()) < -5.0


def test_time_travel_renoises_within_its_interval() -> None:
    points = grids.time()(VP(), 10)
    inside = [i for i in range(1, 11) if -2.0 <= points[i].logsnr <= 2.0]
    walk = time_travel(points, 3, (-2.0, 2.0))
    assert len(walk) == 10 + 4 * len(inside) and sum(m.kind == "renoise" for m in walk) == 2 * len(inside)
    assert time_travel(points, 1) == plain(points)
    with pytest.raises(InputError, match="at least 1: got 0"):
        time_travel(points, 0)


def test_moves_are_the_same_on_every_path() -> None:
    ends = []
    for rate in (0.1, Relative(0.3)):
        for path in (VP(), Flow(), VE()):
            points = [path.at(lam) for lam in torch.linspace(-2.0, 3.0, 9).tolist()]
            x = torch.tensor([[1.0, -0.4], [0.3, 2.0]], dtype=torch.float64) * math.hypot(
                points[0].alpha, points[0].sigma
            )
            solver = FreeDoM(DDIM(), line, rate)
            *_, last = rv.iterate(ring().denoiser(path), x=x, solver=solver, walk=plain(points))
            ends.append(last.x / last.to.alpha)
    assert all(torch.allclose(end, ends[0], atol=1e-7) for end in ends[:3])
    assert all(torch.allclose(end, ends[3], atol=1e-7) for end in ends[3:])
    assert apart(ends[0], ends[3]) > 1e-2


def test_relative_steps_know_no_unit() -> None:
    x = torch.randn(2, 2, dtype=torch.float64)
    small, large = (
        sample(ring().denoiser(VP()), x=x, steps=8, solver=FreeDoM(DDIM(), lambda x, u=unit: u * line(x)))
        for unit in (1.0, 1000.0)
    )
    assert torch.allclose(small, large, atol=1e-9)


IMAGES = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def encoder(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :10].tanh()


READY = {
    "masked": energies.masked(IMAGES, torch.arange(64).reshape(8, 8) % 2),
    "lowres": energies.lowres(IMAGES, 4),
    "colours": energies.colours(IMAGES),
    "edges": energies.edges(IMAGES),
    "similarity": energies.similarity(encoder, encoder(IMAGES)),
    "style": energies.style(lambda x: [x, torch.nn.functional.avg_pool2d(x, 2)], IMAGES),
}


@pytest.mark.parametrize("name", READY)
def test_ready_made(name: str) -> None:
    """Zero at the target and more elsewhere, one number a sample, and downhill is towards the target."""
    energy = READY[name]
    assert torch.allclose(energy(IMAGES), torch.zeros(3, dtype=torch.float64), atol=1e-7)
    x = (IMAGES + 0.3 * torch.randn_like(IMAGES)).requires_grad_()
    value = energy(x)
    assert value.shape == (3,) and (value > 1e-4).all()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert (energy(x - 1e-3 * gradient / gradient.flatten(1).norm(dim=1).reshape(3, 1, 1, 1)) < value).all()
    for i in range(3):  # per sample: the gradient of one does not see the others
        part = x[i : i + 1].detach().repeat(3, 1, 1, 1).requires_grad_()
        assert torch.allclose(torch.autograd.grad(energy(part)[i], part)[0][i], gradient[i], atol=1e-9)


def test_what_they_look_at() -> None:
    """Colours do not see where, edges do not see brightness, low resolution does not see detail; a mask does not see the rest."""
    shuffled = IMAGES.flatten(2)[..., torch.randperm(64)].reshape(IMAGES.shape)
    assert READY["colours"](shuffled).max() < 1e-9 < READY["edges"](shuffled).min()
    assert READY["edges"](IMAGES + 0.2).max() < 1e-9 < READY["colours"](IMAGES + 0.2).min()
    detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(4, 4)
    assert READY["lowres"](IMAGES + detail).max() < 1e-9 < READY["masked"](IMAGES + detail).min()
    holes = (1 - torch.arange(64).reshape(8, 8) % 2).double()
    assert READY["masked"](IMAGES + holes).max() < 1e-9
    small = torch.nn.functional.avg_pool2d(IMAGES, 4)
    assert torch.allclose(energies.lowres(small, 4)(0.5 * IMAGES), READY["lowres"](0.5 * IMAGES))
    assert energies.colours(IMAGES[..., :4])(IMAGES).shape == (3,)  # a target of another size


def test_a_classifier_guides_to_its_class() -> None:
    data = ring()
    angles = torch.stack([data.means[:, 0], data.means[:, 1]], 1)

    def classifier(x: Tensor) -> Tensor:
        return -2.0 * torch.cdist(x, angles).square()

    solver = FreeDoM(DDPM(), energies.classified(classifier, [3, 7, 3, 7]), 0.05)
    x = sample(data.denoiser(VP()), 4, solver=solver, walk=time_travel(grids.time()(VP(), 40), 3), tape=Draws)
    assert classifier(x).argmax(1).tolist() == [3, 7, 3, 7]


def test_bad_input() -> None:
    denoise = ring().denoiser(VP())

    def run(energy, n: int = 2):
        return sample(denoise, n, steps=3, solver=Heun("straight")), sample(
            rv.guide.energy(denoise, energy), n, steps=3
        )

    with pytest.raises(InputError, match=r"energy is nan for sample 0 .* keep it finite .* lower the scale"):
        run(lambda x: torch.log(-x[:, 0].abs() - 1))
    with pytest.raises(InputError, match=r"one number a sample, shape \(2,\): got \(\)"):
        run(lambda x: x.sum())
    with pytest.raises(InputError, match="by differentiable operations"):
        run(lambda x: x.detach().sum(1))
    with pytest.raises(InputError, match=r"torch.no_grad\(\)"), torch.no_grad():
        run(lambda x: x.sum(1))
    with pytest.raises(
        InputError, match="classes 0 to 11, the labels go from 3 to 12: use a classifier of the same classes"
    ):
        run(energies.classified(lambda x: x.repeat(1, 6), [3, 12]))
    with pytest.raises(InputError, match="embeddings of shape"):
        energies.similarity(encoder, torch.ones(1, 7))(IMAGES)
    with pytest.raises(InputError, match="got 3 for a batch of 2"):
        energies.edges(IMAGES)(IMAGES[:2])
    with pytest.raises(InputError, match=r"the target.* is \(2, 6, 6\) a sample and is compared with"):
        energies.edges(torch.ones(1, 1, 6, 6))(IMAGES)
    with pytest.raises(InputError, match="the mask is 1x6x6"):
        energies.masked(IMAGES, torch.ones(6, 6))
    run(lambda x: x.sum(1))  # and it runs


def test_differentiable_through_the_guide() -> None:
    """An outer objective gets the exact gradient, second derivatives of the network included; without one nothing is kept."""
    guided = rv.guide.energy(ring().denoiser(VP()), lambda x: x.square().sum(1), 0.3)
    x = torch.randn(2, 2, dtype=torch.float64)
    assert not guided(x, 0.5).out.requires_grad
    assert torch.autograd.gradcheck(lambda x: guided(x, 0.5).x0, (x.requires_grad_(),))


def test_corrections_stack_on_one_evaluation() -> None:
    """Two energies: one evaluation, a pass back for each, no graph left in the state; the sum of both energies to first order."""
    denoise = ring().denoiser(VP())

    def other(x: Tensor) -> Tensor:
        return (x @ torch.tensor([0.8, -0.6], dtype=torch.float64) - 1.5).abs()

    stacked = FreeDoM(FreeDoM(DDIM(), line, 0.01), other, 0.01)
    x, cost = sample(denoise, 3, steps=10, solver=stacked, tape=Draws, report=True)
    assert (cost.evaluations, cost.backwards) == (10, 20) and not x.requires_grad
    both = FreeDoM(DDIM(), lambda x: line(x) + other(x), 0.01)
    assert torch.allclose(x, sample(denoise, 3, steps=10, solver=both, tape=Draws), atol=1e-9)
    one = FreeDoM(DDIM(), line, 0.01)
    assert apart(sample(denoise, 3, steps=10, solver=one, tape=Draws), x) > 1e-3


def test_gradient_guides_nest_around_fused_attention() -> None:
    """An outer gradient through an inner one needs second derivatives, which fused attention does not have."""
    from reverie.core.denoiser import NetDenoiser

    class Attends(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, cond) -> Tensor:
            h = x.flatten(2)
            return torch.nn.functional.scaled_dot_product_attention(h, h, h).reshape(x.shape)

    denoise = NetDenoiser(Attends(), VP(), "x0", shape=(2, 4, 4))

    def energy(x: Tensor) -> Tensor:
        return x.square().flatten(1).mean(1)

    nested = rv.guide.energy(rv.guide.energy(denoise, energy, 0.01), energy, 0.01)
    x = sample(nested, 2, steps=4, solver=FreeDoM(DDIM(), energy))
    assert torch.isfinite(x).all() and not x.requires_grad
