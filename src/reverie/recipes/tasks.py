"""The registry of tasks: what recipes name and `reverie train NAME` starts.

A task of one's own joins by :func:`register`, called by a module that is listed in the environment variable ``REVERIE_PLUGINS`` (names
with commas between) or declared by an installed package as an entry point of the group ``reverie_plugins``.
"""

import os
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

from reverie.core.errors import InputError, unknown
from reverie.core.task import TaskConfig

C = TypeVar("C", bound=type[TaskConfig])

TASKS: dict[str, str | type[TaskConfig]] = {
    "denoising": "reverie.diffusion.config:DenoisingConfig",
    "classifier": "reverie.diffusion.config:ClassifierConfig",
    "controlnet": "reverie.diffusion.conditioned:ControlNetConfig",
    "sketch": "reverie.diffusion.conditioned:SketchConfig",
    "gligen": "reverie.diffusion.conditioned:GligenConfig",
    "palette": "reverie.diffusion.conditioned:PaletteConfig",
    "instruct": "reverie.diffusion.conditioned:InstructConfig",
    "reflow": "reverie.diffusion.teacher:ReflowConfig",
    "genie": "reverie.diffusion.teacher:GenieConfig",
    "progressive": "reverie.distill.match_config:ProgressiveConfig",
    "guided": "reverie.distill.match_config:GuidedConfig",
    "dmd2": "reverie.distill.match_config:DMD2Config",
    "add": "reverie.distill.match_config:ADDConfig",
    "ladd": "reverie.distill.match_config:LADDConfig",
    "moments": "reverie.distill.match_config:MomentsConfig",
    "drifting": "reverie.distill.match_config:DriftingConfig",
    "consistency": "reverie.distill.flow_config:ConsistencyConfig",
    "scm": "reverie.distill.flow_config:SCMConfig",
    "meanflow": "reverie.distill.flow_config:MeanFlowConfig",
    "shortcut": "reverie.distill.flow_config:ShortcutConfig",
    "imm": "reverie.distill.flow_config:IMMConfig",
    "tvm": "reverie.distill.flow_config:TVMConfig",
    "lora": "reverie.adapt.config:LoRAConfig",
    "dreambooth": "reverie.adapt.config:DreamBoothConfig",
    "textual": "reverie.adapt.config:TextualConfig",
    "xti": "reverie.adapt.config:XTIConfig",
    "custom": "reverie.adapt.config:CustomConfig",
    "svdiff": "reverie.adapt.config:SVDiffConfig",
    "scene": "reverie.adapt.scene_config:SceneConfig",
    "encoded": "reverie.adapt.encoder_config:EncodedConfig",
    "e4t": "reverie.adapt.encoder_config:E4TConfig",
    "hyperdreambooth": "reverie.adapt.encoder_config:HyperDreamBoothConfig",
    "elite": "reverie.adapt.showing_config:ELITEConfig",
    "fastcomposer": "reverie.adapt.showing_config:FastComposerConfig",
    "demonstrations": "reverie.adapt.showing_config:DemonstrationsConfig",
    "autoencoder": "reverie.families.token_config:AutoencoderConfig",
    "judge": "reverie.measure.config:JudgeConfig",
    "rdm": "reverie.diffusion.rdm_config:RDMConfig",
    "unclip": "reverie.diffusion.unclip_config:DecoderConfig",
    "unclip-prior": "reverie.diffusion.unclip_config:PriorConfig",
    "towers": "reverie.measure.config:TowersConfig",
    "diffae": "reverie.align.config:DiffAEConfig",
    "pixelcnn": "reverie.families.config:PixelCNNConfig",
    "pixelcnnpp": "reverie.families.config:PixelCNNppConfig",
    "pixelrnn": "reverie.families.config:PixelRNNConfig",
    "subpixel": "reverie.families.config:SubPixelConfig",
    "tile": "reverie.families.config:TileConfig",
    "vae": "reverie.families.token_config:VAEConfig",
    "maskgit": "reverie.families.token_config:MaskGITConfig",
    "parti": "reverie.families.token_config:PartiConfig",
    "var": "reverie.families.token_config:VARConfig",
    "dcgan": "reverie.families.gan_config:DCGANConfig",
    "stylegan": "reverie.families.gan_config:StyleGANConfig",
    "stylegan2": "reverie.families.gan_config:StyleGAN2Config",
    "r3gan": "reverie.families.gan_config:R3GANConfig",
}
"""The class of a task's settings by its name, or where it lives."""


def register(config: C) -> C:
    """Add a task's settings under their ``name``; serves as a decorator.

    Raises:
        InputError: when another task has that name.
    """
    known = TASKS.setdefault(config.name, config)
    if known is not config and f"{config.__module__}:{config.__qualname__}" != known:
        raise InputError(f"there is a task {config.name!r} already: give {config.__name__} another name")
    return config


@cache
def plugins() -> None:
    """Import what registers further tasks.

    Raises:
        InputError: when a module cannot be imported.
    """
    modules = [name.strip() for name in os.environ.get("REVERIE_PLUGINS", "").split(",") if name.strip()]
    modules += [point.value for point in entry_points(group="reverie_plugins")]
    for name in modules:
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(f"the plugin {name!r} cannot be imported: {error}") from error


def names() -> list[str]:
    """The tasks there are."""
    plugins()
    return list(TASKS)


def config(name: str, where: str = "task") -> type[TaskConfig]:
    """The class of a task's settings.

    Raises:
        InputError: for an unknown name, with the nearest.
    """
    plugins()
    if name not in TASKS:
        raise unknown(where, name, TASKS)
    found = TASKS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = TASKS[name] = getattr(import_module(module), attribute)
    return found
