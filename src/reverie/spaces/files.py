"""Spaces by name, and as files: safetensors with the settings as JSON in the header."""

from inspect import signature
from pathlib import Path

from reverie.core import bounds, files, memory
from reverie.core.errors import InputError, RunError, unknown
from reverie.spaces.config import SpaceConfig
from reverie.spaces.convolutional import ConvAE
from reverie.spaces.latent import Latent
from reverie.spaces.multiscale import MultiScaleVQ
from reverie.spaces.patchwise import PatchAE, PatchVAE
from reverie.spaces.pca import PatchPCA
from reverie.spaces.vae import ConvVAE
from reverie.spaces.vector import VectorVAE
from reverie.spaces.vq import VQ

SPACES: dict[str, type[Latent]] = {
    kind.name: kind for kind in (PatchPCA, PatchAE, PatchVAE, ConvAE, ConvVAE, VQ, MultiScaleVQ)
}
"""Those that are made of a configuration."""
FILED = {**SPACES, VectorVAE.name: VectorVAE}
"""Those that a file may hold."""
WHAT = "space"


def build(config: SpaceConfig, channels: int) -> Latent:
    """The space that a configuration describes, not yet fitted or trained.

    Raises:
        InputError: for an unknown name, or sizes that do not fit.
    """
    if config.name not in SPACES:
        raise unknown("space", config.name, SPACES)
    bounds.check_bounds(config, lambda key: f"space.{key}")
    kind = SPACES[config.name]
    own = {key: getattr(config, key) for key in ("kl", "width", "codes") if key in signature(kind).parameters}
    return memory.built(
        lambda: kind(channels, config.patch, config.dims, **own),
        "this space",
        "choose a smaller patch, width or dims",
    )


def save(space: Latent, path: str | Path) -> None:
    """Write a space to one safetensors file, completely or not at all.

    Raises:
        RunError: when it cannot be written.
    """
    files.write_tensors(
        Path(path), space.state_dict(), {"what": WHAT, "name": space.name, "range": [-1, 1], **space.settings}
    )


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
        with files.opened(path) as file:
            settings = files.about(file, older=WHAT)
        if not settings or settings.pop("what", WHAT) != WHAT:
            raise InputError(f"{path} holds no space: reverie.spaces.save writes one")
        name = settings.pop("name")
        settings.pop("range")
        space = FILED[name](**settings)
        space.load_state_dict(files.read_tensors(path))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise RunError(f"{path} is damaged: {error}. Make it again.") from error
    space.eval().requires_grad_(False)
    return space
