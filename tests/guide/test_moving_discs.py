"""Self-guidance on a trained network: the disc that a word names goes where the word is sent, in the picture, not in maps alone."""

import pytest
import torch

from reverie import guide
from reverie.solve import sample

from . import discs

TO = (0.3, 0.3), (0.7, 0.7)
FIRST = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(4)
SECOND = torch.tensor([1, 2, 0, 2, 0, 1]).repeat(4)


@pytest.fixture(scope="module", params=["stored", pytest.param("anew", marks=pytest.mark.slow)])
def trained(request, tmp_path_factory):
    file = discs.FILE
    if request.param == "anew":
        file = tmp_path_factory.mktemp("discs") / discs.FILE.name
        discs.save(discs.train(), file)
    assert file.stat().st_size < 200_000
    return discs.load(file)


def draw(model):
    return sample(model, len(FIRST), discs.text(FIRST, SECOND), "euler", 20, seed=0)


def sent(trained, token, to, scale=100.0):
    return draw(guide.attention(trained, guide.position(token, to), scale))


def away(images, colours, to):
    return (discs.centre(images, colours) - torch.tensor(to)).norm(dim=1).mean().item()


def lit(images):
    """Pixels lit in each colour, (N, 3)."""
    return (images > 0.0).sum((2, 3))


def test_it_draws_what_it_reads(trained):
    count = lit(draw(trained))
    rows, third = torch.arange(len(FIRST)), 3 - FIRST - SECOND
    assert (count[rows, FIRST] > 10).double().mean() > 0.9 and (count[rows, SECOND] > 10).double().mean() > 0.9
    assert (count[rows, third] < 4).double().mean() > 0.9


@pytest.mark.parametrize("to", TO)
def test_the_named_disc_goes_where_its_word_is_sent(trained, to):
    free, moved, other = draw(trained), sent(trained, 0, to), sent(trained, 1, to)
    assert away(moved, FIRST, to) < away(free, FIRST, to) - 0.12
    assert away(other, SECOND, to) < away(free, SECOND, to) - 0.12
    assert away(other, FIRST, to) > away(free, FIRST, to) - 0.05, "the other word does not move it there"
    assert away(moved, SECOND, to) > away(free, SECOND, to) - 0.05
    count = lit(moved)[torch.arange(len(FIRST)), FIRST]
    assert ((count > 10) & (count < 35)).double().mean() > 0.9, "it is still a disc"


def test_at_scale_zero_nothing_moves(trained):
    torch.testing.assert_close(sent(trained, 0, TO[0], 0.0), draw(trained), rtol=0, atol=1e-4)
    x, cond = torch.randn(2, 3, 16, 16), discs.text(FIRST[:2], SECOND[:2])
    still, moved = (guide.attention(trained, guide.position(0, TO[0]), scale)(x, 0.7, cond).out for scale in (0.0, 9.0))
    plain = trained(x, 0.7, cond).out
    assert torch.equal(still, plain) and not torch.equal(moved, plain)
