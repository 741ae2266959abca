"""Self-guided diffusion (Hu et al. 2023): conditions that nobody wrote, from the features of any encoder, or of the model itself.

The chain is: features of the training pictures, an annotation made of them, a model trained on the annotation as its condition, and samples
under annotations drawn from the training pictures. An annotation is a cluster of whole pictures (:func:`clusters`), the box of what stands
out (:func:`boxes`) or a map of parts (:func:`masks`); guidance is then classifier-free, as with labels.

    features = judge(pictures)                                # (N, d), or rv.read.features(denoise, pictures, …)
    data = rv.guide.clusters(rv.data.load("mnist5k"), features, k=50)
    …                                                         # train on data, as on labels
    cond = rv.Cond(label=data.labels[rv.guide.draw(len(data), n=64, seed=0)])
    rv.sample(rv.guide.cfg(denoise, 2.0), cond=cond)
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, one_hot

from reverie.core.errors import InputError
from reverie.core.noise import normal_rows
from reverie.data import ImageSet


def clusters(images: ImageSet, features: Tensor, k: int, seed: int = 0) -> ImageSet:
    """The pictures with their k-means cluster as label, 0 … k−1.

    Args:
        images: the training pictures; whatever labels they have are replaced.
        features: (N, d) of the pictures, in Euclidean distance.
        k: how many clusters (the paper has up to 5,000, of 200 pictures and more).
        seed: of the initialisation; 30 iterations of Lloyd's algorithm follow.

    Raises:
        InputError: for features of other pictures, more clusters than pictures, or without scikit-learn.
    """
    if features.ndim != 2 or len(features) != len(images):
        raise InputError(
            f"features are (N, d) with a row for each of {len(images)} pictures: got {tuple(features.shape)}"
        )
    return replace(images, labels=_kmeans(features, k, seed), classes=[f"cluster {i}" for i in range(k)])


def masks(features: Tensor, k: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Parts: k-means over the features of all places of all pictures.

    Args:
        features: (N, d, h, w), a feature at each place; compared by direction.
        k: how many parts.
        size: (H, W) of the pictures.
        seed: of k-means.

    Returns:
        (N, k, H, W) float, 1 where a place belongs to a part: the value of an image condition of k channels.

    Raises:
        InputError: for features without places, or more parts than places.
    """
    grid = _places(features)
    flat = grid.permute(0, 2, 3, 1).flatten(0, 2)
    found = _kmeans(flat, k, seed).reshape(grid.shape[0], *grid.shape[2:])
    return interpolate(one_hot(found, k).permute(0, 3, 1, 2).float(), size=size, mode="nearest")


def boxes(features: Tensor, size: tuple[int, int], similar: int = 100) -> Tensor:
    """The box of what stands out in each picture (LOST, Siméoni et al. 2021).

    Places are joined where their features, about the picture's mean, have a positive product. The place with the fewest joins is taken as
    part of the object; of the ``similar`` places with the fewest joins, those joined to it speak for the object, and the connected
    region around it of places that agree with them on the whole is boxed.

    Args:
        features: (N, d, h, w).
        size: (H, W) of the pictures.
        similar: places that may speak for the object (the paper's k).

    Returns:
        (N, 1, H, W) float, 1 inside the box.

    Raises:
        InputError: for features without places, or without scipy.
    """
    try:
        from scipy.ndimage import label as connected
    except ImportError:
        raise InputError("boxes needs scipy: pip install scipy") from None
    grid = _places(features - features.mean((2, 3), keepdim=True))
    n, _, h, w = grid.shape
    tokens = grid.flatten(2).mT
    product = tokens @ tokens.mT
    degree = (product >= 0).sum(2)
    out = torch.zeros(n, 1, h, w)
    for i in range(n):
        order = degree[i].argsort(stable=True)
        seed = int(order[0])
        speakers = order[:similar][product[i, seed, order[:similar]] >= 0]
        agreeing = (product[i, speakers].sum(0) >= 0).reshape(h, w)
        region = np.asarray(connected(agreeing.numpy())[0])  # pyright: ignore[reportIndexIssue]
        y, x = np.nonzero(region == region[seed // w, seed % w])
        out[i, 0, y.min() : y.max() + 1, x.min() : x.max() + 1] = 1.0
    return interpolate(out, size=size, mode="nearest")


def draw(count: int, n: int, seed: int = 0) -> Tensor:
    """``n`` rows out of ``count`` training pictures, (n,): their annotations are a draw from the training histogram.

    Row i of a seed is the same whatever ``n`` is.
    """
    uniform = torch.special.ndtr(torch.from_numpy(normal_rows([f"{seed}/{i}/annotation" for i in range(n)], 1)[:, 0]))
    return (uniform * count).long().clamp(max=count - 1)


def _places(features: Tensor) -> Tensor:
    if features.ndim != 4:
        raise InputError(f"features with a place each are (N, d, h, w): got {tuple(features.shape)}")
    return normalize(features.detach().float(), dim=1)


def _kmeans(features: Tensor, k: int, seed: int) -> Tensor:
    """Cluster of each row, (N,) int64."""
    if not 1 <= k <= len(features):
        raise InputError(f"k is from 1 to the {len(features)} rows of features: got {k}")
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise InputError("clusters come from scikit-learn, which is not installed: pip install scikit-learn") from None
    means = KMeans(k, n_init=1, max_iter=30, random_state=seed)  # pyright: ignore[reportArgumentType]
    found = means.fit_predict(features.detach().float().cpu().numpy())
    return torch.from_numpy(found.astype(np.int64))
