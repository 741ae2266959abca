"""Generators of other kinds than diffusion on another device: the same loss, gradients and samples, nothing of double precision there."""

import copy
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.data import ImageSet
from reverie.families.config import ChoiceConfig
from reverie.families.token_config import MaskedSample, MaskGITConfig, PartiConfig, ScaledSample, VAEConfig, VARConfig
from reverie.nets.config import TextConfig
from reverie.spaces import SpaceConfig

from .emulated import DEVICE, NAME
from .models import CLASSES, pictures, shaken

X = pictures(4)
LABELS = torch.arange(4)
NAMES = [str(i) for i in range(CLASSES)]
SAID = ["a red heart", "dog", "the sun", "sea"]
DATA = ImageSet(
    "some",
    "train",
    ((X + 1) * 127.5).byte(),
    torch.arange(4),
    labels=LABELS,
    classes=NAMES,
    columns={"name": SAID},
    text="name",
)
COND = rv.Cond(label=LABELS)
SPACE = SpaceConfig(patch=2, dims=4, width=8, codes=8)


def family(name: str) -> tuple[Any, Any]:
    """A model whose weights are all at work, and its task."""
    net = {"width": 16, "depth": 1, "heads": 2}
    config, sample = {
        "vae": (VAEConfig(dims=4, width=8), None),
        "maskgit": (
            MaskGITConfig(**net, space=SpaceConfig(**{**vars(SPACE), "name": "vq"})),
            MaskedSample(scale=2.0, steps=3),
        ),
        "parti": (
            PartiConfig(**net, space=SpaceConfig(**{**vars(SPACE), "name": "vq"}), text=TextConfig(**net), dropout=0.0),
            ChoiceConfig(scale=2.0),
        ),
        "var": (
            VARConfig(**net, space=SpaceConfig(**{**vars(SPACE), "name": "multiscale-vq"})),
            ScaledSample(scale=2.0),
        ),
    }[name]
    data = DATA.with_captions() if name == "parti" else DATA
    model = config.build(data.spec, 0)
    if sample is not None:
        (model.net.space if name == "parti" else model.space).codebook.codes.normal_()
        model = model.drawing(sample)
    for module in config.modules(model).values():
        shaken(module).train().requires_grad_(True)
    return model, config.task(model, data, data, sample or config.Sample(), 0)


@pytest.mark.parametrize("name", ["vae", "maskgit", "parti", "var"])
def test_it_learns_and_draws_the_same(name):
    torch.manual_seed(0)
    here = family(name)
    there = copy.deepcopy(here)
    found = []
    for (model, task), device in ((here, "cpu"), (there, DEVICE)):
        player, *_ = task.players
        for each in task.players.values():
            each.module.to(device)
        batch = DATA.with_captions().batch(range(4)) if name == "parti" else Batch(X, COND)
        losses = task.loss(player, batch.to(device), Draws(0, 0, 4), Moment(0, 0, 1))
        sum(v.mean() for v in losses.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        learning = {f"{of}.{key}": p for of, each in task.players.items() for key, p in each.module.named_parameters()}
        slopes = {key: p.grad for key, p in learning.items() if p.grad is not None}
        model.to(device)
        drawn = rv.sample(model, text=SAID, seed=1) if name == "parti" else rv.sample(model, cond=COND, seed=1)
        found.append(({**losses, **slopes, "drawn": drawn}, task.validate()))
    (a, measured), (b, again) = found
    assert a.keys() == b.keys() and len(a) > 5
    for key, value in a.items():
        assert b[key].device.type == NAME and b[key].dtype == torch.float32, key
        largest = max(float(value.abs().max()), 1e-2)
        torch.testing.assert_close(
            b[key].cpu(), value, rtol=0, atol=1e-3 * largest, msg=lambda m, key=key: f"{key}: {m}"
        )
    assert again == pytest.approx(measured, rel=1e-2)
    if name == "vae":
        bound = (model.log_prob_bound(x, COND) for (model, _), x in ((here, X), (there, X.to(DEVICE))))
        torch.testing.assert_close(*(nats.cpu() for nats in bound), rtol=1e-3, atol=1e-2)
