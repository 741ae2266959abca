"""Training FastComposer (Xiao et al. 2023): pictures whose captions name things, and maps that say where these are.

See :mod:`reverie.adapt.fastcomposer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.adapt.encoder import AdapterEncoder
from reverie.adapt.fastcomposer import FastComposer
from reverie.adapt.showing import Showing
from reverie.adapt.sights import WHERE
from reverie.adapt.watching import watch
from reverie.core import spelling
from reverie.core.batch import Around, Batch
from reverie.core.condition import Cond, Entry
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Task
from reverie.data import ImageSet
from reverie.guide.attention import as_grid

LAYERS = 5
"""Of cross-attention whose maps are drawn to subjects, those in the middle."""


class Composed(Around):
    """Pictures with a caption that names things of them: ``extra["maps"]`` (B, classes, H, W) says where each is, ``extra["text"]`` (B, L)
    are the bytes of the caption. Those that name nothing are left out.

    Raises:
        InputError: for pictures without captions or maps of classes, or whose captions name none of these.
    """

    def __init__(self, data: ImageSet) -> None:
        super().__init__(data)
        captions, layout = data.captions, data.layout
        if captions is None or layout is None or not layout.classes:
            raise InputError(
                "fastcomposer learns from captions, and maps of what these name: --data.captions --data.maps MASKS, with the names in "
                "MASKS/classes.txt"
            )
        self.classes = layout.classes
        rows = torch.arange(len(data))
        there = (
            torch.cat([layout.maps(some).amax((2, 3)) > 0 for some in rows.split(256)]) if len(data) else rows[:, None]
        )
        named = [
            any(on[k] for k in nouns(captions.say(i).split(), self.classes)) for i, on in enumerate(there.tolist())
        ]
        self.rows = rows[torch.tensor(named, dtype=torch.bool)]
        if len(data) and not len(self.rows):
            raise InputError(f"no caption names what its map shows: the classes are {', '.join(self.classes)}")

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        batch = self.data.batch(self.rows[torch.as_tensor(positions, dtype=torch.int64)])
        assert batch.cond is not None
        return Batch(batch.x, None, {"maps": batch.cond["image"].value, "text": batch.cond["text"].value})


def nouns(words: Collection[str], classes: Sequence[str]) -> dict[int, str]:
    """The classes that words name, by the last word of a class, and that word as it is written."""
    plain = {word.strip(".,;:!?\"'()").lower(): word for word in words}
    last = ((k, name.split()[-1].lower()) for k, name in enumerate(classes))
    return {k: plain[name] for k, name in last if name in plain}


def read(tokens: Tensor) -> str:
    """The text of a row of bytes, see :mod:`reverie.core.spelling`."""
    return bytes(n - spelling.SHIFT for n in tokens.tolist() if n >= spelling.SHIFT).decode("utf-8", "ignore")


class Composing(Showing):
    """The base's own task of a picture, told its caption with its own subjects in their nouns.

    Args:
        model, own, held_out: as of :class:`~reverie.adapt.encoder.Encoding`.
        classes: names of what maps show.
        localise: weight of where their tokens look.
        masked: share of the pictures whose error counts where subjects are.
    """

    def __init__(
        self,
        model: AdapterEncoder,
        own: Callable[[Any], Task],
        classes: Sequence[str],
        localise: float = 1e-3,
        masked: float = 0.5,
        held_out: Batch | None = None,
    ) -> None:
        super().__init__(model, own, held_out)
        self.classes, self.localise, self.masked = classes, localise, masked
        self.maps = watch(self.beside)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return self.composed(batch, rng, self.masked)

    def composed(self, batch: Batch, rng: Draws, masked: float, by: int = 0) -> dict[str, Tensor]:
        """The parts of the loss, the subjects those that stand so many further back in the batch."""
        conditioner, x = self.model.base.conditioner, batch.x
        texts = [read(row) for row in batch.extra["text"]]
        words = [conditioner.words(text) for text in texts]
        there = batch.extra["maps"].amax((2, 3)) > 0
        named = [
            {k: w for k, w in nouns(each, self.classes).items() if on[k]} for each, on in zip(words, there, strict=True)
        ]
        most = max(1, *map(len, named))
        at = [(b, j, k) for b, several in enumerate(named) for j, k in enumerate(several)]
        rows, slots, kinds = torch.tensor(at, dtype=torch.int64, device=x.device).reshape(-1, 3).unbind(1)
        net = self.model.net
        assert isinstance(net, FastComposer)
        mask = batch.extra["maps"][rows, kinds][:, None]
        seen = net.look((x[rows] * mask)[:, None]).roll(by, 0)
        subjects = seen.new_zeros(len(x), most, seen.shape[1]).index_put((rows, slots), seen)
        masks = mask.new_zeros(len(x), most, *mask.shape[2:]).index_put((rows, slots), mask[:, 0])
        told = conditioner(texts)
        text = told["text"]
        where = text.value.new_zeros(*text.value.shape[:2], most)
        for b, j, k in at:
            where[b, [p for p in words[b][named[b][k]] if p < where.shape[1]], j] = 1.0
        told = Cond(**{**{name: told[name] for name in told}, WHERE: Entry(where, None, text.present)})
        sights = [(net.sight(each), 1.0) for each in subjects.unbind(1)]
        chosen = (rng.uniform("masked") < masked).to(x.device).reshape(-1, 1, 1, 1)
        union = torch.where(chosen, masks.amax(1, keepdim=True), 1.0)
        self.maps.clear()
        parts = {"mse": self.squared(x, self.shown(sights), told, rng, union)}
        if self.localise:
            parts["astray"] = self.localise * astray(self.maps, where, masks, self.beside.shape)
        return parts

    @torch.no_grad()
    def validate(self) -> dict[str, float | list[float]]:
        """Of pictures that training does not see: the ``loss``, and ``exchanged``, where each is told the subjects of another one."""
        if self.held_out is None:
            return {}
        batch, rng = self.held_out.to(self.model.base.device), Draws(0, 0, len(self.held_out))
        n = int((batch.extra["maps"].amax((2, 3)) > 0).sum())
        own, other = (float(self.composed(batch, rng, 0.0, by)["mse"].mean()) for by in (0, n // 2))
        return {"loss": own, "exchanged": other}


def astray(maps: Sequence[Tensor], where: Tensor, masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How much more the tokens of subjects are looked at outside of them than inside, the mean over those of a picture, (B,).

    Args:
        maps: probabilities (B, heads, places, tokens) of all layers; the middle :data:`LAYERS` count.
        where: the tokens of subjects, (B, L, M).
        masks: where subjects are, (B, M, H, W); of those that are not, nowhere.
        shape: of the picture or its codes, (C, H, W).
    """
    first = max(0, (len(maps) - LAYERS) // 2)
    there = (masks.amax((2, 3)) > 0).to(where)
    layers: list[Tensor] = []
    for each in maps[first : first + LAYERS]:
        seen = as_grid(
            torch.einsum(
                "bnl,blm->bnm", each.mean(1), F.pad(where, (0, 0, 0, each.shape[3] - where.shape[1])).to(each)
            ),
            shape,
        )
        inside = F.interpolate(masks, seen.shape[2:], mode="area").to(seen)
        off = _mean(seen, 1.0 - inside) - _mean(seen, inside)
        layers.append((there * off).sum(1) / there.sum(1).clamp(min=1.0))
    return torch.stack(layers).mean(0)


def _mean(a: Tensor, weight: Tensor) -> Tensor:
    """Over places, (B, M, h, w) -> (B, M)."""
    return (weight * a).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-5)
