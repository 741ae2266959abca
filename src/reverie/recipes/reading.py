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
from reverie.core.task import TaskConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.nets.config import CONFIGS, NetConfig
from reverie.recipes import tasks
from reverie.recipes.recipe import Recipe

NAMES: dict[Any, str] = {config: name for name, config in CONFIGS.items()}
"""The names of networks by their configurations."""
NAMED = Path(__file__).parent / "named"
BOUNDS: dict[str, tuple[float, float]] = {
    "drop": (0, 1),
    "train.lr": (0, math.inf),
    "train.adam_lr": (0, math.inf),
    "train.weight_decay": (0, math.inf),
    "train.warmup": (0, math.inf),
    "train.clip": (0, math.inf),
    "train.betas": (0, 1),
    "train.ema_std": (0.001, 0.28),
    "seed": (0, 2**40),
    "space.kl": (0, math.inf),
    "kl": (0, math.inf),
    "adversarial": (0, math.inf),
    "smoothing": (0, 1),
}
"""Smallest and largest value of what is not simply at least 1."""
FREE = {"data_std", "times_mean", "times_std", "sample.scale", "sample.guide_below"}


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
    if not isinstance(values, dict):
        return _section(values, Recipe, "", source)
    rest = _present(values)
    given = rest.get("task", {})
    given = {"name": given} if isinstance(given, str) else given
    if not isinstance(given, dict):
        return _section(given, TaskConfig, "task", source)
    keys = {key: value for key, value in given.items() if key != "name"}
    chosen = tasks.config(given.get("name", DenoisingConfig.name), f"{source}: task.name")
    task = _section(keys, chosen, "task", source)
    sample = _section(rest.pop("sample", {}), chosen.Sample, "sample", source)
    recipe = _section({key: value for key, value in rest.items() if key != "task"}, Recipe, "", source)
    return dataclasses.replace(recipe, task=task, sample=sample)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe of the layout before tasks, in which a denoiser's settings had sections of their own, as one of today's."""
    if "task" in values or not {"net", "space", "denoising"} & set(values):
        return dict(values)
    rest = {key: value for key, value in values.items() if key not in ("net", "space", "denoising")}
    net, space = ({key: values[key]} if key in values else {} for key in ("net", "space"))
    task = {**(values.get("denoising") or {}), **net, **space}
    if isinstance(values.get("net"), dict) and values["net"].get("name") == "encoder":
        names = {field.name for field in dataclasses.fields(tasks.config("classifier"))}
        own = {key: value for key, value in values["net"].items() if key != "name"}
        rest.pop("sample", None)
        return {**rest, "task": {"name": "classifier", **{k: v for k, v in task.items() if k in names}, "net": own}}
    return {**rest, "task": {"name": "denoising", **task}}


def check(recipe: Recipe) -> None:
    """Raise an :class:`InputError` for a number out of range: sizes, counts and durations are at least 1, or as by default."""
    usual = dict(_flat(to_dict(Recipe(task=type(recipe.task)()))))
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
    """The recipe as nested mappings of YAML values; ``task`` begins with its ``name``, and so does a network."""
    return _plain(recipe)


def write(recipe: Recipe, path: Path) -> None:
    files.write(path, yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True))


def describe(task: TaskConfig) -> str:
    """A task in a word or two: its network if it has one to choose, its name."""
    network = NAMES.get(type(getattr(task, "net", None)))
    return (
        task.name if network is None else network if task.name == DenoisingConfig.name else f"{task.name} ({network})"
    )


def difference(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) wherever two recipes differ; None where one has no such key."""
    a, b = dict(_flat(to_dict(old))), dict(_flat(to_dict(new)))
    return [(key, a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys as flags have them: those of the task without a prefix, its name as "task"."""
    for key, value in values.items():
        if key == "task" and isinstance(value, dict):
            yield "task", value["name"]
            yield from _flat({k: v for k, v in value.items() if k != "name"})
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        name = type(value).name if isinstance(value, TaskConfig) else NAMES.get(type(value))
        return fields if name is None else {"name": name, **fields}
    return list(value) if isinstance(value, tuple) else value


def _convert(value: Any, expected: Any, key: str, source: str) -> Any:
    """``value`` as the type that an annotation asks for."""
    if get_origin(expected) is Annotated:
        return _convert(value, get_args(expected)[0], key, source)
    if dataclasses.is_dataclass(expected):
        return _section(value, expected, key, source)
    if get_origin(expected) in (Union, UnionType):
        options = get_args(expected)
        if all(dataclasses.is_dataclass(option) for option in options):
            return _net(value, key, source)
        if value is None and NoneType in options:
            return None
        fitting = (option for option in options if isinstance(value, list | tuple) == (get_origin(option) is tuple))
        return _convert(value, next((o for o in fitting if o is not NoneType), options[0]), key, source)
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
    hints = get_type_hints(expected, include_extras=True)
    hints = {field.name: hints[field.name] for field in dataclasses.fields(expected)}
    if isinstance(values, str) and key and "name" in hints:
        values = {"name": values}
    if not isinstance(values, dict):
        what = f"{key} is a section" if key else "a recipe is a mapping"
        raise InputError(f"{source}: {what} of keys and values; got {values!r} ({type(values).__name__})")
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in hints:
            there = f"there is: {', '.join(hints)}" if hints else "there is nothing to choose"
            raise InputError(f"{source}: unknown key {prefix}{name}; {there}.{nearest(str(name), hints)}")
    return expected(**{name: _convert(value, hints[name], prefix + name, source) for name, value in values.items()})


def _net(values: Any, key: str, source: str) -> Any:
    """The section of a network: its ``name`` chooses which keys there are."""
    rest = {"name": values} if isinstance(values, str) else dict(values) if isinstance(values, dict) else values
    if not isinstance(rest, dict):
        return _section(values, CONFIGS["dit"], key, source)
    name = rest.pop("name", "dit")
    return _section(rest, network(name, f"{source}: {key}.name"), key, source)


def network(name: Any, where: str) -> type[NetConfig]:
    """The configuration of a network by its name.

    Raises:
        InputError: for an unknown one, with the nearest.
    """
    if not isinstance(name, str) or name not in CONFIGS:
        raise InputError(f"{where} is one of {', '.join(CONFIGS)}; got {name!r}.{nearest(str(name), CONFIGS)}")
    return CONFIGS[name]


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
