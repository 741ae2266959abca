"""Linear layers that prepack their weights for a run: the same numbers, only where it pays, never those of other weights."""

import pytest
import torch
from torch.nn import functional as F

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.nets.config import DiTConfig
from reverie.nets.dit import DiT
from reverie.nets.prepacked import Linear, packed_bytes, prepack
from reverie.solve.fast import fast

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN nothing is prepacked")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each product with prepacked weights."""
    made: list[int] = []
    real = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: made.append(1) or real(*a))
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 384), (3, 100, 384), (2, 2, 20, 384)])
def test_the_product_is_that_of_the_plain_layer(shape: tuple[int, ...], bias: bool, calls: list[int]) -> None:
    layer, x = Linear(384, 512, bias=bias), torch.randn(shape)
    expected = F.linear(x, layer.weight, layer.bias)
    assert packed_bytes(layer) == 4 * layer.weight.numel()
    packed = prepack(layer)
    turned = x.transpose(0, -2).contiguous().transpose(0, -2)  # not as it lies in memory
    with torch.no_grad():
        torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(turned), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 2 and layer.packed is None and packed.weight is layer.weight


def test_only_where_it_pays_and_no_gradient_is_asked_for(calls: list[int]) -> None:
    narrow, layer = Linear(64, 64), Linear(384, 512)
    x = torch.randn(64, 384)
    small, packed = prepack(torch.nn.ModuleList([narrow, layer]))
    assert small is narrow and packed_bytes(narrow) == 0
    packed(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        packed(x[:63]), torch.func.vmap(packed)(x), torch.func.jvp(packed, (x,), (x,))
        with torch.autocast("cpu", torch.bfloat16):
            assert packed(x).dtype == torch.bfloat16
        assert not calls
        packed(x)
    assert len(calls) == 1
    layer.requires_grad_(False)
    packed(x)  # nothing asks for a gradient, whatever the mode
    assert len(calls) == 2
    packed(x.requires_grad_()).sum().backward()  # as energy guidance does
    assert len(calls) == 2 and x.grad is not None
    assert packed_bytes(Linear(384, 512).double()) == packed_bytes(Linear(384, 512).bfloat16()) == 0


def test_each_run_packs_the_weights_of_its_time(calls: list[int]) -> None:
    torch.manual_seed(0)
    net = DiT(DiTConfig(patch=2, width=384, depth=1, heads=6), channels=1, size=16)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    denoise = NetDenoiser(net.eval(), Flow(), shape=(1, 16, 16))
    x = torch.randn(2, 1, 16, 16)
    ends = []
    with torch.no_grad():
        for _ in range(2):
            plain = net(x, torch.tensor(0.5))
            ends.append(fast(denoise, 2, None, None, 10)(x, 0.5).out)
            torch.testing.assert_close(ends[-1], plain, rtol=1e-4, atol=1e-5)
            for parameter in net.parameters():
                parameter.data.mul_(1.1)  # which no counter of versions notices
    assert len(calls) == 2 * 4 and (ends[0] - ends[1]).abs().max() > 1e-2
