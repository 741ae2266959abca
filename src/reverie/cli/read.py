"""``reverie read probe|classify|segment|panoptic|match``."""

from reverie.cli.kinds import dispatch

KINDS = {
    "probe": "which blocks know the class, at which noise: linear probes from few labels, beside an untrained network",
    "classify": "how far into the noise one classifier on a block knows the class, beside an untrained network",
    "segment": "label the pixels of pictures from a few labelled ones",
    "panoptic": "find all things of a picture, each with its outline and class (ODISE)",
    "match": "which place of a picture is which place of another",
}


def main(arguments: list[str]) -> int | None:
    return dispatch("read", "What a run has learned.", KINDS, arguments)
