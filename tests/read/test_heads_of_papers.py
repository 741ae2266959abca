"""DifFeed and DifFormer: feedback of zero changes nothing, gradients stay in the heads, and fusion finds the block that knows."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.core.errors import InputError
from reverie.nets import UNet, UNetConfig, taps
from reverie.read.probes.diffeed import DifFeed, pairs
from reverie.read.probes.difformer import DifFormer

from ..margin import apart


@pytest.fixture
def fed(unet):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    return DifFeed(unet, unet.schedule.point(0.15), "up.0.1", head)


def test_no_feedback_is_a_single_pass_to_the_bit(unet, fed, images):
    fed.eval()
    for net in fed.feedback.values():
        nn.init.zeros_(net[0].weight)
    once = taps.features(unet, ["up.0.1"], images, fed.point)["up.0.1"]
    assert torch.equal(fed.map(images), once)
    for net in fed.feedback.values():
        nn.init.ones_(net[1].bias)
    assert apart(fed.map(images), once) > 1e-2


def test_feedback_goes_to_the_block_that_gave_the_skip(unet):
    net = UNet(UNetConfig(width=8, multipliers=(1, 2, 4), blocks=2, attention=(), heads=2), channels=1, size=32).eval()
    found = pairs(net)
    encoder = [f"down.{i}.{j}" for i, n in enumerate((2, 3, 3)) for j in range(n)]
    decoder = [f"up.{i}.{j}" for i in range(3) for j in range(3)]
    assert found == list(zip(decoder, reversed(encoder), strict=False))  # b <-> 38 - b: the first goes to the last
    seen = taps.features(net, [site for pair in found for site in pair], torch.zeros(1, 1, 32, 32), torch.tensor(0.5))
    assert all(seen[d].shape[-1] == seen[e].shape[-1] for d, e in found)
    dit = rv.nets.build(rv.nets.DiTConfig(patch=2, width=16, depth=1, heads=2), channels=1, size=8)
    with pytest.raises(InputError, match="U-Net"):
        pairs(dit)


def test_gradients_reach_the_head_and_the_feedback_only(unet, images):
    other = copy.copy(unet)
    other.net = copy.deepcopy(unet.net).requires_grad_(True)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    fed = DifFeed(other, unet.schedule.point(0.15), "up.0.1", head)
    names = dict(fed.named_parameters())
    assert all(name.startswith(("head.", "feedback.")) for name in names)
    F.cross_entropy(fed(images), torch.arange(10) % 3).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in names.items() if "weight" in name)
    assert all(p.grad is None for p in other.net.parameters())


def test_unknown_feedback(unet):
    with pytest.raises(InputError, match=r"up\.9"):
        DifFeed(unet, unet.schedule.point(0.1), "up.0.1", nn.Identity(), feed=["up.9.0"])


def test_fusion_finds_the_block_and_the_time_that_know():
    """Only the second block's map at the first time holds the class; a head on everything else is left guessing."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (240,), generator=rng)
    maps = {
        (s, t): torch.randn(240, c, n, n, generator=rng) for s, c, n in (("a", 6, 2), ("b", 4, 4)) for t in (1.0, 2.0)
    }
    maps["b", 1.0][torch.arange(240), y, 1] += 3.0
    scores = {}
    for name, shapes in (("both", {"a": (6, 2, 2), "b": (4, 4, 4)}), ("blind", {"a": (6, 2, 2)})):
        torch.manual_seed(0)
        head = DifFormer(shapes, (1.0, 2.0), 3, width=16, side=4, heads=2)
        solver = torch.optim.Adam(head.parameters(), lr=3e-3)
        for step in range(60):
            rows = torch.arange(step * 40, step * 40 + 40) % 160
            loss = F.cross_entropy(head({cell: value[rows] for cell, value in maps.items()}), y[rows])
            solver.zero_grad()
            loss.backward()
            solver.step()
        with torch.no_grad():
            found = head({cell: value[160:] for cell, value in maps.items()}).argmax(1)
        scores[name] = (found == y[160:]).double().mean().item()
    assert scores["both"] > 0.85
    assert scores["blind"] < 0.6
