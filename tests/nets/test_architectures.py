"""The published networks: their sizes, how they start, what they are told, how they are differentiated and compiled."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie import nets
from reverie.core.condition import Cond, Entry
from reverie.core.errors import InputError
from reverie.nets import DiTConfig, JiTConfig, MMDiTConfig, UNetConfig, UViTConfig, build, checkpointing
from reverie.nets.checkpointing import checkpointed
from reverie.nets.jit import rotate, rotations
from reverie.nets.resample import Resample

from ..margin import apart

TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "heads": 2}
SMALL = {
    "unet": UNetConfig(**TINY),
    "ddpm": UNetConfig(**TINY, groups=2, scale_shift_norm=False, endpoint=True, asymmetric_padding=True),
    "ncsn++": UNetConfig(
        **TINY, groups=2, scale_shift_norm=False, resample="residual", resample_proj=True, skip_scale=0.5**0.5, attend_last=True,
        resample_filter=(1, 3, 3, 1), pyramid=True, fourier=16.0, frequencies=2, time_scale=1.0,
    ),
    "adm": UNetConfig(**TINY, resample="residual", learn_sigma=True),
    "latent": UNetConfig(**TINY, groups=2, scale_shift_norm=False, context=6, length=5, transformer_depth=(1, 2), vector=3, image=2),
    "dit": DiTConfig(patch=4, width=16, depth=3, heads=2, context=6, length=5, vector=3, image=2),
    "uvit": UViTConfig(patch=4, width=16, depth=3, heads=2, context=6, length=5),
    "mmdit": MMDiTConfig(patch=4, width=16, depth=3, heads=2, context=6, length=5, vector=3, pos_embed_max_size=4),
    "jit": JiTConfig(patch=4, width=16, depth=3, heads=2, bottleneck=5, context_tokens=2, context_start=1),
}  # fmt: skip
TEXTUAL = ["latent", "dit", "uvit", "mmdit"]


def awake(net: nn.Module) -> nn.Module:
    """The network with every zero replaced by a small random number, as after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


def small(name: str, channels=1, size=8):
    torch.manual_seed(0)
    return build(SMALL[name], channels=channels, size=size, classes=None if name == "mmdit" else 3)


def pictures(batch=2, channels=1, size=8):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(2))


