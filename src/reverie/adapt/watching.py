"""What words look at while an adapter is trained: the maps of cross-attention of the model beside it."""

from __future__ import annotations

from torch import Tensor

from reverie.adapt.applying import Adapted
from reverie.adapt.tokens import Model
from reverie.core.call import Now
from reverie.nets import places, taps


class Seen:
    """What was looked at. A copy of a network that is watched fills a copy of it: its hook is a method."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def see(self, q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        if at.cross:
            self.maps.append(at.probabilities(q, k))
        return at.attend(q, k, v)


def watch(beside: Model) -> list[Tensor]:
    """A list that fills with the probabilities (B, heads, places, tokens) of every cross-attention whenever the model runs, in its order.

    Args:
        beside: what :func:`reverie.adapt.applying.unmerged` gave; it is watched from now on.
    """
    assert isinstance(beside.net, Adapted)
    seen = Seen()
    sites = [site for site, place in places.of(beside.net.shell).items() if place.attention]
    edit = taps.AttentionEdit(taps.find(beside.net.shell, sites, attention=True), dict.fromkeys(sites, seen.see))
    beside.net.shell = edit(beside.net.shell, Now())
    return seen.maps
