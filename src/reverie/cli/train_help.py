"""``reverie train --help``: the network and the flags that most runs need, with their values in the recipe; ``--help-all`` is all."""

import dataclasses
from collections.abc import Iterator
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

from docstring_parser import parse

from reverie.core.text import shown
from reverie.nets.config import CONFIGS
from reverie.nets.presets import PRESETS
from reverie.recipes.recipe import Recipe

BASIC = {
    "data": ("data.name", "data.size", "data.labels"),
    "model": ("space.name", "prior", "drop"),
    "training": ("train.images", "train.batch", "train.optimizer", "train.lr", "train.device", "seed"),
    "drawing": ("sample.solver", "sample.steps", "sample.scale"),
}
"""The flags, by headings; those of the task without a prefix."""
CHOSEN = {*BASIC["data"], "train.device", "seed"}
"""What never follows from the data."""
SPELT = {"data.name": "data", "space.name": "space"}
"""The short forms."""


def text(usage: str, own: Any, recipe: Recipe, suits: bool) -> str:
    """The help.

    Args:
        usage: what the command does.
        own: the flags of the command itself, an instance.
        recipe: what the flags are on top of.
        suits: what is not given will suit the data; else it is as in ``recipe``.
    """
    width = min(get_terminal_size().columns, 120)
    lines = ["usage: reverie train [WHAT] [OPTIONS]"]
    for paragraph in usage.split("\n\n"):
        lines += ["", *wrap(" ".join(paragraph.split()), width)]

    def section(title: str, entries: list[tuple[str, str]]) -> None:
        lines.extend(["", f"{title}:"])
        for flag, words in entries:
            first, *rest = wrap(words, width - 26, break_on_hyphens=False) or [""]
            head = [f"  {flag:<22}  {first}"] if len(flag) <= 22 else [f"  {flag}", f"{'':26}{first}"]
            lines.extend([*head, *(f"{'':26}{line}" for line in rest)])

    about = {key: words for key, _, words in _leaves(own, "")}
    if hasattr(recipe.task, "net"):
        sizes = (
            f"or a published size: {', '.join(PRESETS)} (without its learned variance, which --net.learn-sigma adds)"
        )
        section("network", [(f"--net {{{','.join(CONFIGS)}}}", f"one at its defaults, {sizes}")])
    known = {key: (value, words) for key, value, words in _leaves(recipe, "")}
    for title, keys in BASIC.items():
        found = [(_spell(key), _line(*known[key], suits and key not in CHOSEN)) for key in keys if key in known]
        if found:
            section(title, found)
    section("run", [(_spell(key), about[key]) for key in ("out", "fresh", "budget")])
    closed = [_spell(key) for key, (value, _) in known.items() if value is None]
    said = f"None is said as the value of a flag, and means what its line says after `without`. {_none(closed, suits)}"
    lines += ["", *wrap(said, width, break_on_hyphens=False)]
    return shown("\n".join([*lines, "", "--help-all shows every flag there is."]))


def _none(keys: list[str], suits: bool) -> str:
    if suits:
        return "What is not given suits the data, which is looked at first."
    return f"In this recipe it is the value of {', '.join(keys)}." if keys else "In this recipe nothing is None."


def _line(value: Any, words: str, suits: bool) -> str:
    if suits:
        return f"{words} (suits the data)"
    return f"{words} ({' '.join(map(str, value)) if isinstance(value, tuple) else value})"


def _spell(key: str) -> str:
    return f"--{SPELT.get(key, key).replace('_', '-')}"


def _leaves(config: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Key, value and description of every setting; those of a task have no prefix."""
    words = {param.arg_name: param.description or "" for param in parse(type(config).__doc__ or "").params}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), "" if field.name == "task" else f"{field.name}."
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, prefix + name)
        elif "Suppress" not in str(field.type):
            yield prefix + field.name, value, " ".join(words.get(field.name, "").split())
