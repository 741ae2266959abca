"""Pictures that are decoded when they are asked for, not once and for all: memory and disk stay as they are, however many there are."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from reverie.core import image_files
from reverie.core.errors import RunError
from reverie.core.image_files import Unreadable
from reverie.data import pixels
from reverie.data.records import Records


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Indexed as a uint8 tensor (M, C, H, W) is, by the numbers of its rows.

    Args:
        records: the encoded pictures.
        kept: of each row its position among them.
        shape: (M, C, H, W).
        mode: channels in which they are decoded, of which the first C are taken.
        fit: how they become of that size.
    """

    records: Records
    kept: list[int]
    shape: tuple[int, int, int, int]
    mode: int
    fit: pixels.Fit

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The pictures of rows (N,), uint8 (N, C, H, W).

        Raises:
            RunError: when one that could be read at the start cannot any more.
        """
        _, channels, height, width = self.shape
        pictures = _room((len(rows), height, width, self.mode))  # as Pillow has them
        for picture, row in zip(pictures.numpy(), rows.tolist(), strict=True):
            picture[:] = self._decoded(row).transpose(1, 2, 0)
        return pictures.permute(0, 3, 1, 2)[:, :channels]

    def _decoded(self, row: int) -> np.ndarray:
        path = self.records.paths[self.kept[row]]
        try:
            content = self.records.read(self.kept[row])
            image = image_files.open_image(path, "L" if self.mode == 1 else "RGB", content)
        except (Unreadable, OSError) as error:
            raise RunError(
                f"{path} of {self.records.root} could be read at the start and cannot now: {error}. Bring it back, or start again "
                "without it."
            ) from error
        return pixels.to_array(image, self.shape[2:], self.mode, self.fit)


def _room(shape: tuple[int, ...]) -> Tensor:
    """Bytes to be filled; in a worker of a loader those that the process which reads them sees, so that no copy is sent."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
