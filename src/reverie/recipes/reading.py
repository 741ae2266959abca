"""Recipes from YAML and back, strictly: a key or type that does not fit is an error that says what would."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from reverie.core import files
from reverie.core.errors import InputError, nearest
from reverie.nets.config import CONFIGS, DiTConfig
from reverie.recipes.recipe import Recipe

NAMED = Path(__file__).parent / "named"
BOUNDS: dict[str, tuple[float, float]] = {
    "denoising.drop": (0, 1),
    "train.lr": (0, math.inf),
    "train.adam_lr": (0, math.inf),
    "train.weight_decay": (0, math.inf),
    "train.warmup": (0, math.inf),
    "train.clip": (0, math.inf),
    "train.betas": (0, 1),
    "train.ema_std": (0.001, 0.28),
    "seed": (0, 2**40),
    "space.kl": (0, math.inf),
}
"""Smallest and largest value of what is not simply at least 1."""
FREE = {"denoising.data_std", "denoising.times_mean", "denoising.times_std", "sample.scale", "sample.guide_below"}


def named() -> list[str]:
    """The recipes that come along."""
    return sorted(path.stem for path in NAMED.glob("*.yaml"))


def find(given: str) -> Path:
    """The YAML file of a recipe given by name, by file, or by the folder of a run.

    Raises:
        InputError: when there is none.
    """
    path = Path(given).expanduser()
    if given in named():
        return NAMED / f"{given}.yaml"
    if path.is_file():
        return path
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    raise InputError(
        f"no recipe {given!r}: the recipes that come along are {', '.join(named())}, "
        f"and there is no such file, nor a run in such a folder.{nearest(given, named())}"
    )


def read(path: Path) -> Recipe:
    """The recipe in a YAML file, with defaults for what it leaves out.

    Raises:
        InputError: for text that is not YAML, an unknown key (with the nearest one) or a value of the wrong type.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return from_dict(values, str(path))


def from_dict(values: Any, source: str = "the recipe") -> Recipe:
    """The recipe of nested mappings; ``source`` names it in errors.

    Raises:
        InputError: as :func:`read`.
    """
    return _convert(values, Recipe, "", source)


def check(recipe: Recipe) -> None:
    """Raise an :class:`InputError` for a number out of range: sizes, counts and durations are at least 1, or as by default."""
    usual = dict(_flat(to_dict(Recipe(net=type(recipe.net)()))))
    for key, value in _flat(to_dict(recipe)):
        if value == usual.get(key):
            continue
        low, high = BOUNDS.get(key, (1, math.inf))
        numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int | float)]
        for number in numbers:
            if key not in FREE and not isinstance(number, bool) and not low <= number <= high:
                most = "" if high == math.inf else f" and at most {high:g}"
                raise InputError(f"{key} is at least {low:g}{most}; got {number}")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested mappings of YAML values; ``net`` begins with its ``name``."""
    values = _plain(recipe)
    return {**values, "net": {"name": net_name(recipe), **values["net"]}}


def write(recipe: Recipe, path: Path) -> None:
    files.write(path, yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True))


def net_name(recipe: Recipe) -> str:
    return next(name for name, config in CONFIGS.items() if type(recipe.net) is config)


def difference(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) wherever two recipes differ; None where one has no such key."""
    a, b = dict(_flat(to_dict(old))), dict(_flat(to_dict(new)))
    return [(key, a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _convert(value: Any, expected: Any, key: str, source: str) -> Any:
    """``value`` as the type that an annotation asks for."""
    if get_origin(expected) is Annotated:
        return _convert(value, get_args(expected)[0], key, source)
    if dataclasses.is_dataclass(expected):
        return _section(value, expected, key, source)
    if get_origin(expected) in (Union, UnionType):
        options = get_args(expected)
        if key == "net":
            return _net(value, key, source)
        if value is None and NoneType in options:
            return None
        return _convert(value, next(option for option in options if option is not NoneType), key, source)
    if get_origin(expected) is tuple:
        if isinstance(value, list | tuple):
            kinds = get_args(expected)
            kinds = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
            if len(kinds) == len(value):
                return tuple(
                    _convert(v, kind, f"{key}[{i}]", source)
                    for i, (v, kind) in enumerate(zip(value, kinds, strict=True))
                )
    elif get_origin(expected) is Literal:
        if value in get_args(expected):
            return value
        choices = get_args(expected)
        raise InputError(
            f"{source}: {key} is one of {', '.join(choices)}; got {value!r}.{nearest(str(value), choices)}"
        )
    elif expected is float:
        number = _number(value)
        if number is not None:
            return number
    elif isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{source}: {key} is {_describe(expected)}; got {value!r} ({type(value).__name__})")


def _section(values: Any, expected: Any, key: str, source: str) -> Any:
    if not isinstance(values, dict):
        what = f"{key} is a section" if key else "a recipe is a mapping"
        raise InputError(f"{source}: {what} of keys and values; got {values!r} ({type(values).__name__})")
    hints = get_type_hints(expected, include_extras=True)
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in hints:
            known = [*hints, "name"] if key == "net" else list(hints)
            raise InputError(
                f"{source}: unknown key {prefix}{name}; there is: {', '.join(known)}.{nearest(str(name), known)}"
            )
    return expected(**{name: _convert(value, hints[name], prefix + name, source) for name, value in values.items()})


def _net(values: Any, key: str, source: str) -> Any:
    """The section ``net``: its ``name`` chooses which keys there are."""
    if not isinstance(values, dict):
        return _section(values, DiTConfig, key, source)
    rest = dict(values)
    name = rest.pop("name", "dit")
    if not isinstance(name, str) or name not in CONFIGS:
        raise unknown_net(name, f"{source}: net.name")
    return _section(rest, CONFIGS[name], key, source)


def unknown_net(name: Any, where: str) -> InputError:
    return InputError(f"{where} is one of {', '.join(CONFIGS)}; got {name!r}.{nearest(str(name), CONFIGS)}")


def _number(value: Any) -> float | None:
    """YAML reads 1e-3 as text; it is meant as a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _describe(expected: Any) -> str:
    if get_origin(expected) is tuple:
        return "a list of " + ", ".join("…" if kind is Ellipsis else kind.__name__ for kind in get_args(expected))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(expected, str(expected))
