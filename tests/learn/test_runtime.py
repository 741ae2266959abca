"""Where a process stands among others, from its launcher's environment."""

import pytest

from reverie.cli import main
from reverie.core.errors import InputError
from reverie.learn.runtime import Runtime, launched

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WHOLE = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    """Sets the launcher's variables to these and no others."""

    def set_to(values: dict[str, str]) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"MASTER_ADDR": "x", "MASTER_PORT": "1"}, (0, 1, 0)),
        (WHOLE, (3, 8, 1)),
        ({key: value for key, value in WHOLE.items() if key != "LOCAL_RANK"}, (3, 8, 3)),
        (WHOLE | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1, 0)),
    ],
)
def test_what_a_launcher_says(environment, values, expected):
    environment(values)
    assert launched() == expected
    assert (Runtime.choose("cpu").rank, Runtime.choose("cpu").world) == expected[:2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        *(
            ({key: value for key, value in WHOLE.items() if key != name}, f"lacks {name}")
            for name in NAMES
            if name != "LOCAL_RANK"
        ),
        ({"RANK": "1"}, "lacks WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "lacks RANK, MASTER_ADDR, MASTER_PORT"),
        ({"LOCAL_RANK": "0"}, "lacks RANK, WORLD_SIZE"),
        (WHOLE | {"MASTER_ADDR": ""}, "lacks MASTER_ADDR"),
        (WHOLE | {"RANK": "x"}, "RANK is a whole number from 0 to 7; got 'x'"),
        (WHOLE | {"RANK": "8"}, "RANK is a whole number from 0 to 7; got '8'"),
        (WHOLE | {"RANK": "-1"}, "got '-1'"),
        (WHOLE | {"RANK": "\u0663"}, "RANK is a whole number"),
        (WHOLE | {"WORLD_SIZE": "0"}, "WORLD_SIZE is a whole number from 1"),
        (WHOLE | {"LOCAL_RANK": "4"}, "LOCAL_RANK is a whole number from 0 to 3; got '4'"),
        (WHOLE | {"MASTER_PORT": "99999"}, "MASTER_PORT is a whole number from 0 to 65,535"),
    ],
)
def test_what_is_missing_or_contradicts_is_named(environment, values, says):
    environment(values)
    with pytest.raises(InputError) as raised:
        launched()
    assert says in str(raised.value) and "torchrun" in str(raised.value) and "unset" in str(raised.value)


@pytest.mark.parametrize("values", [{"RANK": "1"}, {"RANK": "x"}, {"WORLD_SIZE": "2"}])
def test_a_stray_variable_trains_nothing(environment, values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    environment(values)
    assert main(["train", "--data", "digits8", "--train.images", "64"]) == 2
    assert "torchrun" in capsys.readouterr().err and not list(tmp_path.iterdir())
