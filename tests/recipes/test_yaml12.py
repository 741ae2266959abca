"""YAML by its version 1.2: what scalars mean, keys given twice, and text that both versions read alike."""

import math

import pytest
import yaml

from reverie.core.errors import InputError
from reverie.recipes import serialisation, yaml12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1:30", "1:30"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("OFF", "OFF"), ("2024-01-01", "2024-01-01")),
        *(("010", 10), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("1_000", "1_000"), ("0b11", "0b11")),
        *(("1e-3", 0.001), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf), ("1.5:30", "1.5:30")),
        *(
            ("true", True),
            ("False", False),
            ("TRUE", True),
            ("y", "y"),
            ("null", None),
            ("~", None),
            ("", None),
            ("<<", "<<"),
        ),
    ],
)
def test_plain_scalars_mean_what_they_look_like(text, value):
    read = yaml12.load(f"key: {text}")["key"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "text", ["no", "1:30", "1e3", "010", "09", "0o17", "2024-01-01", "true", "~", "", "=", "<<", "é…", "1_000", "x: y"]
)
def test_words_are_written_so_that_both_versions_read_words(text):
    written = yaml12.dump({"names": [text], text: 1})
    assert yaml12.load(written) == yaml.safe_load(written) == {"names": [text], text: 1}


@pytest.mark.parametrize("number", [0.1, 1e-7, 1e22, 5e-324, -0.0, 3, 10**15, True, None])
def test_numbers_are_written_so_that_both_versions_read_them(number):
    written = yaml12.dump({"key": number})
    for load in (yaml12.load, yaml.safe_load):
        read = load(written)["key"]
        assert read == number and type(read) is type(number)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {images: 5}\nseed: 1\ntrain: {batch: 2}", "the key train is given twice, in line 1 and in line 3"),
        ("train:\n  lr: 1\n  lr: 2", "the key lr is given twice, in line 2 and in line 3"),
        ('seed: 1\n"seed": 2', "the key seed is given twice"),
        ("? [1, 2]\n: 3", "line 1: a key is a word"),
        ("a: [1", "while parsing"),
        ("a: " + "[" * 5_000, "line 1: lists and mappings in more than 32 levels"),
        ("\n".join(" " * i + "a:" for i in range(40)), "line 33: lists and mappings in more than 32 levels"),
        ("a: " + "9" * 5_000, "a number of 5000 digits"),
        ("a: !!int 1:30", "invalid literal"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_what_is_refused(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"r\.yaml is not YAML: .*{says}"):
        serialisation.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1:30", "seed is a whole number; got '1:30'"),
        ("data: {flip: yes}", "data.flip is true or false; got 'yes'"),
        ("train: {images: 5e5}", "train.images is a whole number; got 500000.0"),
        ("train: {lr: '1e-3'}", "train.lr is a number; got '1e-3'"),
        ("name: 7", "name is text; got 7"),
        ("[]", "a recipe is a mapping"),
        ("&a [&b [1, 1], *b, *b, *b]", "a recipe is a mapping"),
    ],
)
def test_what_would_surprise_is_refused(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        serialisation.load(tmp_path / "r.yaml")
    assert says in str(raised.value)


def test_a_recipe_that_repeats_itself_by_reference_makes_no_endless_message(tmp_path):
    layers = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10) if i else '1'}]\n" for i in range(12))
    (tmp_path / "r.yaml").write_text(f"{layers}seed: *l11\n")
    with pytest.raises(InputError) as raised:
        serialisation.load(tmp_path / "r.yaml")
    assert len(str(raised.value)) < 1_000
