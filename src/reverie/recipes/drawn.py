"""What a PNG that ``reverie sample`` or ``reverie edit`` wrote says of itself, in chunks of text, and how a sample is drawn again.

``reverie`` is JSON: the ``verb``, the ``run`` and its ``checkpoint``, the SHA-256 of its ``weights``, the ``seed``, the ``settings`` of
drawing, the ``flags`` of the command, and ``index``, the number of the picture among those that were drawn, if each is a file of its own.
``recipe`` is the run's, as YAML.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.text import shown
from reverie.learn.checkpoint import Checkpoint, Damaged
from reverie.recipes import serialisation, yaml12
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run

KEY, RECIPE = "reverie", "recipe"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How a picture was drawn.

    Attributes:
        run: absolute folder of the run.
        checkpoint: name of the checkpoint's folder.
        weights: SHA-256 of its averaged weights.
        flags: of the command, without the run and ``--out``.
        recipe: the run's at that time; its section ``sample`` is what the flags stand on.
        index: of the picture; None for all in a grid.
    """

    run: str
    checkpoint: str
    weights: str
    flags: tuple[str, ...]
    recipe: Recipe
    index: int | None = None


def chunks(
    run: Run, flags: Sequence[str], settings: Any, seed: int, index: int | None = None, verb: str = "sample"
) -> dict[str, str]:
    """The text of a picture that was drawn; ``settings`` are a dataclass or a dict that JSON takes."""
    checkpoint = run.checkpoint
    said = {
        "verb": verb,
        "run": str(run.folder.absolute()),
        "checkpoint": checkpoint.folder.name,
        "weights": _weights(checkpoint),
        "seed": seed,
        "settings": settings if isinstance(settings, dict) else asdict(settings),
        "flags": list(flags),
        "index": index,
    }
    return {"Software": "Reverie", KEY: json.dumps(said), RECIPE: serialisation.dump(run.recipe)}


def read(path: Path) -> Drawn:
    """What a picture says of itself.

    Raises:
        InputError: when it is no PNG that `reverie sample` wrote.
    """
    text = image_files.texts(path)
    try:
        said = json.loads(text[KEY])
        if said.get("verb", "sample") != "sample":
            raise ValueError("it was edited, not drawn")
        names = {key: str(said[key]) for key in ("run", "checkpoint", "weights")}
        flags, index = tuple(map(str, said["flags"])), said["index"]
        if index is not None and type(index) is not int:
            raise ValueError("index is no whole number")
        recipe = serialisation.from_dict(yaml12.load(text[RECIPE]), f"the recipe in {path}")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} does not say how it was drawn: --like takes a PNG that reverie sample wrote, unchanged"
        ) from error
    return Drawn(**names, flags=flags, recipe=recipe, index=index)


def find(drawn: Drawn, folder: Path | None) -> Path:
    """The checkpoint with the weights that drew a picture, in the run it names or in another folder; where they are gone, what is there
    instead, and a line that says so.

    Raises:
        InputError: when there is no such run.
    """
    run = Run(drawn.run if folder is None else folder)
    if run.chosen is not None and _is(run.chosen, drawn):
        return run.chosen.folder
    for checkpoint in reversed(run.checkpoints.all() if run.chosen is None else []):
        if _is(checkpoint, drawn):
            return checkpoint.folder
    print(
        shown(
            f"the weights that drew it ({drawn.checkpoint}) are not in {run.folder}: other ones draw, so the picture is another"
        ),
        file=sys.stderr,
    )
    return run.checkpoint.folder


def _weights(checkpoint: Checkpoint) -> str:
    return checkpoint.digest("ema")


def _is(checkpoint: Checkpoint, drawn: Drawn) -> bool:
    try:
        return _weights(checkpoint) == drawn.weights
    except (Damaged, KeyError, TypeError):
        return False
