"""Every editor and inversion counts what it does on a bar, to its end."""

import pytest
import torch

from reverie.core.progress import Progress
from reverie.edit import METHODS, edit, inversion, invert

from .made import images, random_editor, random_unet, text

STEPS = 3
TURNS = {"dds": 4 * STEPS}
"""How far the bar goes of an editor that makes no moves."""


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    found: list[Progress] = []
    monkeypatch.setattr(Progress, "__enter__", lambda self: found.append(self) or self)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_counts_its_moves(method: str, bars: list[Progress]):
    mask = torch.zeros(8, 8)
    mask[4:] = 1.0
    denoise = random_editor() if method == "instruct" else random_unet()
    edit(denoise, images(), text(0), text(1), method, mask=mask, steps=STEPS)
    last = bars[-1]
    assert last.label == "editing" and last.done == last.total > 0
    assert method not in TURNS or last.total == TURNS[method]
    assert all(bar.done == bar.total for bar in bars)


@pytest.mark.parametrize("method", inversion.METHODS)
def test_an_inversion_counts_its_moves(method: str, bars: list[Progress]):
    invert(random_unet(), images(), text(0), method, steps=STEPS)
    assert bars[0].label == "inverting" and {(bar.done, bar.total) for bar in bars} == {(STEPS, STEPS)}
    assert [bar.label for bar in bars[1:]] == (["optimising nulls"] if method == "null_text" else [])
