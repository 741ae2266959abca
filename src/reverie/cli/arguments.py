"""A verb's flags, from its dataclass."""

from typing import TypeVar

import tyro

from reverie.core import bounds

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], verb: str) -> T:
    """What was given to ``reverie verb``, held to the bounds of its flags.

    Raises:
        InputError: for a value out of bounds.
        SystemExit: for what is no flag, and after ``--help``.
    """
    given = tyro.cli(kind, args=arguments, prog=f"reverie {verb}")
    bounds.check_bounds(given, lambda key: f"--{key.replace('_', '-')}")
    return given
