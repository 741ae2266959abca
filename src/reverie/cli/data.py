"""``reverie data inspect|pack|encode``."""

from reverie.cli.kinds import dispatch

KINDS = {
    "inspect": "what a data set holds: kinds, sizes, classes, duplicates, what cannot be read, and a contact sheet",
    "pack": "pictures as shards: a few large files in place of many small ones",
    "encode": "the codes of a data set in a space, made once for all runs",
}


def main(arguments: list[str]) -> int | None:
    return dispatch("data", "Pictures before training.", KINDS, arguments)
