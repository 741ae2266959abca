"""Winograd's convolution is the convolution: results, gradients, second derivatives, and when it is left alone."""

import pytest
import torch
from torch.nn import functional as F

from reverie.nets import winograd
from reverie.nets.prepacked import packed_bytes, prepack, special
from reverie.nets.winograd import Conv3x3, convolve, filters, weight_gradient


def case(batch=2, inputs=3, outputs=5, height=7, width=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(batch, inputs, height, width), draw(outputs, inputs, 3, 3), draw(outputs)


@pytest.mark.parametrize("height, width", [(1, 2), (4, 4), (6, 9), (17, 23)])
@pytest.mark.parametrize("rows", [1, 7, 128])
def test_it_is_the_convolution(height, width, rows, monkeypatch):
    monkeypatch.setattr(winograd, "ROWS", rows)
    x, weight, bias = case(height=height, width=width)
    expected = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(convolve(x, filters(weight), bias), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(convolve(x, filters(weight)), expected - bias[:, None, None], rtol=0, atol=1e-12)
    wrong = filters(weight.transpose(2, 3))
    assert (convolve(x, wrong, bias) - expected).abs().max() > 0.1
    gradient = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.grad.conv2d_weight(x, list(weight.shape), gradient, padding=1)
    torch.testing.assert_close(weight_gradient(x, gradient), expected, rtol=0, atol=1e-11)
    assert (weight_gradient(x, gradient.flip(0)) - expected).abs().max() > 0.1


def test_it_multiplies_a_quarter_as_often():
    from torch.utils.flop_counter import FlopCounterMode

    x, weight, bias = case(8, 256, 256, 16, 16, torch.float32)
    with FlopCounterMode(display=False) as ordinary:
        F.conv2d(x, weight, bias, padding=1)
    kept = filters(weight)
    with FlopCounterMode(display=False) as fewer:
        convolve(x, kept, bias)
    transforms = (36 * 36 + 16 * 36) / (16 * 9 * 256)
    assert fewer.get_total_flops() == pytest.approx((1 / 4 + transforms) * ordinary.get_total_flops())


def test_error_in_single_precision():
    x, weight, bias = case(2, 256, 256, 16, 16)
    exact = F.conv2d(x, weight, bias, padding=1)
    error = (convolve(x.float(), filters(weight.float()), bias.float()) - exact).abs().max() / exact.abs().max()
    assert 1e-7 < error < 3e-5


@pytest.fixture
def layer(monkeypatch):
    """A small layer that goes Winograd's way, in double precision."""
    monkeypatch.setattr(Conv3x3, "pays", lambda self, x, packed: not special(x))
    torch.manual_seed(0)
    return Conv3x3(3, 5).double()


def counted(monkeypatch) -> list[int]:
    """Notes each time that Winograd's way is gone."""
    calls = []
    monkeypatch.setattr(winograd, "convolve", lambda *args: calls.append(1) or convolve(*args))
    return calls


def test_gradients(layer):
    x = case()[0].requires_grad_()
    call = lambda x, w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, x)  # noqa: E731
    assert "_Winograd" in str(layer(x).grad_fn)
    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, layer.weight, layer.bias))
    layer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(F.conv2d(x, layer.weight, layer.bias, padding=1).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert not layer(x.detach()).requires_grad


def test_what_it_does_not_know_is_left_to_the_ordinary_one(layer, monkeypatch):
    x, calls = case()[0], counted(monkeypatch)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    assert len(calls) == 1
    torch.testing.assert_close(torch.vmap(lambda x: layer(x[None])[0])(x), expected)
    torch.func.jvp(layer, (x,), (x,))
    torch.func.grad(lambda x: layer(x).sum())(x)
    torch.func.grad(lambda w: torch.func.functional_call(layer, {"weight": w}, x).sum())(layer.weight.detach())
    torch.compile(layer, backend="eager", fullgraph=True)(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer.float()(x.float())
    assert len(calls) == 1


def test_only_where_it_pays(monkeypatch):
    calls, x = counted(monkeypatch), torch.randn(4, 128, 16, 16)
    with torch.no_grad():
        assert Conv3x3(128, 64)(x).shape == (4, 64, 16, 16) and not calls
        wide = Conv3x3(128, 128)
        wide.bfloat16()(x.bfloat16())
        wide.double()(x.double())
        wide.float()(x[:1, :, :8, :8])
        assert not calls
        torch.testing.assert_close(wide(x), F.conv2d(x, wide.weight, wide.bias, padding=1), rtol=0, atol=1e-4)
        assert len(calls) == 1


def test_frozen_filters_are_those_of_the_weights(monkeypatch):
    layer, x, made = Conv3x3(128, 128), torch.randn(1, 128, 16, 16), []
    net = torch.nn.Sequential(layer, Conv3x3(128, 3))
    monkeypatch.setattr(winograd, "filters", lambda weight: made.append(1) or filters(weight))
    with torch.no_grad():
        for _ in range(2):
            packed = prepack(net)[0]
            assert packed_bytes(net) == 4 * packed.packed.numel()
            for _ in range(3):
                torch.testing.assert_close(
                    packed(x), F.conv2d(x, layer.weight, layer.bias, padding=1), rtol=0, atol=1e-4
                )
            layer.weight.data.mul_(-2)  # which no counter of versions notices
        assert len(made) == 2 and layer.packed is None
    packed.packed = packed.packed * torch.nan
    assert not packed(torch.cat([x, x])).isnan().any()  # a guide that asks for gradients
