"""Self-guidance by attention (Epstein et al. 2023): where an object is, how large, of which shape and look, steered by its token's map.

A network that reads a text attends from every place to every token; the map of a token, ``A_k(y, x)``, says where its object is going to
be. An energy on these maps is differentiated in x_t and added to the score, ``s − scale·∇ g``, on top of any other guidance.

    move = rv.guide.position(token=2, to=(0.5, 0.2))
    rv.sample(rv.guide.attention(rv.guide.cfg(denoise, 5.0), move, scale=20.0), cond=…)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.guide.contrast import checked, strength
from reverie.guide.energy import Gradient
from reverie.guide.gradient import add_score, fit, trace
from reverie.nets import taps


class Seen(NamedTuple):
    """What an evaluation shows: ``maps`` (B, tokens, h, w) by cross-attention site, mean over heads; ``features`` (B, C, h, w) by site."""

    maps: dict[str, Tensor]
    features: dict[str, Tensor]

    def split(self, k: int) -> "list[Seen]":
        """What each of k branches of the batch shows."""
        maps, features = ({site: value.chunk(k) for site, value in seen.items()} for seen in self)
        return [Seen(*({site: v[i] for site, v in seen.items()} for seen in (maps, features))) for i in range(k)]


Property = Callable[[Seen], Tensor]
"""What was seen -> (B,), small where the object is as wanted."""


def position(token: int, to: tuple[float, float]) -> Property:
    """``|centroid(A_k) − to|₁``, the centre of mass of a token's map; (y, x) in [0, 1], from the top left (eq. 4)."""

    def energy(seen: Seen) -> Tensor:
        return _mean(seen, lambda a: (centroid(a[:, token]) - torch.tensor(to).to(a)).abs().sum(1))

    return energy


def size(token: int, to: float) -> Property:
    """``|mean of the object's shape − to|``: the share of the picture that it covers (eq. 5)."""
    return lambda seen: _mean(seen, lambda a: (outline(a[:, token]).mean((1, 2)) - to).abs())


def shape(token: int, to: Tensor) -> Property:
    """``mean |object's shape − to|``, ``to`` (1 or B, H, W) in [0, 1], resized to each map (eq. 7)."""

    def energy(seen: Seen) -> Tensor:
        def one(a: Tensor) -> Tensor:
            target = interpolate(fit("the shape", to, a)[:, None], a.shape[2:], mode="area")[:, 0]
            return (outline(a[:, token]) - target).abs().mean((1, 2))

        return _mean(seen, one)

    return energy


def look(token: int, to: Tensor, site: str) -> Property:
    """``mean |appearance − to|`` (eq. 8); ``to`` (1 or B, C) as :func:`appearance` gives it, of this picture or another."""
    return lambda seen: (appearance(seen, token, site) - fit("the look", to, seen.features[site])).abs().mean(1)


def appearance(seen: Seen, token: int, site: str) -> Tensor:
    """The mean feature (B, C) at a site over the shape of a token's object, the shapes of all maps averaged."""
    features = seen.features[site]
    shapes = [interpolate(outline(a[:, token])[:, None], features.shape[2:], mode="area") for a in seen.maps.values()]
    weight = torch.stack(shapes).mean(0)
    return (weight * features).sum((2, 3)) / weight.sum((2, 3))


def centroid(a: Tensor) -> Tensor:
    """Centre of mass of maps (B, h, w), (B, 2) as (y, x) in [0, 1]."""
    y, x = ((torch.arange(n, dtype=a.dtype, device=a.device) + 0.5) / n for n in a.shape[1:])
    total = a.sum((1, 2))
    return torch.stack([(a.sum(2) * y).sum(1) / total, (a.sum(1) * x).sum(1) / total], dim=1)


