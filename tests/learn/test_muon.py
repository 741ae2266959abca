"""Muon against the singular value decomposition, and the rest against torch's AdamW."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from reverie.learn.muon import Muon, orthogonalise, split


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 8)])
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.out(x)


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (3, 5, 7)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ orthogonalise(matrices) @ v.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-3, rtol=0)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_only_hidden_matrices_are_orthogonalised():
    net = Net()
    hidden, rest = split(net)
    assert {id(p) for p in hidden} == {id(block.weight) for block in net.blocks}
    assert len(rest) == len(list(net.parameters())) - 4


def by_svd(matrix: Tensor) -> Tensor:
    """The polynomial of the iteration on singular values, in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ v


def test_steps_agree_with_the_definition_and_with_adamw():
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    optimizer = Muon(ours, lr=0.02, adam_lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    hidden, rest = split(theirs)
    adam = torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    momenta = [torch.zeros_like(p) for p in hidden]
    for _ in range(3):
        x = torch.randn(64, 8)
        for net in (ours, theirs):
            net.zero_grad()
            (net(x) - x.flip(-1)).square().mean().backward()
        optimizer.step()
        adam.step()
        with torch.no_grad():
            for p, momentum in zip(hidden, momenta, strict=True):
                momentum.mul_(0.95).add_(p.grad, alpha=0.05)
                nesterov = 0.05 * p.grad + 0.95 * momentum
                stretch = math.sqrt(max(1, p.shape[0] / p.shape[1]))
                p.copy_((1 - 0.02 * 0.1) * p - 0.02 * stretch * by_svd(nesterov))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_state_survives_saving():
    x, net = torch.randn(64, 8), Net()
    optimizer = Muon(net)

    def train(net, optimizer):
        net.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    train(net, optimizer)
    twin = Net()
    twin.load_state_dict(net.state_dict())
    other = Muon(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer)
    train(twin, other)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
