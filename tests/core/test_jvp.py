"""Forward derivatives of every network against float64 differences, and their gradients against the other order of differentiation."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import reverie as rv
from reverie.align.diffae import CodeNet
from reverie.core.condition import Entry
from reverie.core.flow_map import UNTIL
from reverie.core.jvp import jvp
from reverie.nets.vectors import VectorNet

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "heads": 2, "attention": (2,)}
TOLD = {"context": 5, "length": 6}


def built(config, classes=None, size=8) -> nn.Module:
    return rv.nets.build(config, channels=3, size=size, classes=classes)


NETWORKS = {
    "dit": lambda: built(rv.nets.DiTConfig(width=16, depth=2, heads=2, local=True), 4),
    "dit-long": lambda: built(
        rv.nets.DiTConfig(patch=2, width=128, depth=1, heads=2), 4, 64
    ),  # activations are made again on the way back
    "jit": lambda: built(rv.nets.JiTConfig(width=16, depth=3, heads=2, bottleneck=8), 4),
    "mmdit": lambda: built(rv.nets.MMDiTConfig(width=16, depth=2, heads=2, **TOLD, vector=7, pos_embed_max_size=8)),
    "uvit": lambda: built(rv.nets.UViTConfig(width=16, depth=3, heads=2, **TOLD)),
    "unet": lambda: built(rv.nets.UNetConfig(**SMALL), 4),
    "unet-wide": lambda: built(
        rv.nets.UNetConfig(width=128, multipliers=(1,), blocks=1, attention=()), 4, 16
    ),  # Winograd
    "unet-text": lambda: built(rv.nets.UNetConfig(**SMALL, **TOLD, vector=7)),
    "unet-ncsn": lambda: built(
        rv.nets.UNetConfig(
            **SMALL, fourier=1.0, time_scale=1.0, resample="residual", pyramid=True, resample_filter=(1, 3, 3, 1)
        )
    ),
    "encoder": lambda: built(rv.nets.EncoderConfig(**SMALL), 4),
    "vectors": lambda: VectorNet(6, 16, 2),
    "codes": lambda: CodeNet(6, 16, 3),
}


def prepared(name: str, until: bool = False):
    """The network in single precision, f(net, x, t) or f(net, x, t, gap), and a point with a direction in float64."""
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    if until:
        net.listen(UNTIL)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    size = (6,) if name in ("vectors", "codes") else (3, *net.size)
    x, dx = torch.randn(2, 2, *size, dtype=torch.float64)
    t, dt = torch.tensor([[0.4, 0.6], [1.0, -0.5]], dtype=torch.float64)
    text = Entry.of(torch.randn(2, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool))
    told = {"label": torch.tensor([1, 2]), "vector": torch.randn(2, 7), "text": text}
    cond = {key: told[key] for key in getattr(net, "conditions", {}) if key != UNTIL}
    if until:
        gap, dgap = torch.tensor([[0.3, 0.5], [-0.7, 0.4]], dtype=torch.float64)

        def leaping(net: nn.Module, x: Tensor, t: Tensor, gap: Tensor) -> Tensor:
            return net(x, t, rv.Cond(**cond, **{UNTIL: Entry.of(gap[:, None])}))

        return net, leaping, (x, t, gap), (dx, dt, dgap)

    def f(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return net(x, t) if name == "encoder" else net(x, t, rv.Cond(**cond) if cond else None)

    return net, f, (x, t), (dx, dt)


def difference(f, point, direction, h=3e-7) -> Tensor:
    ahead, behind = (f(*(p + s * d for p, d in zip(point, direction, strict=True))) for s in (h, -h))
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_forward_derivative(name):
    net, f, point, direction = prepared(name)
    exact = copy.deepcopy(net).double()
    with torch.no_grad():
        expected = difference(lambda x, t: f(exact, x, t), point, direction)
    size = expected.abs().max()
    for module, dtype, tolerance in ((exact, torch.float64, 1e-6), (net, torch.float32, 1e-3)):
        primals, tangents = (tuple(v.to(dtype) for v in vs) for vs in (point, direction))
        out, slope = jvp(lambda x, t, module=module: f(module, x, t), primals, tangents)
        assert torch.equal(out, f(module, *primals)) or (out - f(module, *primals)).abs().max() < 1e-4 * out.abs().max()
        assert (slope.double() - expected).abs().max() < tolerance * size
        assert slope.dtype == dtype and slope.requires_grad


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("encoder", "codes")])
def test_so_has_one_that_is_told_where_a_leap_ends(name):
    """Along the state and the leap's length: beside a slope in time, of waves a hundred times faster, they would not be seen."""
    net, f, point, (dx, dt, dgap) = prepared(name, until=True)
    net, direction = net.double(), (dx, 0.0 * dt, dgap)
    with torch.no_grad():
        expected = difference(lambda *p: f(net, *p), point, direction)
        _, deaf = jvp(lambda *p: f(net, *p), point, (dx, 0.0 * dt, 0.0 * dgap))
    _, slope = jvp(lambda *p: f(net, *p), point, direction)
    assert (slope - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (deaf - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "unet-wide"])
