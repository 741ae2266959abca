"""Balanced assignment, and prototypes that do not collapse."""

import math

import pytest
import torch
from torch.optim import Adam

from reverie import data, guide, nets, sample
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.diffusion.online import Online
from reverie.guide.online import Prototypes, sinkhorn
from reverie.nets import DiTConfig

K = 8


def test_rows_and_columns_sum_to_their_targets():
    scores = torch.randn(64, K).tanh() + torch.tensor([0.8] + [0.0] * (K - 1))
    codes = sinkhorn(scores, iterations=500)
    assert torch.allclose(codes.sum(1), torch.ones(64), atol=1e-3)
    assert torch.allclose(codes.sum(0), torch.full((K,), 64 / K), atol=1e-3 * 64 / K)
    softmax = torch.softmax(scores / 0.05, dim=1).sum(0)
    assert (softmax - 64 / K).abs().max() > 2.0
    few = sinkhorn(scores)
    assert torch.allclose(few.sum(1), torch.ones(64), atol=1e-5)


def test_it_is_the_entropic_transport_plan():
    """exp(s/ε) scaled by rows and columns: all 2x2 cross ratios are those of the scores."""
    scores = torch.randn(12, 3).double()
    codes = sinkhorn(scores, epsilon=0.5, iterations=200)
    cross = codes[0, 0] * codes[1, 1] / (codes[0, 1] * codes[1, 0])
    wanted = torch.exp((scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]) / 0.5)
    assert torch.allclose(cross, wanted, rtol=1e-8)


@pytest.fixture(scope="module")
def usage():
    """Entropy of the use of prototypes after training, in units of log K, with and without balance."""
    some = data.load("digits8").batch(range(1000))
    images, labels = some.x, some.label

    def run(balanced: bool):
        torch.manual_seed(0)
        net = nets.build(DiTConfig(patch=2, width=32, depth=2, heads=2), channels=1, size=8, classes=K)
        task = Online(
            NetDenoiser(net, Flow(), "flow", shape=(1, 8, 8)),
            Prototypes(32, K, 16),
            LogitNormal(),
            site="blocks.0",
            clustering=2.0,
            balanced=balanced,
        )
        optimizer = Adam(task.players["denoiser"].module.parameters(), 3e-3)
        for step in range(60):
            rows = (torch.arange(64) + 64 * step) % 1000
            parts = task.loss("denoiser", Batch(images[rows]), Draws(0, 64 * step, 64), Moment(0, 0, 1))
            optimizer.zero_grad()
            sum(part.mean() for part in parts.values()).backward()
            optimizer.step()
        task.assign(images)
        with torch.no_grad():
            codes = task.codes(task.scores(images, Draws(0, 0, 1000), "view 0")).argmax(1)
        share = codes.bincount(minlength=K).double() / 1000
        entropy = float(-(share * share.clamp(min=1e-12).log()).sum()) / math.log(K)
        return entropy, task, images, labels

    return {balanced: run(balanced) for balanced in (True, False)}


def test_balance_uses_every_prototype_and_its_absence_collapses(usage):
    assert usage[True][0] > 0.9
    assert usage[False][0] < 0.6


def test_codes_know_the_digits(usage):
    """Mutual information with labels that training never saw."""
    _, task, images, labels = usage[True]
    codes = task.assign(images)
    joint = torch.zeros(K, 10).double().index_put_((codes, labels), torch.ones(1000).double(), accumulate=True) / 1000
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    information = float((torch.xlogy(joint, joint) - torch.xlogy(joint, product)).sum())
    chance = joint.numel() / 2000  # expected of independent codes, (K−1)(10−1)/2N and some
    assert information > 8 * chance


def test_the_denoiser_listens_to_the_codes():
    """Four kinds of pictures, found without labels: a code tells nearly all of what the noise hides, and what is asked for is drawn."""
    corners = torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1], [1, -1, 1, -1], [-1, 1, -1, 1]]).view(4, 1, 2, 2)
    images = corners.repeat(128, 1, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3) + 0.1 * torch.randn(
        512, 1, 4, 4
    )
    net = nets.build(DiTConfig(patch=2, width=32, depth=2, heads=2), channels=1, size=4, classes=4)
    denoise = NetDenoiser(net, Flow(), "flow", shape=(1, 4, 4))
    task = Online(denoise, Prototypes(32, 4, 16), LogitNormal(), site="blocks.0", clustering=2.0)
    optimizer = Adam(task.players["denoiser"].module.parameters(), 1e-2)
    for step in range(150):
        rows = (torch.arange(64) + 64 * step) % 512
        parts = task.loss("denoiser", Batch(images[rows]), Draws(0, 64 * step, 64), Moment(0, 0, 1))
        optimizer.zero_grad()
        sum(part.mean() for part in parts.values()).backward()
        optimizer.step()
    codes = task.assign(images)
    x = 0.15 * images + 0.85 * torch.randn(images.shape)
    with torch.no_grad():
        right, other, none = (
            (denoise(x, 0.85, cond).x0 - images).square().mean()
            for cond in (Cond(label=codes), Cond(label=(codes + 1) % 4), Cond(label=codes).null())
        )
        asked = torch.arange(4).repeat_interleave(50)
        drawn = sample(guide.cfg(denoise, 2.0), 200, Cond(label=asked), steps=8, seed=0)
    assert right < 0.25 * none < 0.25 * other
    assert (task.assign(drawn) == asked).double().mean() > 0.9  # a quarter by chance
