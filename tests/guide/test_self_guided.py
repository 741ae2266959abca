"""Annotations from features, and the chain from them to samples."""

from dataclasses import replace

import pytest
import torch
from torch.optim import Adam

from reverie import guide
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.data import ImageSet, Loader
from reverie.diffusion import Denoising
from reverie.solve import sample


def pictures(n: int = 256) -> ImageSet:
    """Of four kinds: one quarter of the picture is bright, the rest dark, with noise."""
    kind = torch.arange(n) % 4
    store = torch.full((n, 1, 8, 8), 40)
    for i in range(n):
        y, x = 4 * (int(kind[i]) // 2), 4 * (int(kind[i]) % 2)
        store[i, 0, y : y + 4, x : x + 4] = 220
    store = (store + torch.randint(-20, 20, store.shape)).to(torch.uint8)
    return ImageSet(
        name="quarters", split="train", store=store, rows=torch.arange(n), labels=kind, classes=list("abcd")
    )


class Small(torch.nn.Module):
    """A perceptron on pixels, time and label."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions = {"label": Label(4)}
        self.embed, self.table = torch.nn.Linear(65, 128), torch.nn.Embedding(5, 128)
        self.rest = torch.nn.Sequential(
            torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 64)
        )

    def forward(self, x, time, cond=None):
        given = (
            x.new_full((len(x),), 4).long()
            if cond is None
            else torch.where(cond["label"].present, cond["label"].value, 4)
        )
        told = torch.cat([x.flatten(1), time.expand(len(x))[:, None]], 1)
        return self.rest(self.embed(told) + self.table(given)).reshape(x.shape)


def agreement(found: torch.Tensor, true: torch.Tensor, k: int) -> float:
    """Share of pictures whose cluster's most frequent kind is theirs."""
    return sum(int(true[found == c].bincount().max()) for c in range(k) if (found == c).any()) / len(true)


def test_clusters_find_the_kinds_and_replace_the_labels():
    images = pictures()
    features = images.batch(range(256)).x.flatten(1)
    found = guide.clusters(images, features, 4)
    assert found.labels is not None and images.labels is not None
    assert agreement(found.labels, images.labels, 4) == 1.0
    assert found.classes == [f"cluster {i}" for i in range(4)]
    shuffled = guide.clusters(images, features[torch.randperm(256)], 4)
    assert shuffled.labels is not None
    assert agreement(shuffled.labels, images.labels, 4) < 0.5
    again = guide.clusters(images, features, 4)
    assert again.labels is not None and torch.equal(again.labels, found.labels)


def test_draws_follow_the_histogram_and_do_not_depend_on_how_many():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    share = labels[guide.draw(100, 4000, seed=1)].bincount(minlength=3) / 4000
    assert torch.allclose(share, torch.tensor([0.7, 0.2, 0.1]), atol=0.03)
    assert torch.equal(guide.draw(100, 50, seed=1), guide.draw(100, 4000, seed=1)[:50])
    assert not torch.equal(guide.draw(100, 50, seed=1), guide.draw(100, 50, seed=2))


def test_masks_are_parts_at_the_size_of_the_pictures():
    images = pictures(16).batch(range(16)).x
    places = torch.nn.functional.avg_pool2d(images, 2)
    features = torch.cat([places, -places, 0.1 * torch.ones_like(places)], 1)
    parts = guide.masks(features, 2, (8, 8))
    assert parts.shape == (16, 2, 8, 8)
    assert torch.equal(parts.sum(1), torch.ones(16, 8, 8))
    bright = (images[:, 0] > 0).float()
    assert max(float((parts[:, c] == bright).float().mean()) for c in range(2)) > 0.99


def test_boxes_are_where_something_stands_out():
    torch.manual_seed(0)
    features = torch.zeros(3, 4, 12, 12)
    features[:, 0] = 1.0
    where = [(2, 5, 3, 7), (8, 11, 0, 4), (0, 3, 8, 12)]
    for i, (top, bottom, left, right) in enumerate(where):
        features[i, :, top:bottom, left:right] = torch.tensor([0.0, 1.0, 0.5, 0.0])[:, None, None]
    features += 0.05 * torch.randn(features.shape)
    found = guide.boxes(features, (24, 24), similar=12)
    assert found.shape == (3, 1, 24, 24)
    for i, (top, bottom, left, right) in enumerate(where):
        wanted = torch.zeros(24, 24)
        wanted[2 * top : 2 * bottom, 2 * left : 2 * right] = 1.0
        union = torch.maximum(found[i, 0], wanted).sum()
        assert float((found[i, 0] * wanted).sum() / union) > 0.7


def test_the_whole_chain():
    """Annotate, train, sample from the histogram: samples of a cluster look like its pictures; random clusters say nothing."""
    images = pictures()
    features = images.batch(range(256)).x.flatten(1)
    found = guide.clusters(images, features, 4)
    assert found.labels is not None
    centres = torch.stack([features[found.labels == c].mean(0) for c in range(4)])

    def hits(labelled: ImageSet) -> float:
        torch.manual_seed(0)
        net = Small()
        denoise = NetDenoiser(net, Flow(), "flow", shape=(1, 8, 8))
        task, batches = Denoising(denoise, Uniform()), Loader(labelled, 0)
        optimizer = Adam(net.parameters(), 3e-3)
        for step in range(250):
            part = task.loss("denoiser", batches(64 * step, 64), Draws(0, 64 * step, 64), Moment(0, 0, 1))
            optimizer.zero_grad()
            part["mse"].mean().backward()
            optimizer.step()
        rows = guide.draw(256, 64)
        assert found.labels is not None and labelled.labels is not None
        with torch.no_grad():
            x = sample(guide.cfg(denoise, 1.5), cond=Cond(label=labelled.labels[rows]), steps=8)
        nearest = torch.cdist(x.flatten(1), centres).argmin(1)
        return float((nearest == labelled.labels[rows]).double().mean())

    assert hits(found) > 0.9
    assert hits(replace(found, labels=found.labels[torch.randperm(256)])) < 0.5


def test_mistakes_are_named():
    images = pictures(16)
    with pytest.raises(InputError, match=r"row for each of 16"):
        guide.clusters(images, torch.zeros(5, 3), 2)
    with pytest.raises(InputError, match=r"from 1 to the 16"):
        guide.clusters(images, torch.zeros(16, 3), 17)
    with pytest.raises(InputError, match=r"\(N, d, h, w\)"):
        guide.masks(torch.zeros(4, 3), 2, (8, 8))
