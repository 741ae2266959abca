"""The emulated accelerator refuses what a real one refuses, or the other tests here would prove nothing."""

import pytest
import torch

from .emulated import DEVICE, waiting


def test_tensors_of_two_devices_do_not_meet():
    x, host = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
    for mix in (
        lambda: x + host,
        lambda: torch.cat([host, x]),
        lambda: torch.where(host > 0, x, x),
        lambda: host[x.long()[0]],
    ):
        with pytest.raises(RuntimeError, match=r"device|indices"):
            mix()
    assert torch.equal((x + torch.tensor(1.0)).cpu(), host + 1.0)  # a number goes anywhere
    assert torch.equal(x[torch.tensor([1])].cpu(), host[[1]])  # and the host's indices index


def test_nothing_is_of_double_precision_there():
    x = torch.ones(2, device=DEVICE)
    for make in (
        lambda: torch.zeros(2, device=DEVICE, dtype=torch.float64),
        lambda: x.double(),
        lambda: torch.zeros(2, dtype=torch.float64).to(DEVICE),
        lambda: x.to("cpu", torch.float64),
        lambda: x.to(torch.complex128),
    ):
        with pytest.raises(TypeError, match="has no torch"):
            make()
    assert torch.zeros(2, dtype=torch.float64).to(x).dtype == torch.float32
    assert x.cpu().double().dtype == torch.float64


def test_a_generator_of_the_host_does_not_draw_there():
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=DEVICE, generator=torch.Generator())


def test_what_makes_the_host_wait_is_counted():
    x = torch.ones(3, device=DEVICE)
    with waiting() as device:
        y = (x * 2.0).sum() + torch.ones(3).to(DEVICE)
        assert device.waits == 0
        bool((y > 0).all()), y.sum().item(), y.cpu(), torch.zeros(3).copy_(y)
        assert device.waits == 4


def test_gradients_and_transforms_are_those_of_the_host():
    layer = torch.nn.Conv2d(2, 3, 3)
    x = torch.randn(2, 2, 5, 5)

    def slopes(device):
        y = x.to(device).requires_grad_()
        (first,) = torch.autograd.grad(layer.to(device)(y).square().sum(), y, create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), y)

    there = [v.cpu() for v in slopes(DEVICE)]
    for mine, host in zip(there, slopes("cpu"), strict=True):
        torch.testing.assert_close(mine, host)
    forward = torch.func.jvp(torch.sin, (x.to(DEVICE),), (x.to(DEVICE),))[1]
    torch.testing.assert_close(forward.cpu(), x.cos() * x)
