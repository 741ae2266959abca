"""A model of diffusers' as a recipe of ours trains it on: the settings of its task, and its weights under them.

A network on a table is told the step i where ours is told i + 1; that rotation goes into the first layer of the time's embedding, exactly,
as in :mod:`reverie.bridge.training` the other way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reverie.bridge.foreign import Foreign
from reverie.bridge.loading import Pretrained
from reverie.bridge.training import Training
from reverie.core.errors import InputError
from reverie.core.paths import EDM, SCHEDULES, Table
from reverie.core.schedules import Flow, Schedule
from reverie.core.space import Identity
from reverie.diffusion.config import DenoisingConfig


def settings(model: Pretrained) -> DenoisingConfig:
    """The task that trains such a network on such a path.

    Raises:
        InputError: when it is none of ours, or diffuses something else than pixels.
    """
    if isinstance(model.net, Foreign):
        raise InputError(f"its {model.model[0]} is no network of ours, and ours alone are trained")
    if not isinstance(model.space, Identity):
        raise InputError("it diffuses the codes of an auto-encoder: only models of pixels are trained on")
    if others := [name for name in model.conditions if name != "label"]:
        raise InputError(f"it listens to {', '.join(others)}, which pictures in a folder do not give")
    net: Any = model.net.config
    count = 1.0 if isinstance(model.schedule, EDM) else float(model.scheduler.count)  # pyright: ignore[reportOptionalMemberAccess]
    if getattr(net, "time_scale", 1000.0) != count:
        if not hasattr(net, "time_scale"):
            raise InputError(f"it counts {count:g} steps, and our {type(model.net).__name__} counts 1,000")
        net = replace(net, time_scale=count)
    config = DenoisingConfig(
        net=net,
        schedule=_name(model.schedule),
        kind="edm" if model.data_std is not None else model.kind.name,  # pyright: ignore[reportArgumentType]
        data_std=model.data_std,
        time="log_sigma" if isinstance(model.schedule, EDM) else "t",
        times="uniform" if isinstance(model.schedule, Table) else "logit-normal",
    )
    return replace(config, objective="hybrid") if getattr(net, "learn_sigma", False) else config


def weights(model: Pretrained) -> dict[str, Tensor]:
    """The weights of the network that is told the time as :func:`settings` has it, by name."""
    return Training({}, ahead=-1 if isinstance(model.schedule, Table) else 0).folded(model)


def _name(schedule: Schedule) -> str:
    """What recipes call a path.

    Raises:
        InputError: for a table that has no name.
    """
    if isinstance(schedule, Flow | EDM):
        return "flow" if isinstance(schedule, Flow) else "edm"
    assert isinstance(schedule, Table)
    t = torch.linspace(0, 1, len(schedule.betas) + 1, dtype=torch.float64)
    for name, make in SCHEDULES.items():
        path = make()
        same = not isinstance(path, Table) or len(path.betas) == len(schedule.betas)
        if same and torch.allclose(path.alpha(t), schedule.alpha(t), rtol=0.0, atol=1e-6):
            return name
    raise InputError(f"its table of {len(schedule.betas)} β is none of our paths: {', '.join(SCHEDULES)}")
