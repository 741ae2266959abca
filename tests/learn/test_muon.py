"""Muon against the singular value decomposition and against torch's own Muon and AdamW."""

import copy

import pytest
import torch
from torch import nn

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


def test_steps_agree_with_the_muon_and_adamw_of_torch():
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    optimizer = Muon(ours, lr=0.02, adam_lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    hidden, rest = split(theirs)
    muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.1)
    adam = torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    start = [p.detach().clone() for p in theirs.parameters()]
    for _ in range(3):
        x = torch.randn(64, 8)
        for net in (ours, theirs):
            net.zero_grad()
            (net(x) - x.flip(-1)).square().mean().backward()
        for each in (optimizer, muon, adam):
            each.step()
    for a, b, before in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        moved = (b - before).norm()
        assert (a - b).norm() < 0.1 * moved  # theirs iterates in bfloat16


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
