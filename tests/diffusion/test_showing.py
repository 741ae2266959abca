"""What is drawn on the way of a run keeps to its budget, and is the same pictures however many there are."""

import time
from types import SimpleNamespace

import pytest
import torch

from reverie import data
from reverie.core.generator import Frame, Generator
from reverie.core.task import Preview
from reverie.diffusion import showing


class Draws(Generator):
    """Sample i is all i; a step of one picture takes so many seconds."""

    def __init__(self, shape, seconds=0.0, batch=1000):
        self.shape, self.conditions, self.seconds, self.batch, self.asked, self.steps = shape, {}, seconds, batch, [], 0

    def sample(self, n=None, cond=None, *, seed=0, batch_size=None, on_step=None):
        self.asked.append(n)
        assert cond is None or len(cond["label"].value) == n
        for start in range(0, n, self.batch):
            count = min(self.batch, n - start)
            for done in range(1, 5):
                self.steps += count
                time.sleep(count * self.seconds)
                on_step(Frame(count, done, 4, lambda: None))
        return torch.arange(n).view(-1, 1, 1, 1).expand(n, *self.shape) / 100


def preview(images, draws) -> Preview:
    return showing.shown(images, lambda denoise: draws, 0)(None)


def test_a_class_a_column_and_three_rows_of_samples():
    images, draws = data.load("digits8"), Draws((1, 8, 8))
    shown = preview(images, draws)
    assert shown.columns == 10 and len(shown.images) == 40 and draws.asked == [30] and len(shown.headings) == 10


@pytest.mark.parametrize("batch", [1000, 7])
def test_a_slow_model_draws_fewer_pictures_the_same_ones(monkeypatch, batch):
    monkeypatch.setattr(showing, "SECONDS", 0.2)
    draws = Draws((1, 8, 8), seconds=0.01, batch=batch)  # 30 pictures of four steps would take 1.2 s
    shown = preview(data.load("digits8"), draws)
    assert draws.asked[0] == 30 and len(draws.asked) == 2 and 2 <= draws.asked[1] <= 5
    assert torch.equal(shown.images[10:, 0, 0, 0], torch.arange(draws.asked[1]) / 100)
    monkeypatch.setattr(showing, "SECONDS", 0.0001)
    draws = Draws((1, 8, 8), seconds=0.001)
    assert len(preview(data.load("digits8"), draws).images) == 11 and draws.asked[-1] == 1


@pytest.mark.parametrize(("side", "columns", "samples"), [(64, 8, 24), (400, 8, 16), (1000, 4, 4), (3000, 1, 1)])
def test_large_pictures_are_fewer(side, columns, samples):
    """At most four million pixels: of sides of 1000, four."""
    shape, asked = (3, side, side), []

    class Images(list):
        spec = SimpleNamespace(shape=shape, conditions={}, classes=None)

        def batch(self, rows):
            asked.append(len(rows))
            return SimpleNamespace(x=torch.zeros(len(rows), 1, 1, 1))

    images = Images(range(100))
    draws = Draws((1, 1, 1))
    shown = preview(images, draws)
    assert (shown.columns, draws.asked, asked) == (columns, [samples], [columns])
