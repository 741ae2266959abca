"""Pictures that are decoded when they are asked for, not once and for all: memory and disk stay as they are, however many there are."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from reverie.core import image_files
from reverie.core.errors import RunError
from reverie.core.image_files import Unreadable
from reverie.data import crossing, pixels
from reverie.data.records import Records


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Indexed as a uint8 tensor (M, C, H, W) is, by the numbers of its rows.

    Args:
        records: the encoded pictures.
        kept: of each row its position among them.
        shape: (M, C, H, W).
        mode: channels in which they are decoded; grey ones in colour become the one that they are.
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
        pictures = crossing.room((len(rows), *self.shape[1:]))
        for picture, row in zip(pictures.numpy(), rows.tolist(), strict=True):
            self._decode(row, picture)
        return pictures

    def _decode(self, row: int, out: np.ndarray) -> None:
        path = self.records.paths[self.kept[row]]
        try:
            content = self.records.read(self.kept[row])
            image = image_files.open_image(path, "L" if self.mode == 1 else "RGB", content)
        except (Unreadable, OSError) as error:
            raise RunError(
                f"{path} of {self.records.root} could be read at the start and cannot now: {error}. Bring it back, or start again "
                "without it."
            ) from error
        pixels.write(image, self.fit, out)
