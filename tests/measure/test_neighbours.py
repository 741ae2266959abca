"""Nearest training pictures, and whether a copier is told from a model that has learned."""

import pytest
import torch

from reverie.core.errors import InputError
from reverie.data import ImageSet, load
from reverie.measure.neighbours import Neighbours, memorisation, nearest


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load("digits8", "train")


@pytest.fixture(scope="module")
def unseen() -> torch.Tensor:
    held_out = load("digits8", "test")
    return held_out.batch(range(len(held_out))).x


@pytest.fixture(scope="module")
def normal(unseen: torch.Tensor, train: ImageSet) -> Neighbours:
    return nearest(unseen, train)


def small_set(values: list[float]) -> ImageSet:
    pixels = torch.tensor(values).mul(255).round().to(torch.uint8).reshape(-1, 1, 1, 1)
    return ImageSet("small", "train", pixels, torch.arange(len(values)))


def test_distance_and_spacing_by_hand():
    near = nearest(torch.full((1, 1, 1, 1), 2 * 52 / 255 - 1), small_set([0.0, 0.2, 0.6, 1.0]))
    assert near.index.tolist() == [1]
    assert near.distance.item() == pytest.approx(2 * 1 / 255, abs=1e-6)  # 0.2 is pixel 51
    assert near.spacing.item() == pytest.approx(2 * 0.2, abs=1e-6)


def test_spacing_looks_past_duplicates():
    near = nearest(torch.tensor([-1.0, -1.0 + 2 / 255]).reshape(2, 1, 1, 1), small_set([0.0, 0.0, 0.0, 0.5]))
    assert near.ratio[0] == 0.0
    assert near.spacing.tolist() == pytest.approx([2 * 128 / 255] * 2)


def test_the_search_is_brute_force(monkeypatch: pytest.MonkeyPatch, unseen: torch.Tensor, train: ImageSet):
    data = train.batch(range(len(train))).x.flatten(1).double()
    exact = torch.cdist(unseen.flatten(1).double(), data, compute_mode="donot_use_mm_for_euclid_dist")
    monkeypatch.setattr("reverie.measure.neighbours.COLUMNS", 300)
    monkeypatch.setattr("reverie.measure.neighbours.ROWS", 70)
    near = nearest(unseen, train)
    assert torch.equal(near.index, exact.argmin(1))
    assert torch.allclose(near.distance, exact.min(1).values / 8)
    among = torch.cdist(data[near.index], data)
    among[among < 1e-3] = torch.inf
    assert torch.allclose(near.spacing, among.min(1).values / 8)


def copies(train: ImageSet, noise: float = 0.0) -> torch.Tensor:
    images = train.batch(range(0, len(train), 8)).x
    return images + noise * torch.randn_like(images)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_copier_is_flagged(train: ImageSet, normal: Neighbours, noise: float):
    verdict = memorisation(nearest(copies(train, noise), train), normal)
    assert verdict.flagged and verdict.copies > 0.95 and verdict.held_out_copies < 0.02


def test_one_copy_in_eight_is_flagged(train: ImageSet, normal: Neighbours, unseen: torch.Tensor):
    some = torch.cat([unseen, copies(train)[: len(unseen) // 7]])
    assert memorisation(nearest(some, train), normal).flagged


def test_unseen_pictures_are_not_flagged(normal: Neighbours, unseen: torch.Tensor, train: ImageSet):
    half = Neighbours(*(v[::2] for v in normal)), Neighbours(*(v[1::2] for v in normal))
    assert not memorisation(*half).flagged
    # closer to everything than a real picture is, and still no copy
    blurred = torch.nn.functional.avg_pool2d(unseen, 3, 1, 1)
    assert not memorisation(nearest(blurred, train), normal).flagged


def test_data_with_near_duplicates_of_its_own_does_not_accuse_the_model():
    near = Neighbours(
        torch.arange(200), torch.cat([torch.full((40,), 0.01), torch.ones(160)]).double(), torch.ones(200).double()
    )
    verdict = memorisation(near, near)
    assert verdict.copies == pytest.approx(0.2) and not verdict.flagged
    none = near._replace(distance=torch.ones(200).double())
    assert memorisation(near, none).flagged  # control: the same samples where held-out pictures are never so close


def test_quantiles_and_histograms(normal: Neighbours):
    verdict = memorisation(normal, normal)
    assert (
        verdict.distances[0] == normal.distance.min().item() and verdict.distances[-1] == normal.distance.max().item()
    )
    assert sum(verdict.histogram) == pytest.approx(1.0)
    low, high = verdict.edges[10], verdict.edges[15]
    inside = ((normal.distance > low) & (normal.distance <= high)).double().mean().item()
    assert sum(verdict.histogram[10:15]) == pytest.approx(inside, abs=0.01)


def test_errors(train: ImageSet):
    with pytest.raises(InputError, match=r"\(1, 8, 8\), got \(1, 9, 9\)"):
        nearest(torch.zeros(1, 1, 9, 9), train)
    with pytest.raises(InputError, match="all the same"):
        nearest(torch.zeros(1, 1, 1, 1), small_set([0.5, 0.5]))
