"""Lines of Python that draw in diffusers with a network of ours, written by :func:`reverie.bridge.write`.

Diffusers has no pipeline that calls a labelled network on a flow, draws grey pictures by class, or takes a DiT of pixels; the network and
its scheduler do it in a loop. On a table the steps are DDIM's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reverie.bridge.folder import CONFIG, INDEX, SCHEDULER, read_json


def lines(folder: Path, steps: int = 20) -> str:
    """The code that draws four pictures, ``images`` (4, C, H, W) in [0, 1], with a folder that was written; of classes, the first four.

    Args:
        folder: holds a ``UNet2DModel`` or a ``DiTTransformer2DModel`` of pixels, and a scheduler.
        steps: of the scheduler.
    """
    index = read_json(folder / INDEX)
    part = "unet" if "unet" in index else "transformer"
    config, scheduler = read_json(folder / part / CONFIG), read_json(folder / "scheduler" / SCHEDULER)
    name = str(scheduler["_class_name"])
    flow, edm = name.startswith("Flow"), name.startswith("EDM")
    place = str(folder.absolute())
    scaled = "scheduler.scale_model_input(x, t)" if edm else "x"
    channels, size = config["in_channels"], config["sample_size"]
    height, width = size if isinstance(size, list) else (size, size)
    half = f"[:, :{channels}]" if config["out_channels"] == 2 * channels else ""
    classes = _classes(config)
    said = [
        "import diffusers",
        "import torch",
        "",
        f"net = diffusers.{index[part][1]}.from_pretrained({f'{place}/{part}'!r})",
        f"scheduler = diffusers.{name if flow or edm else 'DDIMScheduler'}.from_pretrained({f'{place}/scheduler'!r})",
        f"scheduler.set_timesteps({steps})",
    ]
    if classes is not None:
        chosen = [i % classes for i in range(4)]
        said.append(f"labels = torch.tensor({chosen})  # 0 to {classes - 1}; {classes} is none of them")
    said += [
        f"x = torch.randn(4, {channels}, {height}, {width}{')' if not edm else ') * scheduler.init_noise_sigma'}",
        "with torch.no_grad():",
        "    for t in scheduler.timesteps:",
        f"        out = net({scaled}, t.expand(4){'' if classes is None else ', class_labels=labels'}).sample{half}",
        "        x = scheduler.step(out, t, x).prev_sample",
        "images = (x / 2 + 0.5).clamp(0, 1)",
    ]
    return "\n".join(said)


def _classes(config: dict[str, Any]) -> int | None:
    """How many classes a network of ours has besides the null, which a U-Net's table counts and a DiT's does not."""
    table = config.get("num_class_embeds")
    return config.get("num_embeds_ada_norm") if table is None else table - 1
