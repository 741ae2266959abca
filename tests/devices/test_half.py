"""Networks in half precision: the state stays in single, the picture near that of single precision, and nothing is NaN."""

import copy

import pytest
import torch

import reverie as rv

from .emulated import DEVICE
from .models import MODELS, condition, pictures
from .test_guiding import classifier

DTYPES = [torch.bfloat16, torch.float16]
X = pictures()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_in_half_precision_draws_nearly_the_same(name, dtype):
    """Within ten roundings of a weight: what each of 6 evaluations loses, and more where errors grow."""
    denoise = MODELS[name]()
    cond = condition(denoise)
    with torch.no_grad():
        single = rv.sample(denoise, 2, cond, steps=6)
        rounded = rv.sample(copy.deepcopy(denoise).to(dtype=dtype), 2, cond, steps=6)
    assert rounded.dtype == torch.float32 and rounded.isfinite().all()
    error = (rounded - single).square().mean().sqrt() / single.std()
    assert error < 10 * torch.finfo(dtype).eps
    assert error > 0.0  # it did compute in half precision


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_solver_takes_it(dtype):
    from .test_sampling import SOLVERS, START

    denoise = MODELS["dit"]()
    half = copy.deepcopy(denoise).to(dtype=dtype)
    with torch.no_grad():
        for name, solver in SOLVERS.items():
            one, other = (
                rv.sample(d, 2, rv.Cond(label=1), solver=solver, steps=6, grid=START.get(name)) for d in (denoise, half)
            )
            assert other.dtype == torch.float32
            assert (one - other).square().mean().sqrt() < 10 * torch.finfo(dtype).eps * one.std(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_guides_inversion_likelihood_reading_and_restoration_take_it(dtype):
    denoise = MODELS["unet"]()
    half, eps = copy.deepcopy(denoise).to(dtype=dtype), torch.finfo(dtype).eps
    small, label = rv.inverse.operators.SuperResolution(2), rv.Cond(label=[1, 2])
    judge = classifier()
    for f in (
        lambda d: rv.sample(rv.guide.cfg(d, 2.0), 2, label, steps=4),
        lambda d: rv.sample(rv.guide.classifier(d, copy.deepcopy(judge).to(dtype=d.weight.dtype)), 2, label, steps=4),
        lambda d: rv.invert(d, X, steps=4),
        lambda d: rv.log_prob(d, X, solver=rv.solve.Heun("straight"), steps=4),
        lambda d: rv.read.features(d, X, "middle.0", logsnr=2.0),
        lambda d: rv.inverse.restore(d, small, small(X), steps=4, cond=label).images,
        lambda d: rv.sample(d, x=X, start=0.4, steps=3),
    ):
        one, other = f(denoise), f(half)
        assert other.dtype == torch.float32 and other.isfinite().all()
        assert (one - other).square().mean().sqrt() < 20 * eps * one.square().mean().sqrt()


def test_a_network_in_double_precision_is_sampled_in_it_near_what_single_gives():
    denoise = MODELS["dit"]()
    with torch.no_grad():
        single = rv.sample(denoise, 2, rv.Cond(label=1), steps=3)
        double = rv.sample(copy.deepcopy(denoise).to(dtype=torch.float64), 2, rv.Cond(label=1), steps=3)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=0, atol=1e-5)


def test_what_half_precision_would_spoil_stays_as_it_was():
    for name, find in (
        ("prior", lambda net: dict(net.prior.named_buffers())),
        ("unet-ncsn", lambda net: {"rate": net.conditioning.time.rate}),
        ("jit", lambda net: {"angles": net.angles}),
    ):
        denoise = MODELS[name]()
        half = copy.deepcopy(denoise).to(dtype=torch.bfloat16)
        assert half.weight.dtype == torch.bfloat16
        for key, value in find(denoise.net).items():
            assert torch.equal(find(half.net)[key], value) and find(half.net)[key].dtype == torch.float32, (name, key)


def test_a_network_in_double_precision_takes_a_state_in_single():
    denoise = MODELS["dit"]()
    with torch.no_grad():
        single = denoise(X, 0.4, rv.Cond(label=1)).out
        double = copy.deepcopy(denoise).to(dtype=torch.float64)(X, 0.4, rv.Cond(label=1)).out
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dit", "unet-text", "prior"])
def test_half_precision_on_another_device(name):
    denoise = MODELS[name]().to(dtype=torch.bfloat16)
    with torch.no_grad():
        here = rv.sample(denoise, 2, condition(denoise), steps=3)
        there = rv.sample(denoise.to(DEVICE), 2, condition(denoise), steps=3)
    assert there.dtype == torch.float32
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=0.05)
