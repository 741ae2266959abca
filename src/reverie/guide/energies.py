"""Ready-made energies of images: each is a function of images (B, C, H, W) in about [−1, 1] that gives one number a sample, (B,).

Targets are (1 or B, …). What looks at pixels through a measurement is one line: :func:`reverie.inverse.operators.residual`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import InputError
from reverie.guide import pixels
from reverie.guide.gradient import Energy, fit, match


def masked(target: Tensor, mask: Tensor) -> Energy:
    """``‖m·(x − target)‖``: be like the target where the mask is 1."""
    known = pixels.as_mask(mask)
    wanted = pixels.masked(target, known)

    def energy(images: Tensor) -> Tensor:
        return _distance(pixels.masked(images, known), wanted)

    return energy


def lowres(target: Tensor, factor: int = 4) -> Energy:
    """``‖down(x) − down(target)‖``: look like the target from afar. A target smaller than the image by ``factor`` is taken as it is.

    Raises:
        InputError: for a factor that is not a whole number of at least 1; when called, for images that it does not divide.
    """
    if factor < 1 or factor != int(factor):
        raise InputError(f"factor is a whole number of at least 1: got {factor}")

    def energy(images: Tensor) -> Tensor:
        small = target if target.shape[-1] * factor == images.shape[-1] else pixels.shrink(target, int(factor))
        return _distance(pixels.shrink(images, int(factor)), small)

    return energy


def colours(target: Tensor) -> Energy:
    """The distance of colour histograms: the exact Wasserstein-2 distance of the values of each channel, which are sorted for that."""

    def energy(images: Tensor) -> Tensor:
        wanted = _quantiles(fit("the target", target, images), images[0, 0].numel())
        rest = images.flatten(2).sort(dim=2).values - wanted
        return torch.linalg.vector_norm(rest.flatten(1), dim=1) / rest[0].numel() ** 0.5

    return energy


def edges(target: Tensor) -> Energy:
    """``‖S(x) − S(target)‖`` with S the Sobel derivatives of the mean of the channels: be drawn along the same lines."""

    def energy(images: Tensor) -> Tensor:
        found = sobel(images)
        rest = found - match("the target, as Sobel sees it,", sobel(target), found)
        return torch.linalg.vector_norm(rest.flatten(1), dim=1)

    return energy


def classified(classifier: Callable[[Tensor], Tensor], label: int | Sequence[int] | Tensor) -> Energy:
    """``−log p(label | x)`` by a classifier of clean images, images -> logits (B, K).

    Raises:
        InputError: (when called) for a label that the classifier does not know.
    """
    wanted = torch.as_tensor(label).reshape(-1)

    def energy(images: Tensor) -> Tensor:
        logits = classifier(images)
        labels = fit("the label", wanted, images).long()
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise InputError(
                f"the classifier knows classes 0 to {logits.shape[1] - 1}, the labels go from {int(labels.min())} to {int(labels.max())}: "
                "use a classifier of the same classes as the labels"
            )
        return F.cross_entropy(logits, labels.expand(len(images)), reduction="none")

    return energy


def similarity(encode: Callable[[Tensor], Tensor], target: Tensor) -> Energy:
    """``1 − cos(encode(x), target)``: with an image encoder and the embedding of a text by its partner, be what the text says.

    Args:
        encode: images -> (B, d).
        target: (1 or B, d).
    """

    def energy(images: Tensor) -> Tensor:
        found = encode(images)
        if found.shape[1:] != target.shape[1:]:
            raise InputError(
                f"the encoder gives embeddings of shape {tuple(found.shape[1:])}, the target is {tuple(target.shape[1:])}: "
                "encode both by partners"
            )
        return 1.0 - F.cosine_similarity(found, fit("the target", target, found), dim=1)

    return energy


def style(features: Callable[[Tensor], Sequence[Tensor]], target: Tensor) -> Energy:
    """The distance of Gram matrices, summed over layers (Gatys et al. 2016, eq. 5 without squares).

    Args:
        features: images -> activations (B, C, H, W) of some layers.
        target: images (1 or B, C, H, W) of the style.
    """
    with torch.no_grad():
        wanted = [_gram(f) for f in features(target)]

    def energy(images: Tensor) -> Tensor:
        found = [_gram(f) for f in features(images)]
        rests = [a - fit("the target", b, a) for a, b in zip(found, wanted, strict=True)]
        return torch.stack([torch.linalg.vector_norm(rest.flatten(1), dim=1) for rest in rests]).sum(0)

    return energy


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return torch.linalg.vector_norm((match("the measurement", wanted, found) - found).flatten(1), dim=1)


def _quantiles(images: Tensor, count: int) -> Tensor:
    """The sorted values of each channel, (B, C, count)."""
    values = images.flatten(2).sort(dim=2).values
    return values if values.shape[2] == count else F.interpolate(values, size=count, mode="linear")


def sobel(images: Tensor) -> Tensor:
    """The derivatives across and down of the mean of the channels, (B, 2, H, W)."""
    grey = images.mean(1, keepdim=True)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(grey) / 8.0
    kernels = torch.stack([across, across.T])[:, None]
    return F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)


def _gram(activations: Tensor) -> Tensor:
    flat = activations.flatten(2)
    return flat @ flat.mT / flat.shape[2]
