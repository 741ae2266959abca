"""Ranges declared beside settings: which numbers pass, what is said of the others, and that no number goes undeclared."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, get_args, get_type_hints

import pytest

from reverie.core import bounds
from reverie.core.bounds import Bound, FolderName
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig
from reverie.nets.config import CONFIGS, DiTConfig
from reverie.recipes import tasks
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces.config import SpaceConfig


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [
        (Bound(ge=1), [1, 2, 10**30, 1.0, (1, 5)], [0, -1, 0.999, (1, 0), math.nan, math.inf, "1"]),
        (Bound(gt=0, le=2), [5e-324, 2, 2.0], [0, -0.0, 2.0000001, -math.inf]),
        (Bound(ge=0, lt=1), [0, -0.0, math.nextafter(1, 0), ()], [1, 1.0, -5e-324, (0.5, math.nan)]),
        (Bound(), [-1e308, 0, 10**400], [math.nan, math.inf, -math.inf, None]),
    ],
)
def test_a_bound(bound, good, bad):
    assert [bound.broken(value) for value in good] == [None] * len(good)
    assert all(bound.broken(value) for value in bad)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("", True),
        ("digits", True),
        ("Zoë 2", True),
        ("..hidden", True),
        ("not UTF-8 \udcff", True),
        *(
            (name, False)
            for name in ("../../x", "/etc", "a/b", "a\\b", "..", ".", "a\nb", "a\x1b[31m", "a\x00", "\ud800", "x" * 201)
        ),
    ],
)
def test_the_name_of_a_folder(name, good):
    assert (FolderName().broken(name) is None) == good


@dataclass
class Inner:
    rate: Annotated[float, Bound(gt=0)] | None = 1.0
    plain: float = 0.0


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    sizes: Annotated[tuple[int, ...], Bound(ge=1, le=1_000)] = (1,)


@pytest.mark.parametrize(
    ("outer", "says"),
    [
        (Outer(Inner(rate=0)), "--inner.rate is above 0; got 0"),
        (Outer(Inner(rate=math.nan)), "--inner.rate is a finite number, above 0; got nan"),
        (Outer(Inner(plain=math.inf)), "--inner.plain is a finite number; got inf"),
        (Outer(sizes=(1, 5_000)), "--sizes is at least 1 and at most 1,000; got [1, 5000]"),
    ],
)
def test_the_message_names_the_key_the_rule_and_the_value(outer, says):
    with pytest.raises(InputError) as raised:
        bounds.check_bounds(outer, lambda key: f"--{key}")
    assert str(raised.value) == says


def test_none_and_what_has_no_rule_pass():
    bounds.check_bounds(Outer(Inner(rate=None, plain=-3.0)))


@pytest.mark.parametrize(
    "config",
    [Recipe, TrainConfig, DataConfig, SampleConfig, SpaceConfig, *CONFIGS.values(), *map(tasks.config, tasks.names())],
)
def test_every_whole_number_of_a_recipe_has_its_range_and_every_default_is_in_it(config):
    bounds.check_bounds(config())
    rules, all_hints = bounds.rules_of(config), get_type_hints(config)
    hints = {name: all_hints[name] for name in rules}
    free = {"resample_filter"}  # of which any weights will do
    for name, hint in hints.items():
        whole = int in (hint, *get_args(hint), *(part for arg in get_args(hint) for part in get_args(arg)))
        assert rules[name] or not whole or name in free, name


WRONG = {
    "task": [
        ("data_std", -1.0),
        ("data_std", 0.0),
        ("times_std", math.inf),
        ("times_std", -0.1),
        ("drop", 1.5),
        ("prior", 0),
    ],
    "sample": [("scale", math.nan), ("scale", math.inf), ("guide_below", math.nan), ("steps", 10**9), ("steps", 0)],
    "train": [
        ("betas", (1.0, 1.0)),
        ("betas", (0.9, -0.1)),
        ("clip", -1.0),
        ("lr", math.inf),
        ("batch", 10**9),
        ("keep", 0),
    ],
    "task.space": [("dims", 10**9), ("kl", -1.0), ("width", 0)],
    "data": [("size", 10**9), ("channels", 0)],
    "task.net": [("depth", 10**9), ("width", 10**9), ("width", -4)],
    "": [("seed", -1), ("seed", 2**63), ("name", "../../x")],
}


def changed(config, path, value):
    """A dataclass with the value at a path of fields."""
    name, *rest = path
    return dataclasses.replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(("section", "key", "value"), [(s, k, v) for s, pairs in WRONG.items() for k, v in pairs])
def test_a_wrong_number_is_refused_on_every_way_in(tmp_path, monkeypatch, section, key, value):
    """Python, YAML, a saved run; flags meet the same check as Python."""
    import reverie as rv
    from reverie.cli import main
    from reverie.recipes import serialisation
    from reverie.recipes.runs import Run

    monkeypatch.chdir(tmp_path)
    recipe = changed(Recipe(task=DenoisingConfig(net=DiTConfig())), [*filter(None, section.split(".")), key], value)
    full = f"{section}.{key}".removeprefix("task.").lstrip(".")
    with pytest.raises(InputError, match=full):
        rv.recipes.train(recipe, tmp_path / "run")
    serialisation.write(recipe, tmp_path / "recipe.yaml")
    for read in (lambda: serialisation.load(tmp_path / "recipe.yaml"), lambda: Run(tmp_path).recipe):
        with pytest.raises(InputError, match=full):
            read()
    given = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    assert main(["train", f"--{full.replace('_', '-')}", *given]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
