"""Open a folder in diffusers' format: a pipeline or a single model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from reverie.bridge import architecture, controlnet, weights
from reverie.bridge.building import (
    AUTOENCODER,
    CONTROLNETS,
    build,
    check_weights,
    complete,
    following,
    precision,
    renamed,
)
from reverie.bridge.folder import SCHEDULER, Component, Folder
from reverie.bridge.foreign import Foreign
from reverie.bridge.kl import KL
from reverie.bridge.scheduler import Index, Scheduler
from reverie.bridge.text import Form, Texts, scored
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, unknown
from reverie.core.paths import Table
from reverie.core.predictions import Kind
from reverie.core.schedules import Point, Schedule
from reverie.core.space import Space
from reverie.core.tensors import Scalar
from reverie.nets.controlnet import Hinted
from reverie.nets.embeddings import sinusoids
from reverie.nets.layers import pair
from reverie.nets.network import Network
from reverie.nets.prior import Prior
from reverie.nets.unet import UNet

SCORES = (6.0,), (2.5,)
"""Of beauty, that a refiner is told of what is asked and of what is led away from, where nobody says others."""


class Pretrained(NetDenoiser):
    """A denoiser out of a folder.

    Attributes:
        model: the class of its network, and that network's configuration with every default.
        scheduler: ``scheduler(steps)`` gives the arguments of :func:`reverie.sample` that take the steps of the folder's scheduler;
            None where there is none.
        conditioner: makes conditions of texts, labels and pictures.
        controls: the ControlNets of the pipeline, for :func:`reverie.diffusion.control.control`.
        pipeline: the class of the pipeline in diffusers, None of a single model.
    """

    controls: tuple[Hinted, ...] = ()
    pipeline: str | None = None

    def __init__(
        self,
        net: Network,
        schedule: Schedule,
        kind: str | Kind,
        *,
        model: tuple[str, dict[str, Any]],
        scheduler: Scheduler | None,
        conditioner: Conditioner,
        time: str | Callable[[Point], Scalar],
        space: Space | None,
        data_std: float | None = None,
    ) -> None:
        config, patch = model[1], getattr(getattr(net, "config", None), "patch", 1) if isinstance(net, UNet) else 1
        height, width = (patch * side for side in pair(config["sample_size"] or 64))
        channels = int(getattr(net, "channels", config["in_channels"]))
        learned = (config["out_channels"] or config["in_channels"]) == 2 * channels * patch**2
        super().__init__(
            net, schedule, kind, shape=(channels, height, width), time=time, data_std=data_std, learned_variance=learned, space=space
        )  # fmt: skip
        self.model, self.scheduler, self.conditioner = model, scheduler, conditioner

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The denoiser itself, all that it holds moved and cast."""
        for net in self.controls:
            net.to(device=device, dtype=dtype)
        return super().to(device, dtype)


