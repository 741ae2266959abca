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
from reverie.core.task import TaskConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.nets.config import CONFIGS, DEFAULT, NetConfig
from reverie.recipes import tasks, yaml12
from reverie.recipes.recipe import Recipe

NAMES: dict[Any, str] = {config: name for name, config in CONFIGS.items()}
"""The names of networks by their configurations."""
NAMED = Path(__file__).parent / "named"
RENAMED = {
    "unet": {
        "scaled": "scale_shift_norm",
        "rescale": "skip_scale",
        "project": "resample_proj",
        "filter": "resample_filter",
        "depths": "transformer_depth",
        "variance": "learn_sigma",
        "corner": "asymmetric_padding",
    },
    "dit": {"variance": "learn_sigma"},
    "uvit": {"smooth": "final_conv"},
    "mmdit": {"norm": "qk_norm", "reach": "pos_embed_max_size"},
    "jit": {"told": "context_tokens", "told_from": "context_start"},
}
"""What options of networks were called in earlier recipes, and are now."""
SEAL = "# sha256: "
"""Begins the last line of a run's recipe: the SHA-256 of the text before it."""


def named() -> list[str]:
    """The recipes that come along."""
    return sorted(path.stem for path in NAMED.glob("*.yaml"))


def located(given: str | Path) -> Path:
    """The folder of a run, or something in it: as given, or in ``runs/`` if it is only there."""
    path = Path(given).expanduser()
    beside = Path("runs") / path
    return beside if not path.exists() and beside.exists() else path


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
    if (located(given) / "recipe.yaml").is_file():
        return located(given) / "recipe.yaml"
    raise InputError(
        f"no recipe {given!r}: the recipes that come along are {', '.join(named())}, "
        f"and there is no such file, nor a run in such a folder.{nearest(given, named())}"
    )


def load(path: Path, sealed: bool = False) -> Recipe:
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
        InputError: as :func:`load`.
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
    recipe = dataclasses.replace(recipe, task=task, sample=sample)
    check_recipe(recipe, f"{source}: ")
    return recipe


def check_recipe(recipe: Recipe, source: str = "") -> None:
    """Raise an :class:`InputError` for a setting out of its bounds, named as its flag is."""
    bounds.check_bounds(recipe, lambda key: f"{source}{key.removeprefix('task.')}")


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """An earlier recipe as one of today's."""
    values = _with_task(values)
    task = values.get("task")
    if not isinstance(task, dict) or not isinstance(task.get("net"), dict):
        return values
    net, renamed = task["net"], RENAMED.get(str(task["net"].get("name", "dit")), {})
    names = {key: renamed[key] for key in net if key in renamed and renamed[key] not in net}
    return {**values, "task": {**task, "net": {names.get(key, key): value for key, value in net.items()}}}


def _with_task(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe of the layout before tasks, in which a denoiser's settings had sections of their own, in today's."""
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


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested mappings of YAML values; ``task`` begins with its ``name``, and so does a network."""
    return _plain(recipe)


def write(recipe: Recipe, path: Path) -> None:
    """Write a run's recipe; its last line is the SHA-256 of the others."""
    text = dump(recipe)
    files.write(path, f"{text}{SEAL}{_digest(text)}\n")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return yaml12.dump(to_dict(recipe))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def describe(task: TaskConfig) -> str:
    """A task in a word or two: its network if it has one to choose, its name."""
    network = NAMES.get(type(getattr(task, "net", None)))
    return (
        task.name if network is None else network if task.name == DenoisingConfig.name else f"{task.name} ({network})"
    )


def difference(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) wherever two recipes differ; None where one has no such key."""
    a, b = flat(old), flat(new)
    return [(key, a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)]


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every setting of a recipe by its key, such as ``train.lr``."""
    return dict(_flat(to_dict(recipe)))


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
        if isinstance(value, dict) and value.get("name") == getattr(expected, "name", None):  # a task inside of another
            value = {k: v for k, v in value.items() if k != "name"}
        return _section(value, expected, key, source)
    if get_origin(expected) in (Union, UnionType):
        options = get_args(expected)
        if all(dataclasses.is_dataclass(option) for option in options):
            return _net(value, key, source)
        if value is None and NoneType in options:
            return None
        named = [o for o in options if isinstance(value, dict) and getattr(o, "name", None) == value.get("name")]
        fitting = (o for o in named or options if isinstance(value, list | tuple) == (get_origin(o) is tuple))
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
            f"{source}: {key} is one of {', '.join(choices)}; got {short(value)}.{nearest(short(value), choices)}"
        )
    elif expected is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{source}: {key} is {_describe(expected)}; got {short(value)} ({type(value).__name__})")


def _section(values: Any, expected: Any, key: str, source: str) -> Any:
    hints = get_type_hints(expected, include_extras=True)
    hints = {field.name: hints[field.name] for field in dataclasses.fields(expected)}
    if isinstance(values, str) and key and "name" in hints:
        values = {"name": values}
    if not isinstance(values, dict):
        what = f"{key} is a section" if key else "a recipe is a mapping"
        raise InputError(f"{source}: {what} of keys and values; got {short(values)} ({type(values).__name__})")
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in hints:
            there = f"there is: {', '.join(hints)}" if hints else "there is nothing to choose"
            raise InputError(
                f"{source}: unknown key {prefix}{str(name)[:99]}; {there}.{nearest(str(name)[:99], hints)}"
            )
    return expected(**{name: _convert(value, hints[name], prefix + name, source) for name, value in values.items()})


def _net(values: Any, key: str, source: str) -> Any:
    """The section of a network: its ``name`` chooses which keys there are."""
    rest = {"name": values} if isinstance(values, str) else dict(values) if isinstance(values, dict) else values
    if not isinstance(rest, dict):
        return _section(values, CONFIGS[DEFAULT], key, source)
    name = rest.pop("name", DEFAULT)
    return _section(rest, network(name, f"{source}: {key}.name"), key, source)


def network(name: Any, where: str) -> type[NetConfig]:
    """The configuration of a network by its name.

    Raises:
        InputError: for an unknown one, with the nearest.
    """
    if not isinstance(name, str) or name not in CONFIGS:
        raise InputError(f"{where} is one of {', '.join(CONFIGS)}; got {short(name)}.{nearest(short(name), CONFIGS)}")
    return CONFIGS[name]


def _describe(expected: Any) -> str:
    if get_origin(expected) is tuple:
        return "a list of " + ", ".join("…" if kind is Ellipsis else kind.__name__ for kind in get_args(expected))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(expected, str(expected))
