"""Of several candidates the best by a picture-text model: which one that is, and that nothing else changes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.noise import sample_seeds
from reverie.measure.reranking import STRIDE, best, candidates, chosen

COLOURS = {"red": 0, "green": 1, "blue": 2}


class Eye:
    """Sees how much of a colour a picture has beside the others."""

    name, data, seen = "eye", "", "nothing"

    def pictures(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean((2, 3)), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(3)[[COLOURS[text] for text in texts]]


def painted(*colours: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 4, 4)


def test_the_nearest_to_its_text_is_chosen_and_of_equals_the_first():
    row = painted((0.1, 0.9, 0.0), (0.9, 0.1, 0.0), (0.9, 0.1, 0.0), (0.5, 0.5, 0.9))
    pictures = torch.stack([row, row, row, row.flip(0)])
    assert best(Eye(), pictures, ["red", "green", "blue", "red"]).tolist() == [1, 0, 3, 1]
    assert best(Eye(), row[None, [1] * 5], ["red"]).tolist() == [0]
    by_hand = [max(range(4), key=lambda j: float(Eye().pictures(row)[j, c])) for c in range(3)]
    assert by_hand == [1, 0, 3]
    farthest = (-(Eye().pictures(row) @ Eye().texts(["red", "green"]).T)).argmax(0)
    assert farthest.tolist() != by_hand[:2]  # the control: the other end of the order


def test_the_first_candidate_is_the_sample_itself():
    seeds = sample_seeds(7, 3)
    several = candidates(seeds, 4)
    assert several[::4] == seeds and len(set(several)) == 12
    assert several[1] == (7 + STRIDE, 0) and several[5] == (7 + STRIDE, 1)


def noisy(cond: Cond | None, seeds) -> Tensor:
    return torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(hash(s) % 2**31)) for s in seeds])


def test_more_candidates_are_never_worse_and_one_changes_nothing():
    seeds, texts = sample_seeds(0, 6), ["red", "green", "blue"] * 2

    def score(of: int) -> Tensor:
        pictures = chosen(noisy, None, seeds, texts, Eye(), of)
        return (Eye().pictures(pictures) * Eye().texts(texts)).sum(1)

    assert torch.equal(chosen(noisy, None, seeds, texts, Eye(), 1), noisy(None, seeds))
    one, four, sixteen = score(1), score(4), score(16)
    assert (four >= one).all() and (sixteen >= four).all() and (sixteen - one).mean() > 0.3
    with pytest.raises(InputError, match="among 1 and more: got 0"):
        chosen(noisy, None, seeds, texts, Eye(), 0)


def test_every_candidate_is_told_the_text_of_its_sample():
    def told(cond: Cond, seeds) -> Tensor:
        assert len(cond) == len(seeds) == 12
        assert cond["label"].value.tolist() == [2] * 4 + [0] * 4 + [1] * 4
        return noisy(cond, seeds)

    chosen(told, Cond(label=[2, 0, 1]), sample_seeds(0, 3), ["blue", "red", "green"], Eye(), 4)


def test_a_model_is_drawn_from_with_a_choice():
    from reverie.core.batch import DataSpec
    from reverie.core.condition import Text
    from reverie.families.token_config import PartiConfig
    from reverie.nets.config import TextConfig
    from reverie.spaces.config import SpaceConfig

    space = SpaceConfig(name="vq", patch=4, dims=4, codes=8, width=8)
    config = PartiConfig(
        width=16, depth=1, heads=2, text=TextConfig(width=8, depth=1, heads=2), space=space, dropout=0.0
    )
    model = config.build(DataSpec((3, 8, 8), {"text": Text(8)}, (), "made"), 0)
    model.net.space.codebook.codes.normal_()
    model.net.codebook.copy_(model.net.space.codebook.codes)
    plain = rv.sample(model, text=["red", "blue"], seed=3)
    assert torch.equal(rv.measure.reranked(model, ["red", "blue"], Eye(), of=1, seed=3), plain)
    eight = rv.measure.reranked(model, ["red", "blue"], Eye(), of=8, seed=3)
    gain = ((Eye().pictures(eight) - Eye().pictures(plain)) * Eye().texts(["red", "blue"])).sum(1)
    assert eight.shape == (2, 3, 8, 8) and (gain >= 0).all() and gain.max() > 0.01
    assert rv.measure.reranked(model, "red", Eye(), n=3, of=2).shape == (3, 3, 8, 8)
