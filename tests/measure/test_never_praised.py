"""What is no model of the data is never praised: noise, blurred pictures, a constant picture and a copier, on every data set."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from reverie import data
from reverie.core.generator import Generator
from reverie.data import ImageSet
from reverie.learn.grid import to_bytes, to_picture
from reverie.measure import judge as judges
from reverie.measure.evaluation import blur, evaluate, noise_like


class Features(nn.Module):
    """A network of random weights with as many features as the general extractor has."""

    name, dim = "random-1280", 1280

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv2d(channels, 32, 3, 2, 1), nn.Conv2d(32, self.dim, 3, 2, 1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images).relu()).relu().mean((2, 3))


class Fake(Generator):
    """Draws what it is given, again and again."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures, self.shape, self.conditions = pictures, tuple(pictures.shape[1:]), {}

    def sample(self, n=None, cond=None, *, seed=0, batch_size=None, on_step=None):
        rows = torch.tensor([row for _, row in seed])
        return self.pictures[rows % len(self.pictures)]


def fakes(train: ImageSet) -> dict[str, torch.Tensor]:
    some = train.batch(range(0, len(train), max(1, len(train) // 300))).x
    return {
        "noise": noise_like(some, 200, 9),
        "blurred": blur(some, max(1.5, min(train.shape[1:]) / 16)),
        "constant": some[:1],
        "copier": some,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """480 bright shapes on grounds of many colours: 48 of them are held out, far fewer than there are features."""
    root, generator = tmp_path_factory.mktemp("shapes"), torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    for i in range(480):
        ground, shade, centre = (torch.rand(k, generator=generator) * 2 - 1 for k in (3, 3, 2))
        near = (((y - 0.5 * centre[0]) ** 2 + (x - 0.5 * centre[1]) ** 2) < 0.15).float()
        picture = ground[:, None, None] * (1 - near) + shade[:, None, None] * near
        to_picture(to_bytes(picture[None])[0]).save(root / f"{i}.png")
    return root


@pytest.fixture(params=["mnist5k", "emoji", "digits8", "folder"])
def case(request, folder):
    """Training pictures, held-out ones, and features of them."""
    train, held_out = (
        data.load(folder if request.param == "folder" else request.param, split) for split in ("train", "test")
    )
    looks = judges.load("mnist5k") if request.param == "mnist5k" else Features(train.channels)
    return train, held_out, looks


def test_no_control_passes_for_a_model(case):
    train, held_out, looks = case
    n = 600 if len(held_out) >= 600 else 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {
            name: evaluate(Fake(pictures), train, held_out, looks, n=n, seeds=(0,))[0]
            for name, pictures in fakes(train).items()
        }
    small = min(n, len(held_out)) <= looks.dim
    for name, evaluation in found.items():
        assert (evaluation.figure("frechet") is None) == small == bool(evaluation.warnings), name
        assert evaluation.headline, "something must be said"
        (figure,) = [f for f in evaluation.headline if f.measure != "accuracy"]
        assert figure.measure == ("kernel_share" if small else "frechet_ratio")
        bad, good = (1.5, 1.0) if figure.measure == "frechet_ratio" else (0.02, 0.0)
        if name == "copier":  # as near as real pictures are: what gives it away is that it copies
            assert evaluation.memorisation["samples"].flagged
        else:
            assert figure.value > bad, (name, figure.value)
            assert figure.value > evaluation.figure(figure.measure, "training").value + (bad - good)
        if name == "constant":
            assert evaluation.figure("recall").value < 0.1
        if name == "noise" and figure.measure == "kernel_share":
            assert figure.value > 0.5


def test_what_cannot_tell_noise_says_so():
    """Pictures that are noise themselves: every measure is blind, and there is no headline."""
    noise, parts = (
        to_bytes(torch.rand(300, 1, 8, 8) * 2 - 1),
        {"train": torch.arange(200), "test": torch.arange(200, 300)},
    )
    sets = [ImageSet("noise", split, noise, rows) for split, rows in parts.items()]
    evaluation, _ = evaluate(Fake(sets[0].batch(range(100)).x), *sets, Features(1), n=100, seeds=(0, 1))
    assert not evaluation.tells("precision") and "precision" in evaluation.warnings[-1]
