"""``reverie data inspect|pack|encode``."""

from importlib import import_module

from reverie.core.errors import InputError, nearest

KINDS = {
    "inspect": "what a data set holds: kinds, sizes, classes, duplicates, what cannot be read, and a contact sheet",
    "pack": "pictures as shards: a few large files in place of many small ones",
    "encode": "the codes of a data set in a space, made once for all runs",
}


def main(arguments: list[str]) -> int | None:
    width = max(map(len, KINDS))
    kinds = "\n".join(f"  {name:<{width}}  {text}" for name, text in KINDS.items())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: reverie data WHAT …\n\nPictures before training.\n\n{kinds}\n\nreverie data WHAT --help says more."
        )
        return 0
    if arguments[0] not in KINDS:
        raise InputError(
            f"there is nothing called data {arguments[0]!r}; there is: {', '.join(KINDS)}.{nearest(arguments[0], KINDS)}"
        )
    return import_module(f"reverie.cli.data_{arguments[0]}").main(arguments[1:])
