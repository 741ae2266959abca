"""Encoders: a few pictures in, an adapter out, in one pass; what learns that sees many subjects.

``A = E(x_1 … x_K)`` has the numbers of an adapter of a frozen base. It is trained by the loss that trained the base, on another picture of
the same subject drawn through what is predicted, ``E‖(p, q)-prediction of (x_t; A) − (p·x0 + q·ε)‖²``: the gradient passes the base and
ends in the encoder. As what comes out is an adapter like any other, it is applied, scaled, joined and saved as others are, and training
goes on from it for the few steps that are left (``fit(..., start=…)``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import Adapted, unmerged
from reverie.adapt.encoder_config import EncodedConfig, HyperDreamBoothConfig
from reverie.adapt.hyperdreambooth import relaxed
from reverie.adapt.looking import Looking, Predicted, Predictor
from reverie.adapt.pictures import Together, mask_of
from reverie.core.batch import Around, Batch, Dataset
from reverie.core.condition import Cond, Entry
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task
from reverie.diffusion.beside import Beside

if TYPE_CHECKING:
    from reverie.adapt.encoder_config import FromPicturesConfig

RELAXED = 4
"""The rank of tuning from a prediction of HyperDreamBooth."""
TOKEN = "<subject>"
"""Of the adapters of an encoder, before they are given another."""


class AdapterEncoder(Beside[Predictor]):
    """What a run of an encoder gives: ``encoder(images, "<mine>")`` is an adapter of its base.

    Attributes:
        prompt: how pictures were called in training, of a model of texts; {} where the token stands.
    """

    def __init__(self, base: NetDenoiser, net: Predictor, prompt: str) -> None:
        super().__init__(base, net)
        self.prompt = prompt

    def __repr__(self) -> str:
        return f"AdapterEncoder({self.net.adapter})"

    @torch.no_grad()
    def __call__(
        self, images: Tensor, token: str = "<mine>", masks: Tensor | None = None, like: str | None = None
    ) -> Adapter:
        """The adapter of a subject.

        Args:
            images: (N, C, H, W) in [−1, 1], of the size of the base's; their order makes no difference.
            token: how the subject is called.
            masks: where it is, (N, 1, H, W), 1 there; everywhere without.
            like: the word that the token is in the text, of an encoder that leaves it as it is.

        Raises:
            InputError: for pictures of another shape or that are not finite, masks of another size, a token of another form, or an encoder
                that looks at whole pictures or says the word itself.
        """
        wanted = self.base.space.data_shape(self.base.shape)
        if images.ndim != 4 or not len(images) or images.shape[1:] != wanted or not images.isfinite().all():
            said = ", ".join(map(str, wanted))
            raise InputError(f"pictures are (N, {said}) in [−1, 1] and finite: got shape {tuple(images.shape)}")
        if masks is not None and not self.net.masked:
            raise InputError(f"{self.net.adapter.method} looks at whole pictures: leave the masks out")
        if masks is not None and masks.shape != (len(images), 1, *wanted[1:]):
            raise InputError(f"there is a mask (1, {wanted[1]}, {wanted[2]}) of each picture: got {tuple(masks.shape)}")
        if like is not None and not self.net.named:
            raise InputError(f"{self.net.adapter.method} says itself what a subject is like: leave {like!r} out")
        first = next(self.net.parameters())
        said = self.net(images[None].to(first), None if masks is None else masks[None].to(first))
        mine, numbers = copy.deepcopy(self.net.adapter), said.numbers
        if like is not None:
            mine.rows[TOKEN] = nn.Parameter(tokens.beginning(self.base, like).to(first))
        mine.load_state_dict({name: value[0] for name, value in numbers.items()}, strict=False)
        names = {known: token[:-1] + known.removeprefix(TOKEN[:-1]) for known in mine.tokens}
        rows = {names[known]: row.detach() for known, row in mine.rows.items()}
        likes = {names[known]: like for known, like in mine.likes.items()}
        sights = {} if said.sight is None else {token: said.sight.kept()}
        return Adapter(mine.method, mine.base, mine.changes, rows, likes, sights).requires_grad_(False)


def encode(
    encoder: AdapterEncoder,
    images: Tensor,
    token: str = "<mine>",
    masks: Tensor | None = None,
    like: str | None = None,
) -> Adapter:
    """The adapter that an encoder predicts of pictures (N, C, H, W) of a subject: see :meth:`AdapterEncoder.__call__`."""
    return encoder(images, token, masks, like)


def build(config: FromPicturesConfig, base: NetDenoiser, seed: int) -> AdapterEncoder:
    """A fresh encoder: what it predicts of any subject is the base, told of what all subjects are.

    Raises:
        InputError: when the settings do not fit the model.
    """
    likes: dict[str, int] = {}
    if config.like is not None and base.conditioner.text is None:
        likes[TOKEN] = tokens.class_number(base, config.like)
    rows = {TOKEN: tokens.beginning(base, config.like)}
    if base.conditioner.text is not None and "{}" not in config.prompt:
        raise InputError(
            f"a prompt says by {{}} where the subject stands, such as 'a photo of {{}}': got {config.prompt!r}"
        )
    base.net.eval().requires_grad_(False)
    adapter = Adapter(config.name, fingerprint(base.net), config.changes(base.net, seed), rows, likes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdapterEncoder(base, config.predictor(Looking(base, config.net, config.width), adapter), config.prompt)


def predicted(config: EncodedConfig, encoder: Any, data: Dataset, held_out: Dataset) -> Adapter:
    """What an encoder says of all pictures of a folder.

    Raises:
        InputError: when it is none.
    """
    if not isinstance(encoder, AdapterEncoder):
        raise InputError(f"--encoder is a run of an encoder, such as reverie train e4t: {config.encoder} is none")
    both = Together(data, held_out) if len(held_out) else data
    batch = both.batch(range(len(both)))
    like = config.like if encoder.net.named else None
    adapter = encoder(batch.x, config.token or "<mine>", batch.extra.get("mask"), like)
    light = adapter.method == HyperDreamBoothConfig.name
    if config.rank is not None and not (light and config.tune):
        raise InputError("--rank is that of training on from a prediction of hyperdreambooth: leave it out")
    return relaxed(adapter, encoder.base.net, config.rank or RELAXED) if light and config.tune else adapter


class Each(nn.Module):
    """A network with an adapter a sample.

    Args:
        net: with the adapter whose numbers are predicted.
        numbers: of B samples, by their names in the adapter, (B, …).
    """

    def __init__(self, net: Adapted, numbers: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net, self.numbers = net, {f"adapter.{name}": value for name, value in numbers.items()}

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """``(B, …)``, a time () or (B,) and what B samples are told -> what the network gives of each."""
        told = {name: {k: v for k, v in cond[name]._asdict().items() if v is not None} for name in cond or ()}  # pyright: ignore[reportOptionalSubscript]

        def one(numbers: dict[str, Tensor], x: Tensor, time: Tensor, told: dict[str, dict[str, Tensor]]) -> Tensor:
            entries = {name: _alone(entry) for name, entry in told.items()}
            return functional_call(self.net, numbers, (x[None], time[None], Cond(**entries) if entries else None))[0]

        with sdpa_kernel(SDPBackend.MATH):  # the fused product has no rule for a batch of batches
            return vmap(one)(self.numbers, x, time.expand(len(x)), told)


def _alone(entry: Mapping[str, Tensor]) -> Entry:
    """The entry of one sample as that of a batch of it."""
    value, present, rest = entry["value"], entry["present"], {k: v[None] for k, v in entry.items()}
    return Entry(value[None], rest.get("mask"), present[None], rest.get("null"), rest.get("null_mask"))


class Encoding(Task):
    """The base's own task under the adapter that an encoder predicts from other pictures of the same subject, ``extra["shown"]``.

    Args:
        model: the encoder and its base.
        own: makes of a model the task that trains it on pictures and what it is told of them.
        held_out: pictures of subjects that training does not see.
    """

    def __init__(self, model: AdapterEncoder, own: Callable[[Any], Task], held_out: Batch | None = None) -> None:
        self.model, self.own, self.held_out = model, own, held_out
        self.beside = unmerged(model.base, model.net.adapter)
        self.players = {
            "encoder": Player(model.net),
            "base": Player(self.beside.net, optim=None, average=False, train=False, saved="none"),
        }

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        said = self.said(batch)
        return {**self.parts(batch, said, rng, progress), **said.parts}

    def said(self, batch: Batch, by: int = 0) -> Predicted:
        """What the encoder says of the subjects of a batch, or of those that stand so many further back in it."""
        shown, masks = batch.extra["shown"].roll(by, 0), batch.extra.get("masks")
        return self.model.net(shown, None if masks is None else masks.roll(by, 0))

    def parts(self, batch: Batch, said: Predicted, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """The base's own loss of a batch."""
        return self.of(batch.x, said, rng, progress)

    def of(self, images: Tensor, said: Predicted, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """The base's own loss of pictures (B, C, H, W), each under its own adapter."""
        model, net = copy.copy(self.beside), self.beside.net
        assert isinstance(net, Adapted)
        model.net = Each(net, said.numbers)
        task = self.own(model)
        return task.loss(next(iter(task.players)), Batch(images, self.told(said, len(images))), rng, progress)

    def told(self, said: Predicted, count: int) -> Cond | None:
        """What the base is told of so many pictures: of classes the token, whose row is in the network; of texts a prompt each, with rows
        of its own in the place of the token."""
        if not self.model.net.adapter.tokens:
            return None
        if self.model.base.conditioner.text is None:
            return self.beside.conditioner(label=TOKEN).expand(count).to(self.model.base.device)
        name = f"rows.{TOKEN}"
        rows = said.numbers[name] if name in said.numbers else [self.model.net.adapter.rows[TOKEN]] * count
        each = {f"<subject-{i}>": row for i, row in enumerate(rows)}
        other = copy.copy(self.beside.conditioner)
        other.text = tokens.learner(self.model.base.conditioner.text).spoken(each)  # pyright: ignore[reportArgumentType]
        return other([self.model.prompt.replace("{}", token) for token in each])

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return self.own(self.beside).describe(batch, rng, progress)

    @torch.no_grad()
    def validate(self) -> dict[str, float | list[float]]:
        """Of subjects that training does not see: the ``loss``, and ``exchanged``, where the encoder is shown those of another one."""
        if self.held_out is None:
            return {}
        rng, now, n = Draws(0, 0, len(self.held_out)), Moment(0, 0, 1), len(self.held_out)
        batch = self.held_out.to(self.model.base.device)
        own, other = (self.parts(batch, self.said(batch, by), rng, now) for by in (0, n // 2))
        return {"loss": _sum(own), "exchanged": _sum(other)}


def _sum(parts: Mapping[str, Tensor]) -> float:
    return float(torch.stack([part.mean() for part in parts.values()]).sum())


class Subjects(Around):
    """Pictures with, as ``extra["shown"]`` (B, K, C, H, W), the K that follow of the same subject, the first after the last. Where pictures
    have maps, ``extra["mask"]`` (B, 1, H, W) and ``extra["masks"]`` (B, K, 1, H, W) say where it is.

    Args:
        data: pictures with labels, one a subject.
        subjects: which of them.
        shown: K.

    Raises:
        InputError: for pictures without labels.
    """

    def __init__(self, data: Dataset, subjects: Sequence[int], shown: int) -> None:
        super().__init__(data)
        labels = labels_of(data)
        self.rows = torch.isin(labels, torch.tensor(subjects)).nonzero()[:, 0]
        self.others = torch.empty(len(labels), shown, dtype=torch.int64)
        for subject in subjects:
            rows = (labels == subject).nonzero()[:, 0]
            self.others[rows] = torch.stack([rows.roll(-1 - k) for k in range(shown)], 1)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = self.rows[torch.as_tensor(positions, dtype=torch.int64)]
        own, other = self.data.batch(rows), self.data.batch(self.others[rows].flatten())
        extra, (mask, masks) = {"shown": other.x.unflatten(0, (len(rows), -1))}, map(mask_of, (own, other))
        if mask is not None and masks is not None:
            extra |= {"mask": mask, "masks": masks.unflatten(0, (len(rows), -1))}
        return Batch(own.x, None, extra)


def labels_of(data: Dataset) -> Tensor:
    """The subject of each picture, (N,).

    Raises:
        InputError: for pictures without labels.
    """
    labels: Tensor | None = getattr(data, "labels", None)
    if labels is None:
        raise InputError("an encoder learns from many subjects, a folder of pictures each: this data has no labels")
    return labels


def parted(data: Dataset, shown: int, share: float = 0.1) -> tuple[Subjects, Subjects]:
    """The pictures of all subjects but the last tenth, and those of that, which training does not see.

    Raises:
        InputError: for pictures without labels, or of fewer than three subjects.
    """
    known: list[int] = labels_of(data).unique().tolist()
    if len(known) < 3:
        raise InputError(
            f"an encoder learns what subjects have apart from many of them, a folder each: got {len(known)}"
        )
    cut = len(known) - max(1, round(share * len(known)))
    cut -= len(known) - cut == 1 and len(known) > 3  # of one alone nothing could be exchanged
    return Subjects(data, known[:cut], shown), Subjects(data, known[cut:], shown)
