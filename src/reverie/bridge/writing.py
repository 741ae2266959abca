"""Write a denoiser of ours to a folder that diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.bridge import controlnet, drawing, weights
from reverie.bridge.describe import Description, describe, needs
from reverie.bridge.folder import CONFIG, INDEX, SCHEDULER
from reverie.bridge.foreign import Foreign
from reverie.bridge.kl import KL
from reverie.bridge.loading import Pretrained
from reverie.bridge.text import Texts
from reverie.bridge.training import Training, training
from reverie.core import files
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.core.space import Identity
from reverie.nets.controlnet import Hinted
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.prior import Prior
from reverie.nets.unet import UNet

WEIGHTS = "diffusion_pytorch_model.safetensors"
OURS = ("pipeline", "PicturePipeline")
"""The file that is copied into a folder, and its class: what draws by class, on flows, of folded pixels, with a prior."""


def write(denoise: NetDenoiser, folder: str | Path) -> Path:
    """Write network, scheduler, and what else the pipeline had, so that diffusers computes the same outputs.

    Args:
        denoise: a model of ours or out of a folder, with or without merged adapters. Its network must be one that diffusers has.
        folder: a new folder; it appears complete or not at all.

    Returns:
        The folder.

    Raises:
        InputError: when the folder exists, or when diffusers has no such network, path or space.
        RunError: when it could not be written.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder")
    parts, index = _parts(denoise)
    with files.appearing_folder(folder) as partial:
        for name, (config, state) in parts.items():
            _write_part(partial / name, config, state)
        for place, name in (("", OURS[0]), ("prior", "gaussians")):
            if index["_class_name"] == list(OURS) and (partial / place / CONFIG).is_file() == bool(place):
                files.write(partial / place / f"{name}.py", Path(*drawing.__path__, f"{name}.py").read_text("utf-8"))
        texts = denoise.conditioner.text
        if isinstance(texts, Texts):
            for encoder in texts.encoders:
                for name, kind, part in zip(
                    encoder.names, encoder.kinds, (encoder.tokenizer, encoder.model), strict=True
                ):
                    part.save_pretrained(partial / name)
                    index[name] = ["transformers", kind]
        files.write(partial / INDEX, json.dumps(index, indent=2) + "\n")
    return folder


def refusal(denoise: NetDenoiser) -> str | None:
    """Why :func:`write` would refuse a denoiser, in a line; None if it would not."""
    try:
        _parts(denoise)
    except InputError as error:
        return str(error)
    return None


Part = tuple[dict[str, Any], dict[str, Tensor] | None]


def _parts(denoise: NetDenoiser) -> tuple[dict[str, Part], dict[str, Any]]:
    """Each part's configuration and weights, and the pipeline's index."""
    net = denoise.net
    if isinstance(denoise, Pretrained):
        kind, config = denoise.model
        scheduler = None if denoise.scheduler is None else denoise.scheduler.config
        state = (
            weights.to_theirs(net, config)
            if isinstance(net, Network) and not isinstance(net, Foreign)
            else _foreign(net)
        )
    elif denoise.conditioner.text is not None:
        raise InputError(
            "diffusers has no place for what this run has learned to read texts with: draw from it here, by rv.load or reverie sample, "
            "or train a model of classes to be written, with --data.no-captions"
        )
    elif isinstance(net, Network) and net.config is not None:
        scheduler, (kind, config, state) = _translated(denoise, net)
    else:
        raise InputError(f"diffusers has no network like {type(net).__name__}")
    name = "transformer" if "Transformer" in kind else "unet"
    parts: dict[str, Part] = {name: ({"_class_name": kind, **config}, state)}
    index: dict[str, Any] = {"_class_name": _pipeline(denoise, kind, config, scheduler), name: ["diffusers", kind]}
    if denoise.prior is not None:
        parts["prior"] = _prior(denoise.prior)
        index["prior"] = ["gaussians", "Gaussians"]
    if (patch := _patch(net)) > 1:
        index["patch"] = patch
    if scheduler is not None:
        parts["scheduler"] = (scheduler, None)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if isinstance(denoise.space, KL):
        model = denoise.space.model
        parts["vae"] = ({"_class_name": "AutoencoderKL", **dict(model.config)}, model.state_dict())
        index["vae"] = ["diffusers", "AutoencoderKL"]
    if isinstance(denoise.conditioner.text, Texts) and denoise.conditioner.text.form == "sdxl":
        index["force_zeros_for_empty_prompt"] = denoise.conditioner.text.zeros
    if isinstance(denoise.conditioner.text, Texts) and denoise.conditioner.text.scored:
        index["requires_aesthetics_score"] = True
    if isinstance(denoise, Pretrained) and denoise.controls:
        numbers = ["", *(f"_{i}" for i in range(1, len(denoise.controls)))]
        for number, control in zip(numbers, denoise.controls, strict=True):
            parts[f"controlnet{number}"] = controlnet.described(control, *denoise.model)
        index["controlnet"] = ["diffusers", controlnet.classed(kind, len(numbers))]
    return parts, index


