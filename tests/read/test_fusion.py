"""A denoiser and a second encoder, EfficientNet-Lite0, find more together than either: SD+DINO's fusion on turned emoji."""

import pytest
import scenery
import torch
import turned
from torch.nn import functional as F

import reverie as rv
from reverie.core.errors import InputError
from reverie.measure.extract import EfficientNetLite0
from reverie.read.dense_prediction.correspond import dift, fuse

SITE, BLOCK, N = "up.1.1", "_blocks.4", 40


@pytest.fixture(scope="module")
def bed():
    images = rv.data.load("emoji", "test", size=16).batch(range(N)).x
    return images, *turned.pairs(images)


def coordinates(turn):
    """Maps that say of each place where in the source it is: the best there can be."""
    grid = F.affine_grid(
        torch.cat([turn, torch.zeros(len(turn), 2, 1)], 2), [len(turn), 1, 16, 16], align_corners=False
    )
    return list(torch.cat([grid, torch.ones_like(grid[..., :1])], 3).permute(0, 3, 1, 2))


def test_the_truth_is_where_the_points_went(bed):
    images, _, turn = bed
    here = coordinates(torch.eye(2).expand(N, 2, 2))
    assert turned.score(images, turn, here, coordinates(turn), 0.05) == 1.0
    assert turned.score(images, turn, here, coordinates(turn.mT), 0.05) < 0.4


def test_fused_they_find_more_than_either(bed):
    images, other, turn = bed
    try:
        extractor = EfficientNetLite0()
    except InputError as missing:
        pytest.skip(str(missing))
    ours = [dift(scenery.load(), x, SITE, t=0.05, seed=seed) for seed, x in enumerate((images, other))]
    theirs = [rv.read.of_module(extractor, x, [BLOCK])[BLOCK] for x in (images, other)]

    def fused(a, b):
        both = [fuse([(ours[0][i], ours[1][i])], (a[i], b[i])) for i in range(N)]
        return [m for m, _ in both], [m for _, m in both]

    found = {
        "denoiser": turned.score(images, turn, *map(list, ours), 0.1),
        "encoder": turned.score(images, turn, *map(list, theirs), 0.1),
        "both": turned.score(images, turn, *fused(*theirs), 0.1),
        "of other pictures": turned.score(images, turn, *fused(theirs[0], theirs[1].roll(1, 0)), 0.1),
    }
    assert min(found["denoiser"], found["encoder"]) > 0.4, found
    assert found["both"] > max(found["denoiser"], found["encoder"]) + 0.03, found
    assert found["of other pictures"] < found["denoiser"], found