def told(net, batch=2) -> Cond:
    """Something for everything that the network can be told."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"vector": (3,), "text": (4, 6), "image": (2, *net.size)}
    values = {
        name: torch.randn(batch, *shapes[name], generator=generator) for name in net.conditions if name != "label"
    }
    if "label" in net.conditions:
        values["label"] = torch.arange(batch) % 3
    return Cond(**values)


@pytest.fixture(autouse=True)
def _recompute_everything(monkeypatch):
    """These networks are tiny: nothing would be checkpointed."""
    monkeypatch.setattr(checkpointing, "SMALL", 0)


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


PUBLISHED = {
    # papers and their code; where ours has a null for labels that theirs has not, it is added here
    "ddpm-cifar10": 35_746_307,
    "ddpm++-cifar10": 55_732_739,
    "ncsn++-cifar10": 56_395_523,
    "adm-imagenet64": 295_904_454 + 4 * 192,
    "adm-imagenet128": 421_529_606 + 4 * 256,
    "adm-imagenet256": 553_838_086 + 4 * 256,
    "sd1": 859_520_964,
    "sd2": 865_910_724,
    "sdxl": 2_567_463_684,
    "dit-s/2": 32_963_360 - 256 * 384,  # theirs count the fixed positions
    "dit-s/4": 32_945_024 - 64 * 384,
    "dit-s/8": 33_148_160 - 16 * 384,
    "dit-b/2": 130_512_416 - 256 * 768,
    "dit-b/4": 130_475_648 - 64 * 768,
    "dit-b/8": 130_881_536 - 16 * 768,
    "dit-l/2": 458_102_816 - 256 * 1024,
    "dit-l/4": 458_053_760 - 64 * 1024,
    "dit-l/8": 458_594_816 - 16 * 1024,
    "dit-xl/2": 675_129_632 - 256 * 1152,
    "dit-xl/4": 675_074_432 - 64 * 1152,
    "dit-xl/8": 675_683_072 - 16 * 1152,
    "uvit-s/2-cifar10": 44_255_328,
    "uvit-s/2-coco": 44_692_644,
    "uvit-m/4-imagenet64": 130_940_292 + 768,
    "uvit-l/4-imagenet64": 286_827_652 + 1024,
    "uvit-l/2": 286_763_172,
    "uvit-h/2": 500_832_016,
    "sd3-medium": 2_028_328_000,
}
ROUNDED = {  # millions, as printed in the papers
    "sd3-8b": 8_057, "jit-b/16": 131, "jit-b/32": 133, "jit-l/16": 459, "jit-l/32": 462, "jit-h/16": 953, "jit-h/32": 956,
    "jit-g/16": 2_007, "jit-g/32": 2_012,
}  # fmt: skip


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("preset", nets.PRESETS)
def test_parameters_of_the_published_networks(preset):
    with torch.device("meta"):
        n = count(build(preset))
    if preset in PUBLISHED:
        assert n == PUBLISHED[preset]
    else:
        assert round(n / 1e6) == ROUNDED[preset]


def test_an_unknown_network_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="ddpm-cifar10"):
        build("ddpm-cifar")
    with pytest.raises(InputError, match="channels= and size="):
        build(SMALL["dit"])


def test_blocks_start_as_the_identity():
    """Every residual branch ends in zeros: what goes in comes out, exactly."""
    features, tokens, condition = torch.randn(2, 16, 4, 4), torch.randn(2, 4, 16), torch.randn(2, 32)
    text, mask = torch.randn(2, 5, 6), None
    for stage in small("latent").middle:
        assert torch.equal(stage(features, condition, text, mask), features)
    for stage in small("adm").middle:
        assert torch.equal(stage(features, condition), features)
    dit, jit, mmdit = small("dit"), small("jit"), small("mmdit")
    assert torch.equal(dit.blocks[0](tokens, condition[:, :16], text, mask), tokens)
    assert torch.equal(jit.blocks[0](tokens, condition[:, :16], jit.angles[2:]), tokens)
    given = torch.randn(2, 5, 16)
    x, y = mmdit.blocks[0](tokens, given, condition[:, :16], None)
    assert torch.equal(x, tokens) and torch.equal(y, given)
    assert apart(awake(mmdit).blocks[0](tokens, given, condition[:, :16], None)[0], tokens) > 1e-2


def test_output_starts_at_zero_but_for_uvit(name):
    """U-ViT as published starts from small random weights; every other network starts as the constant 0."""
    net, x = small(name, channels=3), pictures(channels=3)
    out = net(x, torch.tensor(0.5), told(net))
    assert out.shape == (2, 6 if name == "adm" else 3, 8, 8)
    assert bool(out.any()) == (name == "uvit")


def test_everything_told_changes_the_output_and_its_absence_is_the_null(name):
    net, x, time = awake(small(name)), pictures(), torch.tensor([0.2, 0.7])
    cond = told(net)
    base, none = net(x, time, cond), net(x, time, None)
    torch.testing.assert_close(net(x, time, cond.null()), none, rtol=1e-4, atol=1e-5)
    for entry in net.conditions:
        others = Cond(**{key: cond[key] for key in cond if key != entry})
        assert apart(net(x, time, others), base) > 1e-3, entry
    half = net(x, time, cond.drop(torch.tensor([True, False])))
    torch.testing.assert_close(half, torch.stack([base[0], none[1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TEXTUAL)
def test_padding_changes_nothing_and_swapped_texts_swap_outputs(name):
    net, time = awake(small(name)), torch.tensor(0.4)
    x = pictures(1).expand(2, -1, -1, -1)
    text, mask = torch.randn(2, 4, 6), torch.tensor([[True] * 4, [True, True, False, False]])
    out = net(x, time, Cond(text=Entry.of(text, mask)))
    rubbish = torch.where(mask[..., None], text, 7 * torch.randn(2, 4, 6))
    torch.testing.assert_close(net(x, time, Cond(text=Entry.of(rubbish, mask))), out)
    wider = Entry.of(torch.cat([text, torch.randn(2, 1, 6)], 1), torch.cat([mask, mask.new_zeros(2, 1)], 1))
    torch.testing.assert_close(net(x, time, Cond(text=wider)), out, rtol=1e-4, atol=1e-5)
    short = net(x[1:], time, Cond(text=text[1:, :2]))
    torch.testing.assert_close(short, out[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x, time, Cond(text=Entry.of(text.flip(0), mask.flip(0)))), out.flip(0))
    assert apart(out[0], out[1]) > 1e-3


def test_forward_derivative_agrees_with_differences(name):
    net = awake(small(name)).double().eval()
    x, direction = pictures().double(), pictures().flip(-1).double()
    time, cond = torch.tensor([0.2, 0.6], dtype=torch.float64), told(net)
    cond = Cond(**{key: cond[key].value.double() if key != "label" else cond[key].value for key in cond})
    f = lambda x, t: net(x, t, cond)  # noqa: E731
    with sdpa_kernel(SDPBackend.MATH):
        out, tangent = jvp(f, (x, time), (direction, torch.ones_like(time)))
        h = 1e-7
        difference = (f(x + h * direction, time + h) - f(x - h * direction, time - h)) / (2 * h)
    torch.testing.assert_close(out, f(x, time))
    torch.testing.assert_close(tangent, difference, rtol=1e-4, atol=1e-5)


def test_vmap_over_samples_is_the_batch(name):
    net, x, time = awake(small(name)).eval(), pictures(3), torch.tensor([0.1, 0.5, 0.9])
    each = vmap(lambda x, t: net(x[None], t, None)[0])(x, time)
    torch.testing.assert_close(each, net(x, time, None), rtol=1e-4, atol=1e-5)


def test_second_derivative_agrees_with_differences(name):
    net = awake(small(name)).double().eval()
    x, direction = pictures(1).double().requires_grad_(), pictures(1).flip(-1).double()

    def gradient(x):
        return torch.autograd.grad(net(x, torch.tensor(0.4).double(), None).square().sum(), x, create_graph=True)[0]

    with sdpa_kernel(SDPBackend.MATH):
        product = torch.autograd.grad((gradient(x) * direction).sum(), x)[0]
        h = 1e-6
        difference = (gradient(x + h * direction) - gradient(x - h * direction)) / (2 * h)
    torch.testing.assert_close(
        product, difference.detach(), rtol=1e-3, atol=1e-5 * float(difference.detach().abs().max())
    )


def kept(f) -> tuple[int, torch.Tensor]:
    """Bytes that are kept for the way back, and the result."""
    seen: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = f()
    return sum(size for size, _ in seen.values()), out


def test_checkpointing_gives_the_same_gradients_for_less_memory(name):
    net, x, time = awake(small(name)), pictures(16), torch.full((16,), 0.3)
    cond, results = told(net, 16), []
    for net.checkpointing in (False, True):
        size, out = kept(lambda: net(x, time, cond))
        net.zero_grad()
        out.square().mean().backward()
        results.append((size, [p.grad.clone() for p in net.parameters() if p.grad is not None]))
    (plain, expected), (less, gradients) = results
    assert less < 0.75 * plain
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_checkpointed_function_keeps_only_what_goes_in():
    def function(x, w):
        return (x.exp().sin() * w).exp()

    x, w = torch.randn(50, 50, requires_grad=True), torch.randn(50, requires_grad=True)
    plain, expected = kept(lambda: function(x, w))
    less, actual = kept(lambda: checkpointed(function, x, w))
    assert less == 4 * (50 * 50 + 50) and plain > 2 * less
    assert torch.equal(actual, expected)
    direction = torch.randn(50, 50)
    for out, again in ((expected, actual),):
        a = torch.autograd.grad((out * direction).sum(), (x, w), create_graph=True)
        b = torch.autograd.grad((again * direction).sum(), (x, w), create_graph=True)
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q)
        second = [torch.autograd.grad(g[0].square().sum(), x)[0] for g in (a, b)]
        torch.testing.assert_close(second[0], second[1])


def test_what_is_cheap_is_rematerialised():
    """A perceptron keeps what its activation takes and not what it gives, with the same first and second derivatives."""
    from reverie.nets.layers import FeedForward, normalised, plain_norm
    from reverie.solve.fast import _Live

    torch.manual_seed(0)
    norm, mlp = plain_norm(16), FeedForward(16, 64)
    x, shift, scale = (torch.randn(4, n, 16, requires_grad=True) for n in (32, 1, 1))
    live, first, second = {}, {}, {}
    for small in (0, 1 << 40):
        checkpointing.SMALL = small
        with _Live() as now:
            out = normalised(mlp, norm, x, shift, scale)
        live[small] = now.now / x.nbytes
        first[small] = torch.autograd.grad(out.square().sum(), (x, shift, *mlp.parameters()), create_graph=True)
        (second[small],) = torch.autograd.grad(first[small][0].square().sum(), x)
    assert live[0] == pytest.approx(4 + 1, abs=0.1)  # the hidden features once, and the output
    assert live[1 << 40] > 10.9
    for a, b in zip(first[0], first[1 << 40], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second[0], second[1 << 40], rtol=1e-4, atol=1e-4)


def test_the_activation_is_that_of_pytorch_to_its_second_derivative():
    from reverie.nets.layers import TanhGELU

    x = torch.cat([torch.linspace(-30, 30, 1001), torch.tensor([-1e4, 1e4, 0.0])])
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    with torch.no_grad():
        torch.testing.assert_close(TanhGELU()(x), expected, rtol=1e-5, atol=1e-6)
        assert (torch.nn.functional.gelu(x) - expected).abs().max() > 1e-4
        torch.testing.assert_close(vmap(TanhGELU())(x[:, None])[:, 0], expected)
        large = torch.randn(3, 300, 401).transpose(1, 2)  # more than fits into the cache, and not as it lies in memory
        torch.testing.assert_close(TanhGELU()(large), torch.nn.functional.gelu(large, approximate="tanh"))
    torch.testing.assert_close(TanhGELU()(x), expected, rtol=1e-5, atol=1e-6)
    y = torch.linspace(-4, 4, 60, dtype=torch.float64).view(6, 10).t().requires_grad_()
    assert torch.autograd.gradcheck(TanhGELU(), y) and torch.autograd.gradgradcheck(TanhGELU(), y)


def test_compiles_to_one_graph(name):
    torch._dynamo.reset()  # one function may be compiled so often, whatever network is in it
    net, x = awake(small(name)).eval(), pictures()
    cond = told(net)
    compiled = torch.compile(lambda x, t: net(x, t, cond), backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x, torch.tensor([0.3, 0.3])), net(x, torch.tensor(0.3), cond), rtol=1e-4, atol=1e-5
    )


def test_low_precision_and_memory_format(name):
    net, x, time = awake(small(name)).eval(), pictures(), torch.tensor(0.3)
    cond = told(net)
    expected = net(x, time, cond)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, time, cond)
        low.float().square().mean().backward()
    assert 0 < (low.float() - expected).abs().max() < 0.1 * expected.abs().max() + 0.05
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), time, cond), expected, rtol=1e-4, atol=1e-5)


def test_sites_are_named_after_the_blocks(name):
    sites = small(name).sites()
    first = {"dit": "blocks.0", "mmdit": "blocks.0", "jit": "blocks.0", "uvit": "early.0"}.get(name, "down.0.0")
    assert first in sites and f"{first}.in" in sites
    assert any(site.endswith("attention") for site in sites)
    assert ("skip.0" in sites) == (name not in ("dit", "mmdit", "jit"))


def test_rotary_positions_see_only_differences():
    """The product of a turned q and k depends on where one lies from the other, not on where both lie (Su et al. 2021)."""
    angles = rotations(5, 5, 8, before=1)
    assert torch.equal(angles[0], torch.zeros(8))
    q, k = torch.randn(8), torch.randn(8)
    at = lambda row, column: angles[1 + 5 * row + column][None]  # noqa: E731
    turn = lambda x, place: rotate(x[None, None, None], at(*place))[0, 0, 0]  # noqa: E731
    product = turn(q, (0, 1)) @ turn(k, (2, 0))
    torch.testing.assert_close(turn(q, (1, 3)) @ turn(k, (3, 2)), product)
    assert abs(float(turn(q, (0, 1)) @ turn(k, (2, 1)) - product)) > 1e-3


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_keeps_constants_inside_and_the_mean_of_the_adjoint(taps):
    x = torch.ones(1, 2, 8, 8)
    down, up = Resample(False, taps)(x), Resample(True, taps)(x)
    assert down.shape == (1, 2, 4, 4) and up.shape == (1, 2, 16, 16)
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    torch.testing.assert_close(up[..., 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    y, z = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)  # up is four times the adjoint of down
    torch.testing.assert_close((Resample(True, taps)(z) * y).sum(), 4 * (z * Resample(False, taps)(y)).sum())


@settings(max_examples=15)
@given(data=st.data())
def test_any_configuration_keeps_shape_and_samples_apart(data):
    """Random sizes, odd and not square, one or several channels: the shape stays, and no sample sees another."""
    draw = data.draw
    kind, heads = draw(st.sampled_from(["unet", "dit", "uvit", "jit", "mmdit"])), draw(st.sampled_from([1, 2]))
    channels, patch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    width, depth = 8 * heads * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    plain = {"patch": patch, "width": width, "depth": depth, "heads": heads}
    config = {
        "unet": lambda: UNetConfig(
            width=width, multipliers=(1, 2)[:depth], blocks=draw(st.integers(1, 2)), attention=(draw(st.sampled_from([1, 2])),),
            heads=heads, scale_shift_norm=draw(st.booleans()), resample=draw(st.sampled_from(["conv", "residual"])), patch=patch,
            asymmetric_padding=draw(st.booleans()), learn_sigma=False, groups=draw(st.sampled_from([1, 4, 32])),
        ),
        "dit": lambda: DiTConfig(**plain, local=draw(st.booleans())),
        "uvit": lambda: UViTConfig(**plain),
        "jit": lambda: JiTConfig(**plain, bottleneck=draw(st.integers(1, 9)), context_tokens=draw(st.integers(0, 3)), context_start=0),
        "mmdit": lambda: MMDiTConfig(**plain, context=5, pos_embed_max_size=4, qk_norm=draw(st.booleans())),
    }[kind]()  # fmt: skip
    multiple = patch * (2 ** (len(config.multipliers) - 1) if isinstance(config, UNetConfig) else 1)
    size = (rows * multiple, columns * multiple)
    classes = None if kind == "mmdit" else draw(st.sampled_from([None, 2]))
    net = awake(build(config, channels=channels, size=size, classes=classes)).eval()
    x, time = torch.randn(3, channels, *size), torch.rand(3)
    with torch.no_grad():
        out = net(x, time, None)
        assert out.shape == x.shape and out.isfinite().all()
        torch.testing.assert_close(net(x[1:2], time[1:2], None), out[1:2], rtol=1e-3, atol=1e-4)


def test_time_embedding_of_a_real_time_matches_integer_steps():
    """At t = n / 1000 the sinusoids are those of DDPM's step n (Ho et al. 2020)."""
    from reverie.nets.embeddings import sinusoids

    steps = torch.tensor([0.0, 1.0, 37.0, 999.0], dtype=torch.float64)
    rate = [math.exp(-math.log(10_000) * k / 7) for k in range(8)]
    expected = torch.tensor([[math.cos(n * r) for r in rate] + [math.sin(n * r) for r in rate] for n in steps])
    torch.testing.assert_close(sinusoids(1000 * (steps / 1000), 16, endpoint=True).float(), expected)
