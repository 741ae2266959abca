"""The range of a setting is declared beside it, ``steps: Annotated[int, Bound(ge=1)] = 20``, and :func:`check_bounds` holds it to that.

Every way in (flags, YAML, a saved run, Python) ends in the same dataclasses, and whoever builds something from one checks it first.
"""

import dataclasses
import math
import os
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from numbers import Real
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

from reverie.core.errors import InputError


class Rule(Protocol):
    """What a value must be."""

    def broken(self, value: Any) -> str | None:
        """What is expected of a value that breaks the rule, as in "is at least 1"."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """A finite number, or a tuple of them: ge <= number, gt < number, number <= le, number < lt."""

    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf

    def broken(self, value: Any) -> str | None:
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(n, int) or (isinstance(n, Real) and math.isfinite(n)) for n in numbers):
            return f"is a finite number{self._range(', ')}"
        if all(self.ge <= n <= self.le and self.gt < n < self.lt for n in numbers):
            return None
        return f"is {self._range()}"

    def _range(self, before: str = "") -> str:
        limits = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        said = " and ".join(f"{word} {limit:,}" for word, limit in limits.items() if math.isfinite(limit))
        return said and before + said


STEPS = Bound(ge=1, le=100_000)
"""Of a solver, whose whole plan is made before it begins."""


@dataclasses.dataclass(frozen=True)
class FolderName:
    """The name of one folder, or nothing: it leads nowhere else and can be shown on a terminal."""

    def broken(self, value: Any) -> str | None:
        try:
            size = len(os.fsencode(value))
        except (TypeError, UnicodeEncodeError):
            size = math.inf
        plain = size <= 200 and not any(c in "/\\" or unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in value)
        if plain and value not in (".", ".."):
            return None
        return "is the name of a folder, without / or \\ or control characters, at most 200 bytes"


def check_bounds(config: Any, spell: Callable[[str], str] = str) -> None:
    """Hold a dataclass, and those in it, to the rules of their fields.

    Args:
        config: an instance. None is left to the types, and a float is finite also where no rule says so.
        spell: turns a dotted key into what the user wrote.

    Raises:
        InputError: for the first value that breaks its rule; it names the key, the rule and the value.
    """
    for key, value, rules in _leaves(config, ""):
        for rule in rules:
            if (expected := rule.broken(value)) is not None:
                raise InputError(f"{spell(key)} {expected}; got {_short(value)}")


def _leaves(config: Any, prefix: str) -> Iterator[tuple[str, Any, tuple[Rule, ...]]]:
    rules = rules_of(type(config))
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), prefix + field.name
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{key}.")
        else:
            numbers = isinstance(value, float) or (
                isinstance(value, tuple) and any(isinstance(v, float) for v in value)
            )
            yield key, value, rules[field.name] or ((Bound(),) if numbers else ())


@lru_cache
def rules_of(config: type) -> dict[str, tuple[Rule, ...]]:
    """The rules of each field of a dataclass."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: tuple(_rules(hints[field.name])) for field in dataclasses.fields(config)}


def _rules(hint: Any) -> Iterator[Rule]:
    """Those of an annotation, also of one choice of a union."""
    if get_origin(hint) is Annotated:
        kind, *metadata = get_args(hint)
        yield from (rule for rule in metadata if hasattr(rule, "broken"))
        yield from _rules(kind)
    elif get_origin(hint) is not tuple:
        for part in get_args(hint):
            yield from _rules(part)


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:59]}…"
