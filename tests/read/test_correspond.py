"""Correspondence: exact where the answer is known (identity, shift, rotation of the basis, a moving square)."""

import copy

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.errors import InputError
from reverie.read.dense_prediction import correspond


@pytest.fixture(scope="module")
def periodic(unet):
    """The U-Net with convolutions that wrap around, so that shifting the picture shifts every map."""
    other = copy.copy(unet)
    other.net = copy.deepcopy(unet.net)
    for module in other.net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in (0, 1)]
    return other


def everywhere(h: int = 8, w: int = 8) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def test_a_picture_matches_itself_and_its_shift(periodic, images):
    points = everywhere()
    shift = (2, 4)  # rows, columns: multiples of the coarsest place, which has two pixels
    moved = images.roll(shift, (2, 3))
    a, b = (rv.read.features(periodic, x, "down.0.0", t=0.1, noise=None, pool=None) for x in (images, moved))
    truth = torch.stack([(points[:, 0] + shift[1]) % 8, (points[:, 1] + shift[0]) % 8], 1)
    same = [correspond.match(a[i], a[i], points, (8, 8))[0] for i in range(4)]
    found = [correspond.match(a[i], b[i], points, (8, 8))[0] for i in range(4)]
    assert correspond.pck(same, [points] * 4, [8.0] * 4, alpha=0.01) == (1.0, 1.0)
    assert correspond.pck(found, [truth] * 4, [8.0] * 4, alpha=0.01) == (1.0, 1.0)
    wrong = [correspond.match(a[i], b[(i + 1) % 4], points, (8, 8))[0] for i in range(4)]
    assert correspond.pck(wrong, [truth] * 4, [8.0] * 4, alpha=0.01).per_point < 0.3


def test_dense_matches_are_mutual_under_a_shift():
    field = torch.randn(16, 6, 6)
    found = correspond.dense(field, field.roll((1, 2), (1, 2)))
    assert found.mutual.all()
    assert found.place[0, 0].tolist() == [2, 1]
    assert not correspond.dense(field, torch.randn(16, 6, 6)).mutual.all()


def test_points_are_read_at_the_centres_of_pixels():
    field = torch.arange(16.0).reshape(1, 4, 4)
    points = torch.tensor([[0, 0], [3, 2], [1, 3]])
    assert correspond.at_points(field, points, (4, 4))[:, 0].tolist() == [0.0, 11.0, 13.0]
    ramp = correspond.at_points(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1.5, 0]]), (1, 4))
    assert ramp.item() == pytest.approx(0.5)


def test_joint_directions_keep_distances_and_separate_ones_do_not():
    a, b = torch.randn(6, 3, 3), torch.randn(6, 3, 3) + 1.0

    def distances(x, y):
        return torch.cdist(x.flatten(1).T, y.flatten(1).T)

    p, q = correspond.co_pca(a, b, 6)
    torch.testing.assert_close(distances(p, q), distances(a, b), rtol=1e-4, atol=1e-4)
    alone = (correspond.co_pca(a, a, 6)[0], correspond.co_pca(b, b, 6)[0])
    assert (distances(*alone) - distances(a, b)).abs().max() > 0.5
    assert correspond.co_pca(a, b, 2)[0].shape == (2, 3, 3)


def test_fusion_weighs_two_encoders():
    ours, theirs = ([(torch.randn(8, 4, 4), torch.randn(8, 4, 4))] for _ in range(2))
    a, b = correspond.fuse(ours, theirs[0], dim=8)
    torch.testing.assert_close(a.norm(dim=0), torch.ones(4, 4))
    only, _ = correspond.fuse(ours, theirs[0], dim=8, weight=0.0)
    alone, _ = correspond.fuse(ours, dim=8)
    torch.testing.assert_close(only[:8], alone)
    assert only[8:].abs().max() == 0
    small = (torch.randn(8, 2, 2), torch.randn(8, 2, 2))
    assert correspond.fuse([small, ours[0]], theirs[0], dim=4)[1].shape == (16, 4, 4)
    assert a.shape == b.shape == (16, 4, 4)


def test_pck_per_point_and_per_image():
    truth = [torch.zeros(4, 2), torch.zeros(1, 2)]
    found = [torch.tensor([[0.0, 0], [0, 1.0], [3.0, 4.0], [9.0, 0]]), torch.tensor([[20.0, 0]])]
    score = correspond.pck(found, truth, [10.0, 100.0], alpha=0.5)
    assert score == (4 / 5, (3 / 4 + 1) / 2)
    assert correspond.pck(found, truth, [10.0, 100.0], alpha=0.1).per_point == 2 / 5
    with pytest.raises(InputError, match="one entry a picture"):
        correspond.pck(found, truth[:1], [1.0, 1.0])


def test_labels_follow_a_moving_thing():
    """A textured square moves a place a frame over another texture; its mask and a point in it go along."""
    texture, ground = torch.randn(12, 3, 3), torch.randn(12, 10, 10)
    fields = ground.repeat(5, 1, 1, 1)
    masks = torch.zeros(5, 10, 10)
    for k in range(5):
        fields[k, :, 2 : 5, 1 + k : 4 + k] = texture  # fmt: skip
        masks[k, 2:5, 1 + k : 4 + k] = 1.0
    first = torch.stack([1.0 - masks[0], masks[0]])
    found = correspond.propagate(fields, first, top=1, temperature=0.05)
    ground_known = found.argmax(1)
    assert (ground_known[:, 2:5] == masks[:, 2:5].long()).double().mean() > 0.95
    heat = correspond.keypoints(torch.tensor([[2, 3]]), (10, 10))
    assert correspond.peaks(correspond.propagate(fields, heat, top=1))[:, 0].tolist() == [[2 + k, 3] for k in range(5)]
    stuck = correspond.propagate(fields, first, top=1, radius=0)  # nothing may move: the mask stays
    assert (stuck.argmax(1)[4] == masks[0].long()).all()
    with pytest.raises(InputError, match="10x10"):
        correspond.propagate(fields, torch.zeros(2, 5, 5))
