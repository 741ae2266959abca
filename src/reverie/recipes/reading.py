"""Recipes from YAML and back, strictly: a key or type that does not fit is an error that says what would."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from reverie.core import bounds, files
from reverie.core.errors import InputError, nearest
from reverie.nets.config import CONFIGS, DiTConfig
from reverie.recipes import yaml12
from reverie.recipes.recipe import Recipe

NAMED = Path(__file__).parent / "named"
SEAL = "# sha256: "
"""Begins the last line of a run's recipe: the SHA-256 of the text before it."""


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


def read(path: Path, sealed: bool = False) -> Recipe:
    """The recipe in a YAML file, with defaults for what it leaves out.

    Args:
        path: the file.
        sealed: it is a run's own: what :func:`write` wrote must be unchanged.

    Raises:
        InputError: for text that is not YAML, an unknown key (with the nearest one), a value of the wrong type or out of range.
    """
    try:
        text = path.read_bytes().decode()
        values = yaml12.load(text)
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    body, seal, digest = text.rpartition(SEAL)
    if sealed and seal and digest != f"{_digest(body)}\n":
        raise InputError(
            f"{path} is not as it was written: its SHA-256 is another than its last line says. Restore it, or remove that line "
            "if you changed the recipe of a run on purpose."
        )
    return from_dict({} if values is None else values, str(path))


def from_dict(values: Any, source: str = "the recipe") -> Recipe:
    """The recipe of nested mappings; ``source`` names it in errors.

    Raises:
        InputError: as :func:`read`.
    """
    recipe = _convert(values, Recipe, "", source)
    bounds.check(recipe, lambda key: f"{source}: {key}")
    return recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested mappings of YAML values; ``net`` begins with its ``name``."""
    values = _plain(recipe)
    return {**values, "net": {"name": net_name(recipe), **values["net"]}}


def write(recipe: Recipe, path: Path) -> None:
    """Write a run's recipe; its last line is the SHA-256 of the others."""
    text = dump(recipe)
    files.write(path, f"{text}{SEAL}{_digest(text)}\n")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return yaml12.dump(to_dict(recipe))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
            f"{source}: {key} is one of {', '.join(choices)}; got {short(value)}.{nearest(short(value), choices)}"
        )
    elif expected is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{source}: {key} is {_describe(expected)}; got {short(value)} ({type(value).__name__})")


def _section(values: Any, expected: Any, key: str, source: str) -> Any:
    if not isinstance(values, dict):
        what = f"{key} is a section" if key else "a recipe is a mapping"
        raise InputError(f"{source}: {what} of keys and values; got {short(values)} ({type(values).__name__})")
    hints = get_type_hints(expected, include_extras=True)
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in hints:
            known = [*hints, "name"] if key == "net" else list(hints)
            raise InputError(
                f"{source}: unknown key {prefix}{str(name)[:99]}; there is: {', '.join(known)}.{nearest(str(name)[:99], known)}"
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
    return InputError(f"{where} is one of {', '.join(CONFIGS)}; got {short(name)}.{nearest(short(name), CONFIGS)}")


def _describe(expected: Any) -> str:
    if get_origin(expected) is tuple:
        return "a list of " + ", ".join("…" if kind is Ellipsis else kind.__name__ for kind in get_args(expected))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(expected, str(expected))
