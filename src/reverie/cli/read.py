"""``reverie read probe|classify|segment|panoptic|match``."""

from importlib import import_module

from reverie.core.errors import InputError, nearest

KINDS = {
    "probe": "which blocks know the class, at which noise: linear probes from few labels, beside an untrained network",
    "classify": "how far into the noise one classifier on a block knows the class, beside an untrained network",
    "segment": "label the pixels of pictures from a few labelled ones",
    "panoptic": "find all things of a picture, each with its outline and class (ODISE)",
    "match": "which place of a picture is which place of another",
}


def main(arguments: list[str]) -> int | None:
    width = max(map(len, KINDS))
    kinds = "\n".join(f"  {name:<{width}}  {text}" for name, text in KINDS.items())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: reverie read WHAT …\n\nWhat a run has learned.\n\n{kinds}\n\nreverie read WHAT --help says more."
        )
        return 0
    if arguments[0] not in KINDS:
        raise InputError(
            f"there is no reading {arguments[0]!r}; there is: {', '.join(KINDS)}.{nearest(arguments[0], KINDS)}"
        )
    return import_module(f"reverie.cli.read_{arguments[0]}").main(arguments[1:])
