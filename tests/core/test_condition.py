"""Conditions: immutable, length 1 or B, present or not."""

import pytest
import torch

from reverie.core.condition import Cond, Entry, Label
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