def open_folder(
    path: str | Path,
    schedule: Schedule | None = None,
    kind: str | Kind | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Pretrained | KL | Hinted:
    """A pipeline or model of diffusers', frozen and in evaluation mode.

    Where the architecture is one of ours the weights load into our network; else diffusers' module is wrapped. Nothing of the folder is
    executed: configurations are read as JSON and weights from safetensors.

    Args:
        path: of the folder.
        schedule: the path the network was trained on, in place of what its scheduler says. With a :class:`~reverie.core.paths.Table` it is
            told the index of an entry, else 1000·t.
        kind: what it predicts, likewise. With both, a scheduler's file is not read.
        device, dtype: where network, space and text encoders go, and what they compute in: the CPU, and what their files hold, by default.

    Returns:
        A denoiser, with ``space``, ``conditioner`` and ``scheduler``; for the folder of an AutoencoderKL, the space; for that of a
        ControlNetModel or SD3ControlNetModel, a ControlNet for :func:`reverie.diffusion.control`.

    Raises:
        InputError: for a folder of another kind, a class or option without translation, weights that are pickled or of another model.
        RunError: when a file is damaged.
    """
    folder = Folder(path)
    component = Component(folder.path) if folder.single else _network_of(folder)
    if component.kind == AUTOENCODER:
        return autoencoder(component).to(device=device, dtype=dtype)
    if component.kind in CONTROLNETS.values():
        return controlnet.read(component).to(device=device, dtype=dtype)
    config = complete(component)
    if config.get("encoder_hid_dim_type") == "ip_image_proj":
        raise InputError(
            f"{component.folder} was saved with an IP-Adapter in it, whose attention to a picture's embedding has no translation: "
            "in diffusers, pipeline.unload_ip_adapter() and save it again"
        )
    found = None if schedule is not None and kind is not None else _scheduler(folder)
    trained = found.schedule if schedule is None else schedule  # pyright: ignore[reportOptionalMemberAccess]
    net = _network(component, config, int(folder.index.get("patch", 1)), folder.has("prior"))
    if folder.has("prior"):
        net.prior = _prior(folder.part("prior"), net)
    vae = autoencoder(folder.part("vae")) if folder.has("vae") else None
    texts = _texts(folder, component.kind, config, vae)
    classes = _class_names(folder)
    opened = Pretrained(
        net,
        trained,
        found.kind if kind is None else kind,  # pyright: ignore[reportOptionalMemberAccess]
        model=(component.kind, config),
        scheduler=found if schedule is None else None,
        conditioner=Conditioner(net.conditions, classes, texts),
        time=found.time
        if schedule is None and found
        else Index(len(trained.betas))
        if isinstance(trained, Table)
        else "t",
        space=vae,
        data_std=found.data_std if schedule is None and kind is None and found else None,
    )
    opened.controls = tuple(controlnet.read(component) for component in _controls(folder))
    opened.pipeline = name if isinstance(name := folder.index.get("_class_name"), str) else None
    return opened.to(device, dtype)


def autoencoder(component: Component) -> KL:
    """The auto-encoder of a folder."""
    if component.kind != AUTOENCODER:
        raise unknown(f"auto-encoder in {component.folder},", component.kind, [AUTOENCODER])
    config = complete(component)
    check_weights(component, config)
    space = KL(build(AUTOENCODER, config, renamed(component.tensors()), str(component.folder)))
    space.eval().requires_grad_(False)
    return space


def _network_of(folder: Folder) -> Component:
    for name in ("unet", "transformer"):
        if folder.has(name):
            return folder.part(name)
    raise InputError(
        f"the pipeline in {folder.path} ({folder.index.get('_class_name')}) has neither a unet nor a transformer"
    )


def _controls(folder: Folder) -> list[Component]:
    """The ControlNets of a pipeline: one, or several side by side under a number."""
    if not folder.has("controlnet"):
        return []
    places = sorted(folder.path.glob("controlnet_*"), key=lambda place: (len(place.name), place.name))
    return [folder.part("controlnet"), *map(Component, places)]


def _scheduler(folder: Folder) -> Scheduler:
    """The scheduler of a pipeline, or the one beside a model.

    Raises:
        InputError: when there is none.
    """
    beside = [folder.path.parent / "scheduler"] if folder.single else []
    for place in (folder.path / "scheduler", folder.path, *beside):
        if (place / SCHEDULER).is_file():
            return Scheduler(Component(place, SCHEDULER).config)
    raise InputError(
        f"{folder.path} holds a network but no {SCHEDULER}, so nothing says what it was trained on: "
        "reverie.bridge.load(folder, schedule=, kind=)"
    )


def _network(component: Component, config: dict[str, Any], patch: int = 1, seen: bool = False) -> Network:
    check_weights(component, config)
    state = renamed(component.tensors())
    with following(str(component.folder)):
        net = architecture.network(component.kind, config, patch, seen)
        if net is not None and _tied(net, config, state):
            net.to(dtype=precision(state)).load_state_dict(weights.to_ours(net, config, state))
        else:
            net = Foreign(component.kind, build(component.kind, config, state, str(component.folder)))
    return net.eval().requires_grad_(False)


def _prior(component: Component, net: Any) -> Prior:
    """The Gaussians that a network of ours corrects (:func:`reverie.bridge.write` names the class).

    Raises:
        InputError: for a part of another class, or of another shape.
    """
    config = component.config
    if component.kind != "Gaussians":
        raise unknown(f"class of prior in {component.folder},", component.kind, ["Gaussians"])
    prior = Prior(config["classes"], (net.channels, *net.size), config["rank"])
    try:
        prior.load_state_dict({"values" if k == "variances" else k: v for k, v in component.tensors().items()})
    except RuntimeError as error:
        raise InputError(f"{component.folder} does not fit the network beside it: {error}") from error
    return prior.eval().requires_grad_(False)


def _tied(net: Network, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether tensors that are one in our network are equal in theirs (the embeddings in every block of a DiT)."""
    groups = [part.theirs for part in weights.parts(net, config) if part.form == "tied"]
    pairs = [
        (state[first], state[name]) for first, *others in groups for name in others if {first, name} <= state.keys()
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def _texts(folder: Folder, kind: str, config: dict[str, Any], vae: KL | None) -> Texts | None:
    if not folder.has("text_encoder") and not folder.has("text_encoder_2"):
        return None
    form: Form = "sd3" if kind == "SD3Transformer2DModel" else "sdxl" if folder.has("text_encoder_2") else "sd"
    if form != "sdxl":
        return Texts(folder, form, config.get("joint_attention_dim") or config["cross_attention_dim"])
    side = float(config["sample_size"] * (1 if vae is None else vae.factor))
    last = SCORES if scored(folder) else ((side, side),) * 2
    numbers = torch.tensor([(side, side, 0.0, 0.0, *each) for each in last])
    waves = sinusoids(numbers.flatten(), config["addition_time_embed_dim"])
    if not config["flip_sin_to_cos"] or config["freq_shift"]:
        raise InputError("a pipeline with text_time sizes and flip_sin_to_cos or freq_shift changed has no translation")
    return Texts(folder, form, config["cross_attention_dim"], waves.reshape(2, -1))


def _class_names(folder: Folder) -> list[str]:
    """The names of classes in the order of their numbers, where the pipeline says them (DiT's id2label)."""
    table = folder.index.get("id2label")
    return [str(table[key]).split(",")[0] for key in sorted(table, key=int)] if isinstance(table, dict) else []
