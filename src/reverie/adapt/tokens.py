"""A new token of what a model is told: one row of numbers beside the rows that it knows.

Of a model of classes the row joins the table of class embeddings, as a further class; of a model of texts it joins the table of its text
encoder, as a further word. Either way the model is told of it as of any other: ``denoise.conditioner("<mine>")``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, Label
from reverie.core.conditioner import Conditioner, TextEncoder
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.nets.copies import sharing
from reverie.nets.embeddings import LabelEmbedding
from reverie.nets.prior import Prior

UNSEEN = -1e4
"""The log weight of a new class in a mixture: none, to the bit, where no label is given."""


@runtime_checkable
class WordLearner(Protocol):
    """A text encoder that can be told further words."""

    def beginning(self, word: str) -> Tensor:
        """The mean of the rows of a word's tokens, (D,)."""
        ...

    def spoken(self, rows: Mapping[str, Tensor]) -> TextEncoder:
        """An encoder that also knows these words, each by its row (D,), and shares the rest; rows that ask for a gradient get it."""
        ...


def table(net: nn.Module) -> str:
    """The path of a network's table of classes.

    Raises:
        InputError: when it has none, or several.
    """
    found = [path for path, module in net.named_modules() if isinstance(module, LabelEmbedding)]
    if len(found) != 1:
        raise InputError(
            f"a token joins the one table of classes of a network: {type(net).__name__} has {len(found)}. Leave the token out, "
            "or give a model of classes or of texts"
        )
    return found[0]


def beginning(denoise: NetDenoiser, like: str | None) -> Tensor:
    """The row that a token begins with: that of a class or word, or without one the mean of the classes.

    Raises:
        InputError: for an unknown class, a model that is told nothing, or one whose text encoder learns no words.
    """
    text = denoise.conditioner.text
    if text is not None:
        return learner(text).beginning("a" if like is None else like)
    if "label" not in denoise.conditions:
        told = ", ".join(denoise.conditions) or "nothing"
        raise InputError(
            f"a token is told to a model of classes or of texts: this one is told {told}. Leave the token out"
        )
    weight = denoise.net.get_submodule(table(denoise.net)).get_parameter("table.weight").detach()
    return weight[:-1].mean(0) if like is None else weight[class_number(denoise, like)].clone()


def class_number(denoise: NetDenoiser, like: str) -> int:
    """A class by name or number.

    Raises:
        InputError: for one that the model does not know.
    """
    known = like in denoise.conditioner.classes or not like.isdecimal()
    return int(denoise.conditioner(label=like if known else int(like))["label"].value)


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


def roomy(net: nn.Module, likes: Sequence[int | None]) -> tuple[str, nn.Module]:
    """The name of a network's table of classes, and a copy that shares its weights and has room for further classes before the null.

    The table of the copy is empty. The closed-form prior of a network, if it has one, takes a new class for the one that it is like, and
    else for all of them as one Gaussian.
    """
    words = len(likes)
    path = table(net)
    prior = getattr(net, "prior", None)
    shell = sharing(net, [f"{path}.table", *([] if prior is None else ["prior"])])
    label = shell.get_submodule(path)
    assert isinstance(label, LabelEmbedding)
    classes, old = label.null, label.table
    label.null = classes + words
    old.num_embeddings = classes + words + 1
    empty = old.weight.new_zeros(classes + words + 1, old.weight.shape[1])
    vars(old)["_parameters"] = {"weight": nn.Parameter(empty, requires_grad=False)}
    copied: Any = shell
    copied.conditions = {**copied.conditions, "label": Label(classes + words)}
    if isinstance(mine := getattr(shell, "prior", None), Prior):
        _widen(mine, likes)
    return f"{path}.table.weight", shell


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


def hearing(denoise: NetDenoiser, net: nn.Module, rows: Mapping[str, Tensor]) -> NetDenoiser:
    """The denoiser with another network, told further tokens; what was measured of it with its own network is forgotten."""
    other = copy.copy(denoise)
    other.net, other.prior = net, getattr(net, "prior", None)
    vars(other).pop("calibrations", None)
    text, classes = denoise.conditioner.text, list(denoise.conditioner.classes)
    if text is not None:
        text = learner(text).spoken(rows) if rows else text
    elif rows:
        other.conditions = {**denoise.conditions, "label": Label(_count(denoise) + len(rows))}
        classes = [*(classes or map(str, range(_count(denoise)))), *rows]
    other.conditioner = Conditioner(other.conditions, classes, text)
    return other


def _count(denoise: NetDenoiser) -> int:
    label = denoise.conditions["label"]
    assert isinstance(label, Label)
    return label.classes


def grown(weight: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """A table (classes + 1, D) with rows before the null."""
    return torch.cat([weight[:-1], torch.stack(list(rows)).to(weight), weight[-1:]])


def told(denoise: NetDenoiser, token: str | None, prompt: str) -> Cond | None:
    """What a model is told of a token: of texts the prompt with it in the place of ``{}``, or the prompt without a token; None for nothing.

    Raises:
        InputError: for a token and a prompt without ``{}``, or the reverse.
    """
    if denoise.conditioner.text is not None:
        if (token is None) == ("{}" in prompt):
            raise InputError(
                f"a prompt says by {{}} where the token stands, such as 'a photo of {{}}', and has none without a token: got {prompt!r} "
                f"and {token or 'no token'}"
            )
        return denoise.conditioner(prompt if token is None else prompt.replace("{}", token))
    return None if token is None else denoise.conditioner(label=token)