def outline(a: Tensor, sharpness: float = 10.0) -> Tensor:
    """Maps (B, h, w) softly thresholded at half their range, again in [0, 1]: the shape of an object (eq. 6)."""
    return _unit(torch.sigmoid(sharpness * (_unit(a) - 0.5)))


class Attentive(Gradient):
    """See :func:`attention`."""

    def __init__(self, base: Denoiser, energy: Property, scale: Scalar, features: Sequence[str]) -> None:
        super().__init__(base)
        self.energy, self.scale = energy, checked(scale)
        attending = [site for site, place in taps.find(base, taps.sites(base)).items() if place.attention]
        self.places, self.features = taps.find(base, attending), taps.find(base, features)

    @property
    def smooth(self) -> bool:
        return False  # the energies are of absolute values, their gradients jump

    def look_at(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None = None) -> tuple[Estimate, Seen]:
        """The base's estimate, and what its attention and features were under the condition."""
        seen = Seen({}, {})

        def look(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
            if at.cross:
                seen.maps[at.site] = as_grid(conditional(at.probabilities(q, k).mean(1), len(x), at), self.shape)
            return at.attend(q, k, v)

        def take(value: Tensor, at: taps.At) -> None:
            seen.features[at.site] = conditional(value, len(x), at)

        call = (call or Call()).changed(taps.AttentionEdit(self.places, dict.fromkeys(self.places, look)))
        call = call.changed(taps.Edit(self.features, dict.fromkeys(self.features, take)))
        estimate = self.base(x, point, cond, call)
        if not seen.maps:
            raise InputError(
                "attention guidance steers the map of a token: it needs a network with cross-attention to a text (a U-Net with context), "
                "and a text as condition"
            )
        return estimate, seen

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point, seen = self.point(t, x), []

        def evaluate(x: Tensor) -> Estimate:
            estimate, what = self.look_at(x, point, cond, call)
            seen.append(what)
            return estimate

        estimate, k = trace(evaluate, x), 1 if call is None else max(1, len(call.branches))
        gradient = estimate.vjp(torch.cat([self.energy(part) for part in seen[0].split(k)]))
        if isinstance(point.alpha, float) and point.alpha == 0.0:
            return estimate.replace(estimate.out)  # no score shifts an estimate at pure noise
        return add_score(estimate, -strength(self.scale, 2.0 * point.lam, x, call) * gradient)


def attention(denoise: Denoiser, energy: Property, scale: Scalar = 1.0, features: Sequence[str] = ()) -> Denoiser:
    """Steer objects by the attention to their tokens: :func:`position`, :func:`size`, :func:`shape`, :func:`look`, or any sum of them.

    An evaluation costs one of the base, and one pass back.

    Args:
        denoise: a network with cross-attention, classifier-free guided or not (then the conditional branch is looked at).
        energy: what was seen -> (B,).
        scale: of the energy's gradient; a number or one a sample, (B,).
        features: sites whose features are wanted, for :func:`look`.

    Raises:
        InputError: (when called) with gradients off, or for a network without cross-attention.
    """
    return Attentive(denoise, energy, scale, features)


def _mean(seen: Seen, f: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([f(a) for a in seen.maps.values()]).mean(0)


def _unit(a: Tensor) -> Tensor:
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    return (a - low) / (high - low).clamp(min=torch.finfo(a.dtype).eps)


def conditional(value: Tensor, rows: int, at: taps.At) -> Tensor:
    """Of the branches that a guide inside has made of a batch of ``rows``, the one named "cond"."""
    k = len(value) // rows
    names = [name.rpartition("/")[2] for name in at.branches[:: max(1, len(at.branches) // k)]]
    return value.chunk(k)[names.index("cond")] if k > 1 and "cond" in names else value


def as_grid(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Probabilities (B, places, tokens) as maps (B, tokens, h, w) of the picture's proportions."""
    h = round((a.shape[1] * shape[1] / shape[2]) ** 0.5)
    return a.mT.unflatten(2, (h, a.shape[1] // h))