def test_its_gradient_is_that_of_the_other_order(name):
    """``∂/∂θ ⟨w, J·v⟩``, forward then back, against ``∂/∂θ ⟨Jᵀw, v⟩``, back twice."""
    net, f, point, direction = prepared(name)
    net = net.double()
    _, slope = jvp(lambda x, t: f(net, x, t), point, direction)
    w = torch.randn_like(slope)
    weights = list(net.parameters())
    forward = torch.autograd.grad((slope * w).sum(), weights, allow_unused=True)
    x, t = (v.clone().requires_grad_() for v in point)
    with sdpa_kernel(SDPBackend.MATH):
        back = torch.autograd.grad(f(net, x, t), (x, t), w, create_graph=True)
        twice = torch.autograd.grad(
            sum((b * d).sum() for b, d in zip(back, direction, strict=True)), weights, allow_unused=True
        )
    size = max(float(g.abs().max()) for g in twice if g is not None)
    for one, other in zip(forward, twice, strict=True):
        zero = torch.zeros(())
        assert ((zero if one is None else one) - (zero if other is None else other)).abs().max() < 1e-8 * size


def test_layer_normalisation_without_the_helper_has_a_wrong_gradient():
    """Why the helper takes it apart; when PyTorch mends it this fails, and the helper can leave it whole."""
    layer, x, v, w = nn.LayerNorm(5).double(), *torch.randn(3, 2, 5, dtype=torch.float64)
    scale = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def gradient(forward) -> Tensor:
        return torch.autograd.grad((forward(lambda x: layer(x * scale), (x,), (v,))[1] * w).sum(), scale)[0]

    def slope(scale) -> Tensor:
        return (jvp(lambda x: layer(x * scale), (x,), (v,))[1] * w).sum()

    expected = torch.stack(
        [difference(slope, (scale.detach(),), (e,), 1e-6) for e in torch.eye(5, dtype=torch.float64)]
    )
    assert (gradient(jvp) - expected).abs().max() < 1e-7
    assert (gradient(torch.func.jvp) - expected).abs().max() > 0.1


def test_autocast_does_not_reach_inside():
    net, f, point, direction = prepared("dit")
    primals, tangents = (tuple(v.float() for v in vs) for vs in (point, direction))
    _, expected = jvp(lambda x, t: f(net, x, t), primals, tangents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jvp(lambda x, t: f(net, x, t), primals, tangents)[1], expected)
        rough = torch.func.jvp(lambda x: net.blocks[0].mlp(x), (torch.randn(2, 4, 16),), (torch.ones(2, 4, 16),))[1]
        assert rough.dtype == torch.bfloat16  # without the helper it does


@pytest.mark.parametrize("what", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.ones(4, 4).tril() > 0}])
def test_attention_is_taken_apart_in_this_thread_alone(what):
    """Its slope against differences, while the choice of kernels, which all threads share, stays as it was."""
    q, k, v = torch.randn(3, 2, 1, 4, 3, dtype=torch.float64)
    before, seen = torch.backends.cuda.flash_sdp_enabled(), []

    def f(q: Tensor) -> Tensor:
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, **what)

    _, slope = jvp(f, (q,), (v,))
    assert before and seen == [True]
    assert (slope - difference(f, (q,), (v,), 1e-6)).abs().max() < 1e-8
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda q: torch.nn.functional.scaled_dot_product_attention(q, k, v, **what), (q,), (v,))
