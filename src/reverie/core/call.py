"""A call: what one evaluation of a denoiser is told besides the state, the point and the condition.

Which branches its batch holds, what in the network is read or changed (:mod:`reverie.nets.taps`), what counts it, and which faster form of
the network serves it. Denoisers that are made of others hand it on; it belongs to no module and to no process, so that calls of one network
in several threads know nothing of each other. A call that changes something runs a copy of the network that shares its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from reverie.core.count import Count
from reverie.core.errors import InputError, RunError

if TYPE_CHECKING:
    from reverie.core.condition import Cond
    from reverie.core.schedules import Point


class Now:
    """One evaluation under way: its branches and point, the sites where something acted, and whether it has ended."""

    __slots__ = ("branches", "fired", "over", "point")

    def __init__(self, branches: tuple[str, ...] = (), point: Point | None = None) -> None:
        self.branches, self.point = branches, point
        self.fired: set[str] = set()
        self.over = False


class Change(Protocol):
    """Makes of a network another that shares its weights, for one evaluation; it notes in ``now`` the sites where it acted."""

    @property
    def sites(self) -> Collection[str]: ...

    def __call__(self, net: nn.Module, now: Now) -> nn.Module: ...


Faster = Callable[[nn.Module, Tensor, "Cond | None"], Callable[..., Any]]
"""(network, x, cond) -> what to run in its place, or the network itself."""


class Call(NamedTuple):
    """What a call is told.

    A batch may hold several named copies of the same samples, branch-major: first all of one branch, then all of the next. Guidance
    evaluates ("null", "cond") this way, editing ("source", "edit"). Samples never mix, branches may.

    Args:
        branches: their names, in the order of the leading axis; () for a plain batch.
        changes: of the network; the first acts first.
        counts: of passes through networks.
        faster: another form of a network.
    """

    branches: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    counts: tuple[Count, ...] = ()
    faster: Faster | None = None

    def within(self, names: Sequence[str]) -> Call:
        """The call of a batch made of these branches of this one's; each name joins theirs as "outer/inner", the inner axis leading."""
        outer = self.branches
        return self._replace(branches=tuple(f"{o}/{b}" for b in names for o in outer) if outer else tuple(names))

    def changed(self, change: Change) -> Call:
        """The call with a change that acts before those it has: what is nearer to the network comes first."""
        return self._replace(changes=(change, *self.changes)) if change.sites else self

    def counted(self, count: Count) -> Call:
        return self._replace(counts=(*self.counts, count))

    def served(self, faster: Faster) -> Call:
        return self._replace(faster=faster)

    def plain(self) -> Call:
        """The call without changes: for another network than the one they were made for."""
        return self._replace(changes=())

    def count(self, out: Tensor, forward: bool = True) -> None:
        """Note a pass that gave ``out``, see :meth:`Count.add`."""
        for each in self.counts:
            each.add(out, forward)

    def run(self, net: Any, point: Point, x: Tensor, time: Tensor, cond: Cond | None, **context: Any) -> Tensor:
        """``net(x, time, cond)`` as this call has it."""
        if self.faster is not None:
            other = self.faster(net, x, cond)
            net = other if isinstance(other, nn.Module) or not self.changes else net  # what is compiled is not changed
        if self.changes:
            out = run(net, self.changes, Now(self.branches, point), x, time, cond, **context)
        else:
            out = net(x, time, cond, **context)
        self.count(out)
        return out

    def outside(self, what: str) -> None:
        """Raise an :class:`InputError` if the call changes something: it cannot reach inside of ``what``."""
        if self.changes:
            names = ", ".join(site for change in self.changes for site in change.sites)
            raise InputError(
                f"{names} cannot be reached inside of {what}: it has no network, or its __call__ does not take the argument call "
                "and hand it on to the denoiser it is made of"
            )


def run(net: nn.Module, changes: Sequence[Change], now: Now, *args: Any, **kwargs: Any) -> Any:
    """``net(*args, **kwargs)`` with changes, uncompiled.

    Raises:
        RunError: when the call passed a site of theirs by.
    """
    net = getattr(net, "_orig_mod", net)
    for change in changes:
        net = change(net, now)
    try:
        out = net(*args, **kwargs)
    finally:
        now.over = True
    missed = [site for change in changes for site in change.sites if site not in now.fired]
    if missed:
        raise RunError(
            f"the call did not pass {', '.join(missed)}, so nothing was read or changed there; it passed "
            f"{', '.join(sorted(now.fired)) or 'none of the sites it was told of'}"
        )
    return out


def per_branch(value: Tensor, rows: int, call: Call | None) -> Tensor:
    """``value`` (B, …), one a sample, for the ``rows`` of a call's batch: repeated for each of its branches."""
    k = 1 if call is None else len(call.branches)
    return value.repeat(k, *(1,) * (value.ndim - 1)) if k > 1 and value.ndim and len(value) * k == rows else value
