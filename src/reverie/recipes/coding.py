"""The codes of a data set in the space that a run trained, as the runs that work in that space ask for them."""

import tempfile
from dataclasses import replace
from pathlib import Path

from reverie.core.batch import Dataset
from reverie.core.task import Given
from reverie.data import Mirrored
from reverie.diffusion.building import coded, prepare_space
from reverie.recipes import sources
from reverie.recipes.runs import Run, load
from reverie.spaces.config import SpaceConfig


def encode(space: Run, name: str, out: Path, *, flip: bool = False, labels: bool = True) -> Dataset:
    """The codes of the training and the held-out pictures of a data set, kept in ``out``; those of training pictures are returned.

    Args:
        space: the run that trained the space, on the device where it is to work; pictures are brought to its size and colours.
        name: of the data.
        out: a folder.
        flip: those of the mirror images too.
        labels: whether the codes have the labels of the pictures.

    Raises:
        InputError: when the run gives no space, or there is no such data.
        RunError: when the codes cannot be written.
    """
    recipe = replace(space.recipe, data=replace(space.recipe.data, name=name, labels=labels))
    data, held_out = sources.load(recipe), sources.load(recipe, "test")
    device = space.device or "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = Given(data.spec, data, held_out, folder, recipe.seed, str(device), load)
        prepare_space(SpaceConfig(name=str(space.folder)), given)
        for each in (held_out, *([Mirrored(data)] if flip else [])):
            coded(each, folder, out, device)
        return coded(data, folder, out, device)
