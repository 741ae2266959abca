"""Lines of Python that draw in diffusers with a network of ours, written by :func:`reverie.bridge.write`."""

from __future__ import annotations

from pathlib import Path

from reverie.bridge.folder import CONFIG, INDEX, read_json


def lines(folder: Path, steps: int = 20, scale: float = 1.0) -> str:
    """The code that draws four pictures with a folder that was written; of classes, the first four.

    Args:
        folder: holds the pipeline.
        steps: of the scheduler.
        scale: of the guidance, of a network with classes.
    """
    index, place = read_json(folder / INDEX), str(folder.absolute())
    if index["_class_name"] == "DDPMPipeline":
        load = f"diffusers.DDIMPipeline.from_pretrained({place!r})"
    elif isinstance(index["_class_name"], list):
        load = f"diffusers.DiffusionPipeline.from_pretrained({place!r}, trust_remote_code=True)  # runs its pipeline.py"
    else:
        load = f"diffusers.DiffusionPipeline.from_pretrained({place!r})"
    call = ", ".join(_call(folder, index, steps, scale))
    return f"import diffusers\n\npipeline = {load}\nimages = pipeline({call}).images"


def _call(folder: Path, index: dict[str, object], steps: int, scale: float) -> list[str]:
    part = "unet" if "unet" in index else "transformer"
    config = read_json(folder / part / CONFIG)
    table = config.get("num_class_embeds")
    classes = config.get("num_embeds_ada_norm") if table is None else table - 1
    labels = [] if classes is None else [f"class_labels={[i % classes for i in range(4)]}", f"guidance_scale={scale:g}"]
    first = labels if index["_class_name"] == "DiTPipeline" else ["4", *labels]
    return [*first, f"num_inference_steps={steps}"]
