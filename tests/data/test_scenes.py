"""Made scenes: the caption is what is drawn, an edit's truth differs where it should and nowhere else."""

import math
from dataclasses import replace

import numpy as np
import pytest

import reverie as rv
from reverie.core.errors import InputError
from reverie.data import scenes
from reverie.data.scenes import COLOURS, SHAPES, Thing

SOME = scenes.draw(200, seed=1)


def colour_at(picture: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    y, x = (int(c * side) for c, side in zip(at, picture.shape[1:], strict=True))
    return picture[:, y, x] / 255.0


def right(scene: scenes.Scene, said: str) -> bool:
    """Whether a caption is true of a scene, by the colours at the middles of its things and by where they lie."""
    picture, (first, second) = scene.picture(), scene.things
    seen = [
        min(COLOURS, key=lambda c: float(abs(np.array(COLOURS[c]) - colour_at(picture, t.at)).sum()))
        for t in (first, second)
    ]
    axis = 0 if " above " in said else 1
    gap = second.at[axis] - first.at[axis]
    return [word for word in said.split() if word in COLOURS] == seen and gap > abs(
        second.at[1 - axis] - first.at[1 - axis]
    )


def test_a_caption_says_the_colours_and_where_the_things_lie():
    assert all(right(scene, scene.caption) for scene in SOME)
    swapped = [scene.caption.replace("above", "left of") for scene in SOME if scene.relation == "above"]
    upright = [scene for scene in SOME if scene.relation == "above"]
    assert not any(right(scene, said) for scene, said in zip(upright, swapped, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_has_the_area_of_its_shape(shape):
    r, side = 0.23, 200
    area = {"circle": math.pi, "square": 4.0, "triangle": 2.0, "cross": 4.0 * 5 / 9}[shape] * (r * side) ** 2
    covered = Thing("red", shape, (0.5, 0.4), r).mask(side).sum()
    assert abs(covered / area - 1) < 0.01
    assert abs(Thing("red", shape, (0.5, 0.4), 1.1 * r).mask(side).sum() / area - 1) > 0.1


def test_the_two_things_never_touch():
    assert all((scene.things[0].mask(64) * scene.things[1].mask(64)).max() == 0.0 for scene in SOME)
    first, second = SOME[0].things
    assert (first.mask(64) * replace(second, at=first.at).mask(64)).max() == 1.0


@pytest.mark.parametrize("which", [0, 1])
def test_a_change_is_seen_in_one_thing_and_nowhere_else(which):
    for scene in SOME[:40]:
        colour = next(c for c in COLOURS if c != scene.things[which].colour)
        shape = next(s for s in SHAPES if s != scene.things[which].shape)
        for after in (scene.changed(which, colour=colour), scene.changed(which, shape=shape)):
            differs = (scene.picture(32) != after.picture(32)).any(0)
            own = np.maximum(scene.things[which].mask(32), after.things[which].mask(32)) > 0
            assert differs.any() and not (differs & ~own).any()
            assert not (differs & (scene.things[1 - which].mask(32) > 0)).any()
            assert after.caption != scene.caption and after.relation == scene.relation


def test_a_scene_is_a_function_of_seed_and_number():
    assert scenes.draw(3, seed=1) == SOME[:3]
    assert scenes.draw(3, seed=2) != SOME[:3]


def test_it_is_a_data_set_of_captioned_pictures_of_any_size():
    train, test = rv.data.load("scenes", size=16), rv.data.load("scenes", "test", size=16)
    assert "scenes" in rv.data.names() and len(train) + len(test) == scenes.COUNT
    assert abs(len(test) / scenes.COUNT - 0.1) < 0.02 and train.shape == (3, 16, 16)
    told, row = train.with_captions(), int(train.rows[5])
    scene = scenes.draw(row + 1)[row]
    assert told.captions is not None and told.captions.say(5) == scene.caption
    assert np.array_equal(train.images[5].numpy(), scene.picture(16))
    assert rv.data.load("scenes", "test", size=(16, 8), channels=1).shape == (1, 16, 8)


def test_what_is_not_known_is_said():
    with pytest.raises(InputError, match="colour"):
        SOME[0].changed(0, colour="gren")
    with pytest.raises(InputError, match="at least 0"):
        scenes.draw(-1)