def _foreign(net: Any) -> dict[str, Tensor]:
    return dict(net.foreign.state_dict())


def _patch(net: Any) -> int:
    """How many pixels a side are folded before the first layer of a U-Net."""
    return getattr(net.config, "patch", 1) if isinstance(net, UNet) else 1


def _prior(prior: Prior) -> Part:
    state = dict(prior.state_dict())
    state["variances"] = state.pop("values")  # a name that their configurations have for something else
    classes, size = state["means"].shape
    return {"_class_name": "Gaussians", "classes": classes, "size": size, "rank": prior.rank}, state


def _pipeline(denoise: NetDenoiser, kind: str, config: dict[str, Any], scheduler: dict[str, Any] | None) -> Any:
    """The pipeline that calls such a network as its scheduler asks: one of diffusers', or ours, which is copied beside it."""
    texts, name = denoise.conditioner.text, "" if scheduler is None else scheduler["_class_name"]
    if isinstance(texts, Texts):
        forms = {
            "sd": "StableDiffusionPipeline",
            "sdxl": "StableDiffusionXLPipeline",
            "sd3": "StableDiffusion3Pipeline",
        }
        return (isinstance(denoise, Pretrained) and denoise.pipeline) or forms[texts.form]
    table = not name.startswith(("Flow", "EDM"))
    if kind == "SD3Transformer2DModel":
        return "StableDiffusion3Pipeline"
    if kind == "DiTTransformer2DModel" and table and config["num_embeds_ada_norm"] == 1000:  # its null is 1000
        return "DiTPipeline"
    plain = (
        not denoise.learned_variance and not denoise.conditions and denoise.prior is None and _patch(denoise.net) == 1
    )
    return "DDPMPipeline" if plain and table and isinstance(denoise.space, Identity) else list(OURS)


def _translated(denoise: NetDenoiser, net: Network) -> tuple[dict[str, Any], Description]:
    """The scheduler and the network of a model that we trained.

    Raises:
        InputError: when diffusers has none that compute the same, with what to train instead.
    """
    changed, trained = needs(net), training(denoise)
    if not isinstance(trained, Training):
        changed += trained
    elif trained.outward != 1.0 and getattr(net.config, "learn_sigma", False):
        changed.append("--net.no-learn-sigma")
    elif isinstance(net, MMDiT) and not isinstance(denoise.schedule, Flow):
        changed.append("--schedule flow")
    if denoise.prior is not None:
        able = isinstance(net, UNet) and isinstance(denoise.schedule, Flow)
        changed = [*([] if able else ["--prior None"]), *(each for each in changed if each != "--net.image 0")]
    if not isinstance(denoise.space, Identity | KL):
        changed.append("--space pixels")
    if changed or not isinstance(trained, Training):
        raise InputError(f"diffusers has nothing like this {type(net).__name__} run: train with {', '.join(changed)}")
    return trained.scheduler, describe(net, trained.folded(denoise))


def write_controlnet(net: Hinted, base: Pretrained, folder: str | Path) -> Path:
    """Write a ControlNet so that diffusers' ControlNetModel, or SD3ControlNetModel, computes the same residuals.

    Args:
        net: out of a folder, or trained on ``base``.
        base: the Stable Diffusion model that it steers.
        folder: a new folder; it appears complete or not at all.

    Returns:
        The folder.

    Raises:
        InputError: when the folder exists, or diffusers has no ControlNet of such a network.
        RunError: when it could not be written.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder")
    config, state = controlnet.described(net, *base.model)
    with files.appearing_folder(folder) as partial:
        _write_part(partial, config, state)
    return folder


def _write_part(folder: Path, config: dict[str, Any], state: dict[str, Tensor] | None) -> None:
    name = SCHEDULER if state is None else CONFIG
    plain = {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}
    files.write(folder / name, json.dumps(plain, indent=2, sort_keys=True, default=list) + "\n")
    if state is not None:
        files.write_tensors(folder / WEIGHTS, {key: value.detach().cpu().clone() for key, value in state.items()}, None)
