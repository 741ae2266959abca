"""A new token of what a model is told: one row of numbers beside the rows that it knows.

Of a model of classes the row joins the table of class embeddings, as a further class; of a model of texts it joins the table of its text
encoder, as a further word. It may be a row a layer (:mod:`reverie.adapt.xti`). Either way the model is told of it as of any other:
``denoise.conditioner("<mine>")``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from reverie.adapt import xti
from reverie.core.condition import Cond, Label
from reverie.core.conditioner import Conditioner, TextEncoder
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.families.token_model import TokenModel
from reverie.nets.copies import sharing
from reverie.nets.embeddings import LabelTable
from reverie.nets.prior import Prior

M = TypeVar("M", bound="NetDenoiser | TokenModel")
UNSEEN = -1e4
"""The log weight of a new class in a mixture: none, to the bit, where no label is given."""


Model = NetDenoiser | TokenModel
"""What is adapted."""


@runtime_checkable
class WordLearner(Protocol):
    """A text encoder that can be told further words."""

    def beginning(self, word: str) -> Tensor:
        """The rows of a word, (D,) or (k, D)."""
        ...

    def spoken(self, rows: Mapping[str, Tensor]) -> TextEncoder:
        """An encoder that also knows these words, each by its rows, and shares the rest; rows that ask for a gradient get it."""
        ...


def tables(net: nn.Module) -> list[str]:
    """The paths of a network's tables of classes.

    Raises:
        InputError: when it has none.
    """
    found = [path for path, module in net.named_modules() if isinstance(module, LabelTable)]
    if not found:
        raise InputError(
            f"a token joins the table of classes of a network: {type(net).__name__} has none. Leave the token out, "
            "or give a model of classes or of texts"
        )
    return found


def rows_of(net: nn.Module) -> Tensor:
    """The rows of all classes and of the null, of several tables one beside the other, (classes + 1, D)."""
    return torch.cat([net.get_parameter(f"{path}.weight").detach() for path in tables(net)], 1)


def beginning(model: Model, like: str | None) -> Tensor:
    """The row that a token begins with: that of a class or word, or without one the mean of the classes.

    Raises:
        InputError: for an unknown class, a model that is told nothing, or one whose text encoder learns no words.
    """
    text = model.conditioner.text
    if text is not None:
        return learner(text).beginning("a" if like is None else like)
    if "label" not in model.conditions:
        told = ", ".join(model.conditions) or "nothing"
        raise InputError(
            f"a token is told to a model of classes or of texts: this one is told {told}. Leave the token out"
        )
    rows = rows_of(model.net)
    return rows[:-1].mean(0) if like is None else rows[class_number(model, like)].clone()


def class_number(model: Model, like: str) -> int:
    """A class by name or number.

    Raises:
        InputError: for one that the model does not know.
    """
    known = like in model.conditioner.classes or not like.isdecimal()
    return int(model.conditioner(label=like if known else int(like))["label"].value)


def learner(text: TextEncoder) -> WordLearner:
    """The encoder as one that learns words.

    Raises:
        InputError: when it does not.
    """
    if not isinstance(text, WordLearner):
        raise InputError(
            f"the text encoder {type(text).__name__} learns no words: adapt without a token, by prompts it knows"
        )
    return text


def room(
    model: Model, net: nn.Module, rows: Mapping[str, Tensor], likes: Sequence[int | None]
) -> tuple[dict[str, str], nn.Module]:
    """A network of a model with room for tokens: where their rows go, and a copy that shares its weights.

    Args:
        model: the base.
        net: its network, perhaps with other weights.
        rows: by token; none of a model of texts goes into the network.
        likes: the class that each token is like.

    Returns:
        By the name of each table in the copy, where it is still empty, its name in ``net``; and the copy.

    Raises:
        InputError: for rows of another number of layers than the network has.
    """
    text, parts = model.conditioner.text is not None, layers(model, rows)
    if parts and parts != (count := 1 + max(xti.places(net, text).values())):
        raise InputError(
            f"a token has rows for {parts} layers, and the network listens in {count}: it is of another model"
        )
    if text or not rows:
        return {}, xti.split(net, text) if parts else net
    paths, prior = tables(net), getattr(net, "prior", None)
    shell: Any = sharing(net, [*paths, *([] if prior is None else ["prior"])])
    for path in paths:
        table = shell.get_submodule(path)
        assert isinstance(table, LabelTable)
        empty = table.weight.new_zeros(len(table.weight) + len(likes), table.embedding_dim)
        table.num_embeddings = len(empty)
        vars(table)["_parameters"] = {"weight": nn.Parameter(empty, requires_grad=False)}
    if hasattr(shell, "conditions"):
        shell.conditions = {**shell.conditions, "label": Label(shell.get_submodule(paths[0]).null)}
    if isinstance(mine := getattr(shell, "prior", None), Prior):
        _widen(mine, likes)
    if not parts:
        return {f"{path}.weight": f"{path}.weight" for path in paths}, shell
    return xti.beside(xti.split(shell, False), paths, parts)


def layers(model: Model, rows: Mapping[str, Tensor]) -> int:
    """For how many layers tokens have rows of their own; 0 where all have one for all.

    Raises:
        InputError: for tokens that differ in that number.
    """
    plain = _plain(model) if rows else 1
    found = {len(row) for row in rows.values() if row.ndim > plain}
    if len(found) > 1:
        raise InputError(
            f"tokens have rows for {' and '.join(map(str, sorted(found)))} layers: they are of different models"
        )
    return found.pop() if found else 0


def _plain(model: Model) -> int:
    """Dimensions of a row that is one for all layers."""
    text = model.conditioner.text
    return 1 if text is None else learner(text).beginning("a").ndim


def _widen(prior: Prior, likes: Sequence[int | None]) -> None:
    """Further components: those of classes again, or one of all, as wide in every direction as they are on average."""
    with torch.no_grad():
        means, share = prior.means, torch.softmax(prior.log_weights, 0)
        mean = share @ means
        inside = (prior.values - prior.rest[:, None]).sum(1)
        spread = share @ (inside + means.shape[1] * prior.rest + (means - mean).square().sum(1)) / means.shape[1]
        own = prior.axes.unflatten(1, (len(means), prior.rank)).unbind(1)
        new: dict[str, list[Tensor]] = {"means": [], "axes": [], "centres": [], "values": [], "rest": []}
        for like in likes:
            if like is None:
                nothing = prior.axes.new_zeros(len(prior.axes), prior.rank)
                found = (mean, nothing, nothing[0], spread.expand(prior.rank), spread)
            else:
                found = (means[like], own[like], prior.centres[like], prior.values[like], prior.rest[like])
            for values, value in zip(new.values(), found, strict=True):
                values.append(value)
        unseen = prior.log_weights.new_full((len(likes),), UNSEEN)
        buffers = {name: torch.cat([getattr(prior, name), torch.stack(v)]) for name, v in new.items() if name != "axes"}
        buffers |= {
            "axes": torch.cat([prior.axes, *new["axes"]], 1),
            "log_weights": torch.cat([prior.log_weights, unseen]),
        }
        vars(prior)["_buffers"] = {**prior._buffers, **buffers}  # those of the copy alone


def hearing(model: M, net: nn.Module, rows: Mapping[str, Tensor]) -> M:
    """The model with another network, told further tokens; what was measured of it with its own network is forgotten."""
    other: Any = copy.copy(model)
    other.net = net
    if isinstance(model, NetDenoiser):
        other.prior = getattr(net, "prior", None)
        vars(other).pop("calibrations", None)
    text, classes, other.conditions = model.conditioner.text, list(model.conditioner.classes), dict(model.conditions)
    if text is not None and rows:
        text = _spoken(learner(text), _plain(model), rows)
        if isinstance(text, xti.PerLayer):
            told: Any = other.conditions["text"]
            other.conditions["text"] = replace(told, dim=text.parts * told.dim)
    elif rows:
        other.conditions["label"] = Label(_count(model) + len(rows))
        classes = [*(classes or map(str, range(_count(model)))), *rows]
    other.conditioner = Conditioner(other.conditions, classes, text)
    return other


def _spoken(text: WordLearner, plain: int, rows: Mapping[str, Tensor]) -> TextEncoder:
    """The encoder told further words, in each layer its own where the rows of one differ."""
    wide = {word: row for word, row in rows.items() if row.ndim > plain}
    if not wide:
        return text.spoken(rows)
    return xti.PerLayer(text, rows, list(wide), len(next(iter(wide.values()))))


def _count(model: Model) -> int:
    label = model.conditions["label"]
    assert isinstance(label, Label)
    return label.classes


def grown(weights: Mapping[str, Tensor], names: Mapping[str, str], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tables of classes by their names in a network with :func:`room`, with the rows of tokens before their nulls.

    Args:
        weights: of the network without, by name.
        names: as :func:`room` gives them.
        rows: of each token (D,), of several tables one behind the other; or one a layer, (n, D).
    """
    width = sum(weights[name].shape[1] for name in names.values())
    whole = torch.stack([row.flatten() if row.numel() == width else row.repeat(width // len(row)) for row in rows])
    parts = whole.split([weights[name].shape[1] for name in names.values()], 1)
    each = zip(names.items(), parts, strict=True)
    return {new: torch.cat([w[:-1], part.to(w), w[-1:]]) for (new, old), part in each for w in (weights[old],)}


def told(model: Model, token: str | None, prompt: str, like: str | None = None) -> Cond | None:
    """What a model is told of pictures: of texts the prompt with the token in the place of ``{}``, or the prompt without a token; else the
    token, or the class that they are like; None for nothing.

    Raises:
        InputError: for a token and a prompt without ``{}``, or the reverse; a model of classes that is told neither.
    """
    if model.conditioner.text is not None:
        if (token is None) == ("{}" in prompt):
            raise InputError(
                f"a prompt says by {{}} where the token stands, such as 'a photo of {{}}', and has none without a token: got {prompt!r} "
                f"and {token or 'no token'}"
            )
        return model.conditioner(prompt if token is None else prompt.replace("{}", token))
    if token is not None:
        return model.conditioner(label=token)
    if not model.conditions:
        return None
    if like is None:
        raise InputError(
            "the model is told a class: say by which token it is told of the new pictures, --token '<mine>'; or, of a style, which "
            "class they show, --like 3"
        )
    return Cond(label=class_number(model, like))
