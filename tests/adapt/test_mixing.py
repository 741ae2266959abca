"""Cut-Mix-Unmix: what is shown and said, and that words look at their own halves."""

import pytest
import torch

import reverie as rv
from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.config import METHODS
from reverie.adapt.mixing import CutMixUnmix
from reverie.adapt.training import Adapting
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment

from .small import UNET, images, model, of_texts

YES, NO = torch.tensor([True]), torch.tensor([False])


def task(method: str = "lora", **how) -> CutMixUnmix:
    base = of_texts()
    rows = {token: tokens.beginning(base, word) for token, word in (("<a>", "red"), ("<b>", "blue"))}
    adapter = Adapter(method, fingerprint(base.net), METHODS[method]().changes(base.net, 0), rows)
    return CutMixUnmix(Adapting(base, adapter, None), "a {}", "{} and {}", **how)


def test_both_are_shown_side_by_side_and_said_so():
    a, b = images(1, seed=1), images(1, seed=2)
    work = task()
    for turned, (left, right), said in ((NO, (a, b), "<a> and <b>"), (YES, (b, a), "<b> and <a>")):
        x, words = work.shown(a, b, YES, turned)
        assert torch.equal(x[..., :4], left[..., :4]) and torch.equal(x[..., 4:], right[..., 4:]) and words == [said]
        x, words = work.shown(a, b, NO, turned)
        assert torch.equal(x, left) and words == [f"a {said[:3]}"]


def test_the_leak_is_the_attention_of_a_word_in_the_half_of_the_other():
    work = task()
    left = (torch.arange(16) % 4 < 2).float()
    seen = torch.zeros(1, 2, 16, 13)  # "<a> and <b>": three letters, " and ", four letters behind the first token
    seen[..., 1:4], seen[..., 9:13] = 0.5 * left[:, None], 0.3 * (1 - left)[:, None]
    work.maps = [seen]
    assert float(work.leak(["<a> and <b>"], YES, NO)) == 0.0
    assert float(work.leak(["<a> and <b>"], NO, NO)) == 0.0
    work.maps = [seen.flip(2)]  # each looks at the other's half
    expected = (8 * 3 * 0.25 + 8 * 4 * 0.09) / (8 * 3 + 8 * 4)
    assert float(work.leak(["<a> and <b>"], YES, NO)) == pytest.approx(expected)
    with_turn = work.leak(["<b> and <a>"], YES, YES)
    assert float(with_turn) != pytest.approx(expected)


@pytest.mark.parametrize("weight", [30.0, 0.0], ids=["unmix", "control: without"])
def test_unmix_moves_the_attention_to_the_own_halves(weight):
    work = task(share=1.0, unmix=weight)
    adam = torch.optim.Adam(work.players["adapter"].module.parameters(), 0.02)
    batch, leaks = Batch(images(8), extra={"other": images(8, seed=9)}), []
    for step in range(25):
        parts = work.loss("adapter", batch, Draws(0, 8 * step, 8), Moment(0, 0, 1))
        assert ("unmix" in parts) == (weight > 0)
        loss = sum(part.mean() for part in parts.values())
        rng = Draws(0, 8 * step, 8)
        mixed, turned = rng.uniform("mix") < 1.0, rng.even("side") < 0.5
        leaks.append(float(work.leak(work.shown(batch.x, batch.x, mixed, turned)[1], mixed, turned).detach().mean()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert (leaks[-1] < 0.5 * leaks[0]) == (weight > 0), leaks[-1] / leaks[0]


def test_two_subjects_are_fitted_and_what_does_not_fit_is_said():
    base = of_texts()
    adapter = rv.adapt.mixed(
        base, {"<a>": images(2), "<b>": images(3, seed=9)}, two="{} and {}", steps=2, batch=2, rate=0.1
    )
    assert adapter.method == "svdiff" and adapter.tokens == ["<a>", "<b>"]
    applied = rv.adapt.apply(base, adapter)
    assert applied.conditioner("<a> and <b>")["text"].value.isfinite().all()
    with pytest.raises(InputError, match="twice in two="):
        rv.adapt.mixed(base, {"<a>": images(2), "<b>": images(2)}, two="{} alone")
    with pytest.raises(InputError, match="a model of texts"):
        rv.adapt.mixed(model(UNET), {"<a>": images(2), "<b>": images(2)})
