"""Spaces by name, and as files: safetensors with the settings as JSON in the header."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from reverie.core import bounds, files
from reverie.core.errors import InputError, RunError, unknown
from reverie.core.memory import affordable
from reverie.spaces.config import SpaceConfig
from reverie.spaces.latent import Latent
from reverie.spaces.patchwise import PatchAE, PatchVAE
from reverie.spaces.pca import PatchPCA
from reverie.spaces.vae import ConvVAE

SPACES: dict[str, type[Latent]] = {kind.name: kind for kind in (PatchPCA, PatchAE, PatchVAE, ConvVAE)}
HEADER = "space"


def build(config: SpaceConfig, channels: int) -> Latent:
    """The space that a configuration describes, not yet fitted or trained.

    Raises:
        InputError: for an unknown name, or sizes that do not fit.
    """
    if config.name not in SPACES:
        raise unknown("space", config.name, SPACES)
    arguments = {"kl": config.kl} if config.name in ("patch-vae", "conv-vae") else {}
    arguments |= {"width": config.width} if config.name == "conv-vae" else {}
    bounds.check(config, lambda key: f"space.{key}")
    with affordable("this space", "choose a smaller patch, width or dims"):
        return SPACES[config.name](channels, config.patch, config.dims, **arguments)


def save(space: Latent, path: str | Path) -> None:
    """Write a space to one safetensors file, completely or not at all.

    Raises:
        RunError: when it cannot be written.
    """
    about = {"name": space.name, "range": [-1, 1], **space.settings}
    tensors = {key: value.contiguous() for key, value in space.state_dict().items()}
    files.write(Path(path), serialise(tensors, {HEADER: json.dumps(about)}))


def load(path: str | Path) -> Latent:
    """The space in a file, frozen.

    Raises:
        InputError: when there is no such file, or it holds something else.
        RunError: when it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no space in {path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(HEADER)
        if header is None:
            raise InputError(f"{path} holds no space: reverie.spaces.save writes one")
        settings = json.loads(header)
        name = settings.pop("name")
        settings.pop("range")
        space = SPACES[name](**settings)
        space.load_state_dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise RunError(f"{path} is damaged: {error}. Make it again.") from error
    space.eval().requires_grad_(False)
    return space
