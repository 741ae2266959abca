"""What the rows of all tables have in common: they are trained, or taken from their folder."""

from dataclasses import replace
from pathlib import Path

from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import RunError
from reverie.core.task import Task
from reverie.data import ImageSet, Loader
from reverie.learn import Checkpoints, TrainConfig
from reverie.learn.loop import train


def learn(denoise: NetDenoiser, task: Task, config: TrainConfig, images: ImageSet, folder: Path, seed: int) -> float:
    """Train a denoiser by its task, or take its trained weights from the folder, and leave the averaged ones in the network, frozen.

    Args:
        config: of the training; it is logged, saved and validated at cadences that suit a table.

    Returns:
        Seconds of training.

    Raises:
        RunError: when it was interrupted; the same call goes on.
    """
    total = config.images
    cadences = {"log_every": max(1, total // 50), "save_every": max(1, total // 4)}
    config = replace(config, validate_every=total, sample_every=total, **cadences)
    seen = train(task, Loader(images, seed), config, folder, seed=seed)
    if seen < total:
        raise RunError(f"interrupted after {seen:,} of {total:,} images; the same command goes on")
    latest = Checkpoints(folder / "checkpoints").newest_whole()
    assert latest is not None
    denoise.net.load_state_dict({key.removeprefix("denoiser."): value for key, value in latest.tensors("ema").items()})
    denoise.net.eval().requires_grad_(False)
    return latest.state["seconds"]
