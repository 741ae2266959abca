"""Conditions: immutable, length 1 or B, present or not."""

import pytest
import torch

from reverie.core.condition import Cond, Entry, Image, Label, Tokens, Vector, entry_of
from reverie.core.errors import InputError


def test_a_number_is_one_and_expands() -> None:
    cond = Cond(label=7)
    assert len(cond) == 1 and cond["label"].value.tolist() == [7] and cond["label"].present.tolist() == [True]
    wide = cond.expand(3)
    assert len(wide) == 3 and wide["label"].value.tolist() == [7, 7, 7] and len(cond) == 1
    assert len(Cond()) == 1 and "label" in cond and list(cond) == ["label"] and "7" in repr(cond)


def test_null_and_drop_are_one_operation() -> None:
    cond = Cond(label=[1, 2, 3])
    assert cond.null()["label"].present.tolist() == [False] * 3 and cond.null()["label"].value.tolist() == [1, 2, 3]
    dropped = cond.drop(torch.tensor([True, False, True]))
    assert dropped["label"].present.tolist() == [True, False, True]
    assert cond["label"].present.all()  # untouched
    assert dropped.drop(torch.tensor([False, True, True]))["label"].present.tolist() == [False, False, True]


def test_index_cat_and_lengths() -> None:
    cond = Cond(label=[4, 5, 6], style=1)
    assert len(cond) == 3 and cond["style"].value.tolist() == [1, 1, 1]
    assert cond.index([2, 0])["label"].value.tolist() == [6, 4]
    assert cond.index(slice(1, None))["label"].value.tolist() == [5, 6]
    assert cond.cat(cond.index([0]))["label"].value.tolist() == [4, 5, 6, 4]
    with pytest.raises(InputError, match="one length"):
        Cond(a=[1, 2], b=[1, 2, 3])
    with pytest.raises(InputError, match="different entries"):
        Cond(a=1).cat(Cond(b=1))
    with pytest.raises(InputError, match="conditions for 3 samples, 5"):
        cond.expand(5)


def test_token_sequences_are_padded_and_masked() -> None:
    def tokens(length: int) -> Cond:
        return Cond(text=Entry(torch.ones(1, length, 2), None, torch.ones(1, dtype=torch.bool)))

    joined = tokens(2).cat(tokens(3))["text"]
    assert joined.value.shape == (2, 3, 2) and joined.mask is not None
    assert joined.mask.tolist() == [[True, True, False], [True, True, True]] and joined.value[0, 2].tolist() == [
        0.0,
        0.0,
    ]


def test_what_is_checked() -> None:
    spec = {"label": Label(10)}
    Cond(label=[0, 9]).check(spec)
    Cond(label=99).null().check(spec)  # an absent value is not read
    with pytest.raises(InputError, match="label 10 is out of range: the model knows classes 0 to 9"):
        Cond(label=[3, 10]).check(spec)
    with pytest.raises(InputError, match="label -1 is out of range"):
        Cond(label=-1).check(spec)
    with pytest.raises(InputError, match="Did you mean 'label'"):
        Cond(lable=3).check(spec)
    with pytest.raises(InputError, match="whole number"):
        Cond(label=0.5).check(spec)
    with pytest.raises(InputError, match="it takes: nothing"):
        Cond(label=1).check({})


def _text(length: int, rows: int = 1, real: int | None = None) -> Entry:
    mask = None if real is None else (torch.arange(length) < real).expand(rows, length)
    return Entry.of(torch.arange(1.0, rows * length * 2 + 1).reshape(rows, length, 2), mask)


def test_a_network_reads_its_null_where_nothing_is_present() -> None:
    cond = Cond(label=[1, 2, 3], style=torch.ones(3, 4)).drop(torch.tensor([True, False, True]))
    assert entry_of(cond, "label", torch.tensor(9), 3).value.tolist() == [1, 9, 3]
    assert entry_of(cond, "style", torch.full((4,), 0.5), 3).value[:, 0].tolist() == [1.0, 0.5, 1.0]
    assert entry_of(None, "label", torch.tensor(9), 2).value.tolist() == [9, 9]
    assert entry_of(Cond(other=1), "label", torch.tensor(9), 2).value.tolist() == [9, 9]
    assert entry_of(Cond(label=4), "label", torch.tensor(9), 3).value.tolist() == [4, 4, 4]
    nan = Cond(style=torch.full((1, 4), torch.nan)).null()
    assert entry_of(nan, "style", torch.zeros(4), 1).value.tolist() == [[0.0] * 4]


