"""What ``reverie sample`` is told of places: maps, boxes, texts in regions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.cli.sample import Arguments
    from reverie.core.condition import Cond
    from reverie.core.denoiser import Denoiser
    from reverie.recipes.recipe import Recipe


def mapped(given: "Arguments", recipe: "Recipe") -> "Tensor | None":
    """What is to lie where by ``--map`` or ``--box``, (m, channels, H, W); None where neither is given.

    Raises:
        InputError: for a model that is told no maps, or one that cannot draw without; a map or a box that does not fit.
    """
    import torch

    from reverie.data import boxed, layouts, pixels
    from reverie.data.maps import painted

    classes, size = recipe.data.map_classes, recipe.data.size
    if recipe.task.maps == "boxes":
        if given.map or given.canvas is not None:
            raise InputError("this model reads boxes, --box, in pictures of its size: leave --map and --canvas out")
        return None
    if not given.map and not given.box:
        if classes is not None and not recipe.task.unlabelled:
            raise InputError(
                "this model was trained with drop 0, so it cannot draw without a map: give --map FILE or --box"
            )
        return None
    if classes is None or size is None:
        raise InputError(
            "--map and --box are for models of maps, and this one is told none: train one with --data.maps FOLDER"
        )
    if given.map and given.box:
        raise InputError("--map and --box both say what is to lie where: give one of them")
    if given.canvas is not None:
        raise InputError("maps are of the size of the model's pictures: leave --canvas out")
    if given.map:
        return torch.cat([layouts.single(path, classes, size, recipe.data.fit) for path in given.map])
    if not classes:
        raise InputError("this model is told maps of colours and no boxes: give --map FILE")
    return painted([[boxed.place(word, classes) for word in given.box]], len(classes), pixels.sides(size))


def beside(cond: "Cond | None", maps: "Tensor") -> "Cond":
    """Conditions with the maps of n pictures."""
    from reverie.core.condition import Cond

    return Cond(**{name: cond[name] for name in cond or ()}, image=maps)  # pyright: ignore[reportOptionalSubscript]


def told_boxes(given: "Arguments", opened: Any, recipe: "Recipe") -> Any:
    """A model that was taught to read boxes by ``--box``; as it is without any.

    Raises:
        InputError: for a box that does not fit.
    """
    from reverie.data import boxed

    if not given.box:
        return opened
    if opened.net.classes is None:
        return opened([boxed.phrase(word) for word in given.box])
    return opened([boxed.place(word, recipe.data.map_classes or ()) for word in given.box])


def told_in_regions(given: "Arguments", opened: Any, recipe: "Recipe") -> "Denoiser":
    """The model that is opened, told a text of its own in each ``--region``.

    Raises:
        InputError: for a model that attends to no text, a region without a text, or a mask or box that does not fit.
    """
    import torch
    from torch.nn import functional as F

    from reverie.core.conditioner import conditioner_of
    from reverie.core.denoiser import Denoiser
    from reverie.guide import regional

    if not given.text:
        raise InputError("--region says what is told in a part of the picture: say with --text what the whole is")
    if given.hint or given.canvas is not None:
        raise InputError("--region is for pictures of the model's size without hints: leave --hint and --canvas out")
    if not isinstance(opened, Denoiser):
        raise InputError(f"--region is for diffusion models that attend to a text: this is a run of {recipe.task.name}")
    regions = []
    for word in given.region:
        text, _, where = word.rpartition("=")
        if not text.strip():
            raise InputError(
                f'--region is TEXT=MASK or TEXT=TOP,LEFT,BOTTOM,RIGHT, such as "a dog=0,0.5,1,1": got {word}'
            )
        mask = F.interpolate(region(where, recipe), tuple(opened.shape[1:]), mode="area")[0, 0] >= 0.5
        with torch.no_grad():
            regions.append((mask.float(), conditioner_of(opened)(text=[text])))
    return regional(opened, regions)


def region(where: str, recipe: "Recipe") -> "Tensor":
    """A part of the model's pictures, (1, 1, H, W) of zeros and ones: that of a box in shares, or where a mask is white.

    Raises:
        InputError: for a box that is none, or a mask that cannot be read.
    """
    from reverie.data import boxed, pixels
    from reverie.data.maps import painted
    from reverie.recipes.sources import known

    if where.count(",") == 3 and not Path(where).is_file():
        box = boxed.corners(where, f"the region {where}", "TOP,LEFT,BOTTOM,RIGHT")
        return painted([[(0, *box)]], 1, pixels.sides(recipe.data.size))
    return known(Path(where), None, recipe, "the region")
