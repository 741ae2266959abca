"""A mask generator trained on panoptic maps by a few lines: it finds things, and sooner with a denoiser that knows the scenes."""

import pytest
import scenery
import torch
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.read import untrained
from reverie.read.dense_prediction import pictures
from reverie.read.odise import panoptic, quality, scenes, training
from reverie.read.odise.panoptics import Panoptic, components

NAMES = ["ground", *scenes.COLOURS]


def bed(start, count):
    """Scenes, and their panoptic maps with the colours as categories."""
    batch = scenes.scenes(start, count)
    colours = torch.tensor([NAMES.index(kind[1]) if kind else 0 for kind in scenes.KINDS])[batch.extra["categories"]]
    classes = (batch.extra["masks"] * colours[:, :, None, None]).amax(1)
    return batch.x, [components(mask, (0,)) for mask in classes]


def test_things_are_connected_regions_and_stuff_is_one():
    classes = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 0], [-1, -1, 0, 2]])
    m = components(classes, (0,))
    assert sorted(m.labels.values()) == [0, 1, 1, 2, 2] or sorted(m.labels.values()) == [0, 1, 1, 2]
    assert (m.segments == 0).tolist() == (classes < 0).tolist(), "what is unknown is void"
    for number, label in m.labels.items():
        assert (classes[m.segments == number] == label).all()
    assert m.segments[0, 1] == m.segments[1, 1] != m.segments[0, 3], "two things of a class"
    assert m.segments[1, 2] == m.segments[2, 3], "neighbours across a corner"
    assert len({int(m.segments[p]) for p in ((0, 0), (0, 2), (1, 3), (2, 2))}) == 1, "stuff"
    assert len(components(classes).labels) > len(m.labels)


def test_masks_and_maps_are_one_thing_said_twice():
    _, truth = bed(0, 3)
    for m in truth:
        s = training.segments(m)
        scores = F.one_hot(s.labels, len(NAMES) + 1).double()
        again = panoptic(scores, s.masks.double(), (0,))
        assert quality([again], [m], len(NAMES)).pq == 1.0


def learned(denoise, steps):
    images, truth = bed(0, 200)
    asked, true = bed(10_000, 40)
    words = training.closed(NAMES)
    model = training.train(denoise, images, truth, words, steps=steps)
    return model.segment(asked, words, (0,), 0.3), true


def test_a_mask_generator_learns_the_things_of_pictures():
    found, true = learned(scenery.load(), 60)
    assert quality(found, true, len(NAMES)).pq > 0.35
    assert quality(found, true[1:] + true[:1], len(NAMES)).pq < 0.2, "those of another picture"


@pytest.mark.slow
def test_it_learns_sooner_from_a_denoiser_that_knows_the_scenes():
    """Measured 0.88 and 0.60."""
    denoise = scenery.load()
    trained, control = (quality(*learned(d, 150), len(NAMES)).pq for d in (denoise, untrained(denoise)))
    assert trained > 0.75 and trained > control + 0.1, (trained, control)


def test_no_segments():
    empty = Panoptic(torch.zeros(16, 16, dtype=torch.long), {})
    with pytest.raises(InputError, match="no picture has a segment"):
        training.train(scenery.load(), bed(0, 1)[0], [empty], training.closed(NAMES))


def test_maps_are_drawn_by_class_with_lines_between():
    images, truth = bed(0, 2)
    image = pictures.panoptics(images, [truth, truth], classes=len(NAMES))
    assert image.height > 1.3 * image.width and len(image.convert("RGB").getcolors(10**6)) > 4