def test_a_null_of_another_length_pads() -> None:
    cond = Cond(text=_text(3, 2, real=2)).drop(torch.tensor([True, False]))
    entry = entry_of(cond, "text", torch.full((4, 2), 7.0), 2)
    assert entry.mask is not None
    assert entry.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(entry.value[0, :3], cond["text"].value[0]) and (entry.value[1] == 7.0).all()
    short = entry_of(cond, "text", torch.full((1, 2), 7.0), 2)
    assert short.mask is not None and short.mask.tolist() == [[True, True, False], [True, False, False]]
    whole = entry_of(Cond(text=_text(3)), "text", torch.zeros(3, 2), 1)
    assert whole.mask is None  # equal lengths without padding need no mask


def test_a_replaced_null_comes_before_the_network_s() -> None:
    mine = torch.full((1, 4), 0.25)
    cond = Cond(style=torch.ones(2, 4)).with_null(style=mine)
    assert entry_of(cond, "style", torch.zeros(4), 2).value[:, 0].tolist() == [1.0, 1.0]  # present: not used
    assert entry_of(cond.null(), "style", torch.zeros(4), 2).value[:, 0].tolist() == [0.25, 0.25]
    both = cond.null().cat(cond).index([1, 2]).to("cpu")
    assert entry_of(both, "style", torch.zeros(4), 2).value[:, 0].tolist() == [0.25, 1.0]
    mine = mine.requires_grad_()
    entry_of(
        Cond(style=torch.ones(2, 4)).with_null(style=mine).null(), "style", torch.zeros(4), 2
    ).value.sum().backward()
    assert mine.grad is not None and mine.grad.tolist() == [[2.0] * 4]
    with pytest.raises(InputError, match="Did you mean 'style'"):
        cond.with_null(stile=mine)
    with pytest.raises(InputError, match="nulls were replaced"):
        cond.cat(Cond(style=torch.ones(1, 4)))


def test_what_vectors_tokens_and_images_check() -> None:
    spec = {"style": Vector(4), "text": Tokens(2, 5), "edge": Image(3)}
    Cond(style=torch.ones(1, 4), text=_text(5, real=2), edge=torch.ones(1, 3, 8, 6)).check(spec)
    Cond(style=torch.full((1, 4), torch.nan)).null().check(spec)  # an absent value is not read
    for wrong, message in [
        ({"style": torch.ones(1, 3)}, r"\(B, 4\), floating: got torch.float32 of shape \(1, 3\)"),
        ({"style": torch.ones(1, 4, dtype=torch.long)}, "floating: got torch.int64"),
        ({"style": torch.full((1, 4), torch.inf)}, "not finite"),
        ({"text": torch.ones(1, 6, 2)}, "1 to 5 vectors of 2 numbers.* got length 6"),
        ({"text": torch.ones(1, 2)}, "sequence"),
        ({"text": _text(3, real=0)}, "sample 0 of text is all padding"),
        ({"text": Entry.of(torch.ones(1, 3, 2), torch.ones(1, 2, dtype=torch.bool))}, "the mask of text"),
        ({"edge": torch.ones(1, 1, 8, 8)}, "3 channels"),
    ]:
        with pytest.raises(InputError, match=message):
            Cond(**wrong).check(spec)


def test_pictures_of_other_sizes_do_not_join() -> None:
    with pytest.raises(InputError, match=r"cannot join conditions of shapes \(1, 3, 4, 4\) and \(1, 3, 8, 8\)"):
        Cond(edge=torch.ones(1, 3, 4, 4)).cat(Cond(edge=torch.ones(1, 3, 8, 8)))
