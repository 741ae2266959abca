"""Adversarial models on another device: the same losses, gradients and samples, nothing of double precision there."""

import copy
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.data import ImageSet
from reverie.families import interpolate, mix
from reverie.families.gan_config import DCGANConfig, R3GANConfig, StyleGAN2Config, StyleGANConfig

from .emulated import DEVICE, NAME
from .models import CLASSES, pictures, shaken

X = pictures(4)
LABELS = torch.arange(4)
NAMES = [str(i) for i in range(CLASSES)]
DATA = ImageSet("some", "train", ((X + 1) * 127.5).byte(), torch.arange(4), labels=LABELS, classes=NAMES)
COND = rv.Cond(label=LABELS)
SIZES = {"dims": 6, "width": 4}
CONFIGS = [
    DCGANConfig(**SIZES),
    R3GANConfig(**SIZES),
    StyleGANConfig(**SIZES, mapping=2),
    StyleGAN2Config(**SIZES, mapping=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_it_learns_and_draws_the_same(config: Any):
    here = config.build(DATA.spec, 0)
    for module in config.modules(here).values():
        shaken(module).train().requires_grad_(True)
    task = config.task(here, DATA, DATA, config.Sample(), 0)
    if config.name == "stylegan2":
        task.augment.p.fill_(0.5)
    found = []
    for duel, device in ((task, "cpu"), (copy.deepcopy(task), DEVICE)):
        for player in duel.players.values():
            player.module.to(device)
        batch, seen = Batch(X, COND).to(device), {}
        for turn, player in enumerate(duel.turns(Moment(15, 0, 1))):
            losses = duel.loss(player, batch, Draws(0, 0, 4, turn), Moment(15, 0, 1))
            sum(v.mean() for v in losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
            seen |= losses
        slopes = {
            f"{name}.{key}": p.grad
            for name, player in duel.players.items()
            for key, p in player.module.named_parameters()
            if p.grad is not None
        }
        gan = duel.gan
        gan.net.eval()
        drawn = {"drawn": rv.sample(gan, cond=COND, seed=1), "path": interpolate(gan, (1, 2), 3, rv.Cond(label=1))}
        if gan.net.straight:
            drawn["mixed"] = mix(gan, [1], [2, 3], 1, rv.Cond(label=1), rv.Cond(label=2))
        found.append({**seen, **slopes, **drawn})
    a, b = found
    assert a.keys() == b.keys() and len(a) > 10
    for key, value in a.items():
        assert b[key].device.type == NAME and b[key].dtype == torch.float32, key
        largest = max(float(value.detach().abs().max()), 1e-2)
        torch.testing.assert_close(
            b[key].detach().cpu(), value.detach(), rtol=0, atol=2e-3 * largest, msg=lambda m, key=key: f"{key}: {m}"
        )
