"""Pictures with a class a pixel, for the verbs that read every place."""

from pathlib import Path
from typing import TYPE_CHECKING

from reverie.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.data import ImageSet
    from reverie.data.pixels import Fit


def labelled(data: "ImageSet", masks: Path | None, count: int, fit: "Fit", seed: int) -> "tuple[Tensor, Tensor]":
    """Pictures (N, C, H, W) with a class a pixel (N, H, W), at most ``count``.

    Args:
        masks: a folder of PNG files with the pictures' names and a class number a pixel, 255 where unknown. Without, pixels brighter than
            the middle take the class of their picture plus one, and others class 0.
        seed: of the choice.

    Raises:
        InputError: for pictures without labels or masks.
    """
    import torch

    if masks is None:
        if data.labels is None:
            raise InputError(f"{data.name} has no labels: give --masks, a folder with a class number a pixel")
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
        some = data.batch(rows)
        images, labels = some.x, some.label
        assert labels is not None
        return images, torch.where(images.mean(1) > 0.0, labels[:, None, None] + 1, 0)
    if "path" not in data.columns:
        raise InputError(f"--masks goes by the names of files, and {data.name} is no folder: give --data FOLDER")
    files = [(row, masks / Path(name).with_suffix(".png")) for row, name in enumerate(data.columns["path"])]
    there = [(row, file) for row, file in files if file.is_file()]
    if not there:
        raise InputError(f"no mask in {masks} for the {data.split} pictures of {data.name}, such as {files[0][1].name}")
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    images = data.batch([there[i][0] for i in order]).x
    return images, torch.stack([_mask(there[i][1], images.shape[-2:], fit) for i in order])


def _mask(path: Path, size: tuple[int, ...], fit: "Fit") -> "Tensor":
    """Class numbers (H, W), brought to ``size`` as the pictures are."""
    import numpy as np
    import torch
    from PIL import Image

    from reverie.core import image_files
    from reverie.data import pixels
    from reverie.read.dense_prediction.segment import IGNORE

    image = image_files.open_image(path)
    if image.mode not in ("L", "P", "1"):
        raise InputError(f"{path} is no mask: its pixels are {image.mode}, class numbers are grey or a palette")
    small = pixels.fit_to(image, (size[0], size[1]), fit, Image.Resampling.NEAREST)
    values = torch.from_numpy(np.array(small).astype(np.int64))
    return torch.where(values == 255, IGNORE, values)
