"""Verbs that are several, ``reverie VERB WHAT …``: each WHAT is a module of its own."""

from collections.abc import Mapping
from importlib import import_module

from reverie.core.errors import InputError, nearest


def dispatch(verb: str, about: str, kinds: Mapping[str, str], arguments: list[str]) -> int | None:
    """Run the module of a WHAT, ``VERB_WHAT`` beside this one, or say which there are.

    Args:
        about: what the verb is for, a sentence.
        kinds: what each WHAT does, by name.

    Raises:
        InputError: for one that there is not.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, kinds))
        lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in kinds.items())
        print(f"usage: reverie {verb} WHAT …\n\n{about}\n\n{lines}\n\nreverie {verb} WHAT --help says more.")
        return 0
    if arguments[0] not in kinds:
        raise InputError(
            f"there is no {verb} {arguments[0]!r}; there is: {', '.join(kinds)}.{nearest(arguments[0], kinds)}"
        )
    return import_module(f"reverie.cli.{verb}_{arguments[0]}").main(arguments[1:])
