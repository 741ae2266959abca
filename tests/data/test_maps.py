"""Layouts as conditions: what the maps hold, that they turn with their pictures, and that a model draws by them."""

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond, Image, Label
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.data import Mapped, Mirrored, TensorSet
from reverie.data.maps import boxes, semantic
from reverie.diffusion.config import DenoisingConfig
from reverie.nets import DiTConfig, JiTConfig
from reverie.spaces.config import SpaceConfig

SIZE = 8


def scenes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pictures (n, 1, 8, 8) with a white and a black rectangle that do not touch, and their boxes as maps: class 0 is white."""
    generator, pictures, layouts = torch.Generator().manual_seed(seed), torch.zeros(n, 1, SIZE, SIZE), []
    for i in range(n):
        white, (h, w) = (
            int(torch.randint(2, (1,), generator=generator)),
            torch.randint(2, 4, (2,), generator=generator).tolist(),
        )
        y, x = (int(torch.randint(SIZE // 2 - m + 1, (1,), generator=generator)) for m in (h, w))
        layout = [
            (white, y, x, y + h, x + w),
            (1 - white, y + SIZE // 2, x + SIZE // 2, y + h + SIZE // 2, x + w + SIZE // 2),
        ]
        for kind, top, left, bottom, right in layout:
            pictures[i, 0, top:bottom, left:right] = 1.0 - 2.0 * kind
        layouts.append(layout)
    return pictures, boxes(layouts, 2, (SIZE, SIZE))


def test_boxes_and_classes_of_pixels_are_the_same_maps():
    maps = boxes([[(1, 2, 3, 4, 8)], []], 3, (5, 8))
    assert maps.shape == (2, 3, 5, 8) and maps.sum() == 10 and maps[0, 1, 2:4, 3:].min() == 1
    labels = torch.full((2, 5, 8), -1)
    labels[0, 2:4, 3:8] = 1
    assert torch.equal(semantic(labels, 3), maps)
    assert not torch.equal(semantic(labels.flip(2), 3), maps)
    with pytest.raises(InputError, match=r"a class 0 to 2 in pictures of 5x8: got \(3, 0, 0, 1, 1\) in layout 0"):
        boxes([[(3, 0, 0, 1, 1)]], 3, (5, 8))
    with pytest.raises(InputError, match="−1 to 0"):
        semantic(labels, 1)


def test_maps_are_told_beside_labels_and_turn_with_their_pictures():
    pictures, maps = scenes(6, 0)
    data = Mapped(TensorSet(pictures, torch.arange(6) % 2, classes=("a", "b")), maps)
    assert data.spec.conditions == {"label": Label(2), "image": Image(2)}
    both = Mirrored(data).batch([1, 7])
    assert torch.equal(both.cond["image"].value[1], maps[1].flip(-1)) and torch.equal(both.x[1], pictures[1].flip(-1))
    assert torch.equal(both.cond["image"].value[0], maps[1]) and not torch.equal(maps[1], maps[1].flip(-1))
    assert data.fingerprint != Mapped(data.data, maps.roll(1, 0)).fingerprint
    with pytest.raises(InputError, match=r"each of 6 pictures, \(n, channels, 8, 8\)"):
        Mapped(data.data, maps[:5])


def test_what_encoders_see_is_a_map_too():
    features = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    pictures = TensorSet(scenes(6, 0)[0])
    assert Mapped(pictures, rv.guide.masks(features, 3, (SIZE, SIZE))).spec.conditions["image"] == Image(3)
    assert Mapped(pictures, rv.guide.boxes(features, (SIZE, SIZE))).spec.conditions["image"] == Image(1)


def test_a_model_draws_by_boxes():
    """A transformer of 40,000 weights, trained for a few seconds: white is drawn in boxes of class 0, black in those of class 1."""
    pictures, maps = scenes(512, 0)
    data = Mapped(TensorSet(pictures), maps)
    config = DenoisingConfig(net=DiTConfig(patch=2, width=32, depth=2, heads=2))
    model = config.build(data.spec, 0)
    task = config.task(model, data, data, config.Sample(steps=8), 0)
    optimizer = torch.optim.Adam(model.net.parameters(), 4e-3)
    for step in range(150):
        batch = data.batch(torch.arange(32 * step, 32 * step + 32) % 512)
        loss = task.loss("denoiser", batch, Draws(0, 32 * step, 32), Moment(step, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.net.requires_grad_(False)
    told = scenes(32, 1)[1]
    drawn = rv.sample(model, cond=Cond(image=told), steps=8)

    def inside(maps: torch.Tensor, kind: int) -> float:
        return float((drawn[:, 0] * maps[:, kind]).sum() / maps[:, kind].sum())

    assert inside(told, 0) > 0.6 and inside(told, 1) < -0.6
    outside = drawn[:, 0][told.sum(1) == 0]
    assert outside.abs().mean() < 0.25
    assert inside(told.roll(1, 0), 0) < 0.4  # the control: boxes of another
    assert task.preview().images.shape[1:] == (1, SIZE, SIZE)


def test_what_cannot_be_told_a_map_says_so():
    data = Mapped(TensorSet(scenes(4, 0)[0]), scenes(4, 0)[1])
    small = DiTConfig(patch=2, width=16, depth=1, heads=2)
    with pytest.raises(InputError, match="leave prior and space out"):
        DenoisingConfig(net=small, prior=2).build(data.spec, 0)
    with pytest.raises(InputError, match="leave prior and space out"):
        DenoisingConfig(net=small, space=SpaceConfig(name="pca", patch=2, dims=4)).build(data.spec, 0)
    with pytest.raises(InputError, match="needs a network that takes one"):
        DenoisingConfig(net=JiTConfig(patch=2, width=16, depth=1, heads=2)).build(data.spec, 0)
