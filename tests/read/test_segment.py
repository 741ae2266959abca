"""The pixel ensemble: it learns what can be learned, votes as a count says, and is unsure where its members differ."""

import pytest
import torch
from torch import nn

from reverie.core.errors import InputError
from reverie.read.dense_prediction import segment


def scene(n: int = 12, seed: int = 0):
    """Features of two channels that tell three classes apart, and six that say nothing."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (n, 6, 6), generator=rng)
    means = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    said = means[masks].permute(0, 3, 1, 2)
    return torch.cat([said, torch.zeros(n, 6, 6, 6)], 1) + 0.3 * torch.randn(n, 8, 6, 6, generator=rng), masks


def test_it_learns_the_pixels():
    x, y = scene()
    unknown = y.clone()
    unknown[:, 0] = segment.IGNORE  # a row that nobody labelled
    ensemble = segment.Ensemble(8, 3, members=3)
    ensemble.fit(x, unknown, epochs=15)
    asked, truth = scene(seed=1)
    found = ensemble(asked)
    assert segment.miou(found.classes, truth, 3) > 0.9
    noise = torch.randn_like(asked)
    assert segment.miou(ensemble(noise).classes, truth, 3) < 0.4
    assert found.members.shape == (3, 12, 6, 6)


class Says(nn.Module):
    """A member that gives every pixel the same logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).float()

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_votes_and_uncertainty():
    ensemble = segment.Ensemble(2, 3, members=3)
    x = torch.zeros(1, 2, 5, 4)
    ensemble.members = nn.ModuleList([Says(0, 9, 0), Says(0, 9, 0), Says(0, 0, 9)])
    differ = ensemble(x)
    assert (differ.classes == 1).all()
    ensemble.members = nn.ModuleList([Says(0, 9, 0)] * 3)
    agree = ensemble(x)
    assert agree.uncertainty.abs().max() < 1e-6
    expected = -(2 / 3 * torch.tensor(2 / 3).log() + 1 / 3 * torch.tensor(1 / 3).log())  # members are all but certain
    assert differ.uncertainty.mean().item() == pytest.approx(expected.item(), abs=0.01)
    assert differ.score.shape == (1,)
    ensemble.members = nn.ModuleList([Says(1, 1, 1)] * 3)  # all unsure, and agreed on that: no disagreement
    assert ensemble(x).uncertainty.abs().max() < 1e-6


def test_miou_counts_over_the_whole_set():
    truth = torch.tensor([[[0, 0, 1, segment.IGNORE]], [[1, 1, 1, 1]]])
    found = torch.tensor([[[0, 1, 1, 0]], [[1, 1, 0, 0]]])
    # class 0: both 1, either 1 + 1 + 2 = 4; class 1: both 3, either 3 + 1 + 2 = 6; class 2 is absent
    assert segment.miou(found, truth, 3) == pytest.approx((1 / 4 + 3 / 6) / 2)


def test_a_class_of_fewer_than_twenty_pixels_in_a_picture_is_ignored_there():
    masks = torch.zeros(2, 10, 10, dtype=torch.long)
    masks[:, 0] = segment.IGNORE
    masks[0, 1:3] = 1  # 20 pixels
    masks[0, 4:6], masks[0, 5, 9] = 2, 0  # 19
    masks[1, 4:6] = 2  # 20 in the other picture: 39 in all do not help the first
    kept = segment.without_specks(masks)
    assert (kept[0] == 1).sum() == 20 and (kept[1] == 2).sum() == 20
    assert (kept[0][masks[0] == 2] == segment.IGNORE).all()
    rest = (masks != 2) | (torch.arange(2)[:, None, None] == 1)
    assert torch.equal(kept[rest], masks[rest])
    assert torch.equal(segment.without_specks(masks, 19), masks)
    assert (masks[0] == 2).sum() == 19, "what was given stays"


def test_masks_that_do_not_fit():
    ensemble = segment.Ensemble(8, 2, members=1)
    x, y = scene(2)
    with pytest.raises(InputError, match=r"\(2, 6, 6\)"):
        ensemble.fit(x, y[:1])
    with pytest.raises(InputError, match="0 to 1"):
        ensemble.fit(x, y)
