"""Names: restoration is a room of its own, and what scripts call by the room of guides is the same."""

import pytest

import reverie as rv


@pytest.mark.parametrize("name", rv.inverse.__all__)
def test_guide_finds_what_restores(name):
    assert getattr(rv.guide, name) is getattr(rv.inverse, name)
    assert name not in rv.guide.__all__


def test_guide_finds_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'ladder'"):
        _ = rv.guide.ladder
