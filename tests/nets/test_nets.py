"""Networks: where they start, what they depend on and refuse; that they can be differentiated and compiled."""

import pytest
import torch
from torch import nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.nets import CONFIGS, DiT, DiTConfig, UNet, UNetConfig, build

from ..margin import apart

SMALL = {
    "dit": DiTConfig(patch=4, width=16, depth=2, heads=2),
    "unet": UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2),
    "unet-patch": UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, patch=2),
}


@pytest.fixture(params=SMALL)
def config(request):
    return SMALL[request.param]


def awake(net: nn.Module) -> nn.Module:
    """The network with every zero replaced by a small random number, as after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return net


def small(config, channels=1, size=8, classes: int | None = 3) -> nn.Module:
    torch.manual_seed(0)
    return build(config, channels=channels, size=size, classes=classes)


def pictures(batch=4, channels=1, size=8):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(2))


def test_every_configuration_builds_its_network():
    assert isinstance(small(CONFIGS["dit"](), size=28), DiT)
    assert isinstance(small(CONFIGS["unet"](), size=28), UNet)


@pytest.mark.parametrize("channels, size", [(1, 8), (3, 12), (5, 4)])
def test_output_starts_at_zero_and_has_the_shape_of_the_input(config, channels, size):
    x = pictures(2, channels, size)
    out = small(config, channels, size)(x, torch.tensor(0.5), Cond(label=[0, 2]))
    assert out.shape == x.shape
    assert torch.equal(out, torch.zeros_like(x))
    assert awake(small(config, channels, size))(x, torch.tensor(0.5), Cond(label=[0, 2])).abs().max() > 1e-3


def test_blocks_start_as_the_identity():
    tokens, condition = torch.randn(2, 4, 16), torch.randn(2, 16)
    net = small(SMALL["dit"])
    for block in net.blocks:
        assert torch.equal(block(tokens, condition), tokens)
    assert apart(awake(net).blocks[0](tokens, condition), tokens) > 1e-3

    unet, features, condition = small(SMALL["unet"]), torch.randn(2, 16, 4, 4), torch.randn(2, 32)
    for stage in unet.middle:
        assert torch.equal(stage(features, condition), features)
    assert apart(awake(unet).middle[0](features, condition), features) > 1e-3


def test_gradients_reach_every_parameter(config):
    """Zeroed layers hide what lies before them from the first gradient, one or two steps open the way."""
    net, x, time = small(config), pictures(), torch.rand(4)
    cond = Cond(label=[0, 1, 2, 0]).drop(torch.tensor([True, True, True, False]))
    for _ in range(4):
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
        (net(x, time, cond) - x.flip(-1)).square().mean().backward()
    silent = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


def test_time_and_label_change_the_output(config):
    net, x = awake(small(config)), pictures(1)
    base = net(x, torch.tensor(0.3), Cond(label=0))
    assert apart(net(x, torch.tensor(0.3), Cond(label=1)), base) > 1e-3
    assert apart(net(x, torch.tensor(0.4), Cond(label=0)), base) > 1e-3
    assert apart(net(x, torch.tensor(0.3), None), base) > 1e-3


def test_no_condition_is_the_absent_label(config):
    net, x, time = awake(small(config)), pictures(), torch.rand(4)
    null = net(x, time, None)
    for absent in (Cond(label=[0, 1, 2, 1]).null(), Cond(), Cond(label=2).null()):
        torch.testing.assert_close(net(x, time, absent), null)
    half = net(x, time, Cond(label=[0, 1, 2, 1]).drop(torch.tensor([False, True, False, True])))
    torch.testing.assert_close(half[[0, 2]], null[[0, 2]])
    assert min(apart(half[i], null[i]) for i in (1, 3)) > 1e-3


def test_network_without_classes_has_no_conditions(config):
    net = awake(small(config, classes=None))
    assert net.conditions == {}
    assert small(config).conditions["label"].classes == 3
    assert net(pictures(), torch.tensor(0.1)).shape == (4, 1, 8, 8)


def test_one_time_or_label_for_all_is_the_same_as_one_each(config):
    net, x = awake(small(config)), pictures()
    each = net(x, torch.full((4,), 0.7), Cond(label=[1, 1, 1, 1]))
    torch.testing.assert_close(net(x, torch.tensor(0.7), Cond(label=1)), each)


def test_samples_do_not_depend_on_each_other(config):
    net, x, time, cond = awake(small(config)), pictures(), torch.rand(4), Cond(label=[0, 1, 2, 0])
    together = net(x, time, cond)
    for i in range(4):
        torch.testing.assert_close(net(x[i : i + 1], time[i : i + 1], cond.index([i])), together[i : i + 1])
    changed = net(torch.cat([x[:1], 9 * x[1:]]), time, cond)
    torch.testing.assert_close(changed[0], together[0])


def test_forward_derivative_agrees_with_differences(config):
    net = awake(small(config)).double()
    x, direction = pictures(2).double(), pictures(2).flip(-1).double()
    time, cond = torch.tensor([0.2, 0.6], dtype=torch.float64), Cond(label=[0, 2])
    f = lambda x, t: net(x, t, cond)  # noqa: E731
    with sdpa_kernel(SDPBackend.MATH):
        _, tangent = jvp(f, (x, time), (direction, torch.ones_like(time)))
        h = 1e-7
        difference = (f(x + h * direction, time + h) - f(x - h * direction, time - h)) / (2 * h)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)


def test_second_derivative_agrees_with_differences(config):
    net = awake(small(config)).double()
    x, time = pictures(1).double().requires_grad_(), torch.tensor(0.4, dtype=torch.float64)

    def gradient(x):
        return torch.autograd.grad(net(x, time, Cond(label=1)).square().sum(), x, create_graph=True)[0]

    with sdpa_kernel(SDPBackend.MATH):
        direction = pictures(1).flip(-1).double()
        product = torch.autograd.grad((gradient(x) * direction).sum(), x)[0]
        h = 1e-6
        difference = (gradient(x + h * direction) - gradient(x - h * direction)) / (2 * h)
    torch.testing.assert_close(product, difference.detach(), rtol=1e-4, atol=1e-5)


def test_compiles_to_one_graph(config):
    net, x, cond = awake(small(config)), pictures(), Cond(label=[0, 1, 2, 0])
    compiled = torch.compile(lambda x, t: net(x, t, cond), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, torch.rand(4).fill_(0.3)), net(x, torch.tensor(0.3), cond))


def test_memory_format_does_not_change_the_output():
    net, x = awake(small(SMALL["unet"])), pictures()
    expected = net(x, torch.tensor(0.3), None)
    actual = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), torch.tensor(0.3), None)
    torch.testing.assert_close(actual, expected)


def test_a_picture_is_laid_out_as_it_was_cut():
    """A DiT whose output layer returns the patch it was given must return the picture."""
    net = DiT(DiTConfig(patch=2, width=12, depth=0, heads=1), channels=3, size=(4, 6))
    with torch.no_grad():
        net.embed.weight.copy_(torch.eye(12).reshape(12, 2, 2, 3).permute(0, 3, 1, 2))
        net.embed.bias.zero_()
        net.positions.zero_()
        net.norm = nn.Identity()
        net.out.weight.copy_(torch.eye(12))
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(net(x, torch.tensor(0.5)), x)


@pytest.mark.parametrize(
    "config, size, multiple",
    [
        (DiTConfig(patch=4), 30, "4"),
        (UNetConfig(), 30, "4"),
        (UNetConfig(), (32, 2), "4"),
        (UNetConfig(patch=2), 28, "8"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(config, size, multiple):
    with pytest.raises(InputError, match=f"multiples of {multiple}") as error:
        build(config, channels=1, size=size)
    assert "Resize" in str(error.value)


def test_wrong_pictures_are_refused(config):
    net = small(config)
    with pytest.raises(InputError, match=r"\(2, 3, 8, 8\)"):
        net(torch.zeros(2, 3, 8, 8), torch.tensor(0.1))
    with pytest.raises(InputError, match="9x8"):
        net(torch.zeros(2, 1, 9, 8), torch.tensor(0.1))
    with pytest.raises(InputError, match=r"time has shape \(3,\)"):
        net(torch.zeros(2, 1, 8, 8), torch.rand(3))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="3 attention heads do not divide 16"):
        build(DiTConfig(width=16, heads=3), channels=1, size=8)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters_of_the_published_dit():
    """DiT-XL/2 has 675,129,632, with 256 fixed positions and 16 outputs for a learned variance, which ours has not."""
    with torch.device("meta"):
        net = DiT(DiTConfig(patch=2, width=1152, depth=28, heads=16), channels=4, size=32, classes=1000)
    assert count(net) == 675_129_632 - 256 * 1152 - 16 * (1152 + 1)


def test_parameters_of_the_published_unet():
    """The CIFAR-10 network of DDPM has 35,746,307; scaling besides shifting doubles the layer of each block for it."""
    with torch.device("meta"):
        net = UNet(
            UNetConfig(width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(2,), heads=1), channels=3, size=32
        )
    channels = 2 * 128 + 6 * 256 + 2 * 256 + 9 * 256 + 3 * 128
    assert count(net) == 35_746_307 + 513 * channels
