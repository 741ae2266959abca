"""Write a denoiser of ours to a folder that diffusers loads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.bridge import weights
from reverie.bridge.describe import describe
from reverie.bridge.folder import CONFIG, INDEX, SCHEDULER
from reverie.bridge.foreign import Foreign
from reverie.bridge.kl import KL
from reverie.bridge.loading import Pretrained
from reverie.bridge.text import Texts
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.schedules import Flow
from reverie.core.space import Identity
from reverie.nets.network import Network

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
    files, index = _parts(denoise)
    partial = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, (config, state) in files.items():
            _write_part(partial / name, config, state)
        texts = denoise.conditioner.text
        if isinstance(texts, Texts):
            for encoder in texts.encoders:
                for name, kind, part in zip(
                    encoder.names, encoder.kinds, (encoder.tokenizer, encoder.model), strict=True
                ):
                    part.save_pretrained(partial / name)
                    index[name] = ["transformers", kind]
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        os.replace(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{folder} could not be written: {error.strerror or error}") from error
    return folder


Part = tuple[dict[str, Any], dict[str, Tensor] | None]


def _parts(denoise: NetDenoiser) -> tuple[dict[str, Part], dict[str, Any]]:
    """Each part's configuration and weights, and the pipeline's index."""
    net = denoise.net
    if denoise.prior is not None:
        raise InputError("diffusers has no closed form that a network corrects: train with denoising.prior null")
    if isinstance(denoise, Pretrained):
        kind, config = denoise.model
        scheduler = None if denoise.scheduler is None else denoise.scheduler.config
        state = (
            weights.to_theirs(net, config)
            if isinstance(net, Network) and not isinstance(net, Foreign)
            else _foreign(net)
        )
    elif isinstance(net, Network):
        scheduler = _scheduler(denoise)
        kind, config, state = describe(net)
    else:
        raise InputError(f"diffusers has no network like {type(net).__name__}")
    name = "transformer" if "Transformer" in kind else "unet"
    files: dict[str, Part] = {name: ({"_class_name": kind, **config}, state)}
    index: dict[str, Any] = {"_class_name": _pipeline(denoise, kind), name: ["diffusers", kind]}
    if scheduler is not None:
        files["scheduler"] = (scheduler, None)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if isinstance(denoise.space, KL):
        model = denoise.space.model
        files["vae"] = ({"_class_name": "AutoencoderKL", **dict(model.config)}, model.state_dict())
        index["vae"] = ["diffusers", "AutoencoderKL"]
    elif not isinstance(denoise.space, Identity):
        raise InputError(
            f"diffusers has no space like {type(denoise.space).__name__}: only pixels and KL latents are written"
        )
    if isinstance(denoise.conditioner.text, Texts) and denoise.conditioner.text.form == "sdxl":
        index["force_zeros_for_empty_prompt"] = denoise.conditioner.text.zeros
    return files, index


def _foreign(net: Any) -> dict[str, Tensor]:
    return dict(net.foreign.state_dict())


def _pipeline(denoise: NetDenoiser, kind: str) -> str:
    texts = denoise.conditioner.text
    if isinstance(texts, Texts):
        forms = {
            "sd": "StableDiffusionPipeline",
            "sdxl": "StableDiffusionXLPipeline",
            "sd3": "StableDiffusion3Pipeline",
        }
        return forms[texts.form]
    pipelines = {"DiTTransformer2DModel": "DiTPipeline", "SD3Transformer2DModel": "StableDiffusion3Pipeline"}
    return pipelines.get(kind, "DDPMPipeline")


def _scheduler(denoise: NetDenoiser) -> dict[str, Any]:
    """The scheduler of a model that we trained.

    Raises:
        InputError: when diffusers has none whose network is told the same time.
    """
    if isinstance(denoise.schedule, Flow) and denoise.kind.name in ("flow", "straight") and denoise.time == "t":
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    raise InputError(
        f"diffusers has no scheduler for {denoise.schedule} predicting {denoise.kind.name} with the time {denoise.time!r}: "
        "only rectified flow that predicts the flow is written"
    )


def _write_part(folder: Path, config: dict[str, Any], state: dict[str, Tensor] | None) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    name = SCHEDULER if state is None else CONFIG
    plain = {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}
    (folder / name).write_text(json.dumps(plain, indent=2, sort_keys=True, default=list) + "\n")
    if state is not None:
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, folder / WEIGHTS)
