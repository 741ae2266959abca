"""Reference statistics: mean and covariance of the features of a data set, in the files in which papers publish them.

An npz file with ``mu`` (d,) and ``sigma`` (d, d), the unbiased covariance: so do pytorch-fid, ADM (Dhariwal & Nichol 2021,
arXiv:2105.05233) and EDM (Karras et al. 2022, arXiv:2206.00364). A batch of ADM without them holds the pictures, ``arr_0``
(n, height, width, 3), uint8. Files written here say besides how many pictures they are of (``count``) and in whose features
(``extractor``); other programs do not mind.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reverie.core import files
from reverie.core.errors import InputError
from reverie.core.progress import Progress
from reverie.data import ImageSet
from reverie.measure.extract import FeatureExtractor, ask
from reverie.measure.pictures import from_bytes

ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The moments of features.

    Attributes:
        name: of the data set or file, as figures are called after it.
        version: what tells it from another of the same name: the split of a data set, the first digits of the SHA-256 of a file.
        extractor: whose features; for a file that does not say, the one that it was read for.
        count: of how many pictures; 0 if the file does not say.
        mean: (d,), float64.
        covariance: (d, d), float64, unbiased.
    """

    name: str
    version: str
    extractor: str
    count: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @classmethod
    def of(cls, data: ImageSet, extractor: FeatureExtractor) -> "Statistics":
        """Those of all pictures of a data set.

        Raises:
            InputError: for fewer than two.
        """
        pictures = (data.batch(rows).x for rows in torch.arange(len(data)).split(ROWS))
        mean, covariance = _moments(pictures, len(data), extractor)
        return cls(
            name=data.name,
            version=data.split,
            extractor=extractor.name,
            count=len(data),
            mean=mean,
            covariance=covariance,
        )

    @classmethod
    def load(cls, path: Path, extractor: FeatureExtractor) -> "Statistics":
        """Those of a file, to compare features of ``extractor`` with. Of a file of pictures they are taken now.

        Raises:
            InputError: if it cannot be read, holds neither statistics nor pictures, or those of other features.
        """
        content = _read(path)
        count, taken = content.get("count", 0), content.get("extractor", extractor.name)
        if "mu" in content:
            mean, covariance = (_numbers(path, key, content[key]) for key in ("mu", "sigma"))
            if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                raise InputError(
                    f"{path} holds mu of shape {tuple(mean.shape)} and sigma of shape {tuple(covariance.shape)}: "
                    "expected (d,) and (d, d)"
                )
            if (covariance - covariance.T).abs().max() > 1e-4 * covariance.abs().max():
                raise InputError(f"{path} holds a sigma that is not symmetric, and so no covariance")
        else:
            pixels = content["arr_0"]
            if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
                raise InputError(
                    f"{path} holds arr_0 of type {pixels.dtype} and shape {pixels.shape}: "
                    "expected pictures (n, height, width, 3), uint8"
                )
            pictures = (from_bytes(rows.permute(0, 3, 1, 2)) for rows in torch.from_numpy(pixels).split(ROWS))
            count, taken = len(pixels), extractor.name
            mean, covariance = _moments(pictures, count, extractor)
        if len(mean) != extractor.dim or taken != extractor.name:
            of = f"{len(mean):,} features" if taken == extractor.name else f"the {len(mean):,} features of {taken}"
            raise InputError(
                f"{path} holds statistics of {of}, and pictures are measured in the {extractor.dim:,} of {extractor.name}: "
                "take statistics of the same features; `reverie evaluate RUN --write-statistics FILE.npz` writes them"
            )
        return cls(
            name=path.name,
            version=files.sha256(path)[:8],
            extractor=taken,
            count=count,
            mean=mean,
            covariance=covariance,
        )

    def save(self, path: Path) -> None:
        """Write them to an npz file.

        Raises:
            RunError: if it cannot be written.
        """
        with files.appearing(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                mu=self.mean.numpy(),
                sigma=self.covariance.numpy(),
                extractor=np.array(self.extractor),
                count=np.array(self.count or 0),
            )


def _moments(pictures: Iterable[Tensor], count: int, extractor: FeatureExtractor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance of the features of ``count`` pictures, in float64."""
    if count < 2:
        raise InputError(f"statistics are of two pictures or more: got {count}")
    total = torch.zeros(extractor.dim, dtype=torch.float64)
    products = torch.zeros(extractor.dim, extractor.dim, dtype=torch.float64)
    with Progress("statistics", count, "pictures") as progress:
        for chunk in pictures:
            features = ask(extractor, chunk).double()
            total += features.sum(0)
            products += features.T @ features
            progress.advance(len(chunk))
    mean = total / count
    return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a file that are known here; pictures only if there are no statistics."""
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{path} is a pickle, as EDM2 writes them, and to open one is to run what it says. Where you trust it, convert it once: "
            'python -c "import pickle, numpy; '
            "numpy.savez('reference.npz', **pickle.load(open('reference.pkl', 'rb'))['fid'])\""
        )
    if not path.is_file():
        raise InputError(f"there is no file {path}: expected statistics, an npz file with mu and sigma")
    try:
        with np.load(path, allow_pickle=False) as content:
            there = content.files
            if {"mu", "sigma"} <= set(there):
                found: dict[str, Any] = {key: content[key] for key in ("mu", "sigma")}
                if {"count", "extractor"} <= set(there):
                    found |= {"count": int(content["count"]), "extractor": str(content["extractor"])}
                return found
            if "arr_0" in there:
                return {"arr_0": content["arr_0"]}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no npz file that can be read: {error}") from error
    raise InputError(f"{path} holds {', '.join(there) or 'nothing'}: expected mu and sigma, or pictures as arr_0")


def _numbers(path: Path, key: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(f"{path}: {key} is not finite numbers of floating point")
    return torch.from_numpy(array.astype(np.float64))
