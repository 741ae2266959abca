"""Settings that suit the data: what ``reverie train --data X`` takes where neither a recipe nor a network is chosen.

They are the demo's, sized by what is known of the pictures: a U-Net that folds small squares of pixels into channels, corrects the exact
denoiser of a Gaussian a class, and learns by Muon with a rate that falls to zero at the end.
"""

import os
from dataclasses import replace

from reverie import data
from reverie.core import devices
from reverie.data import ImageSet
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn.config import TrainConfig
from reverie.nets.presets import for_pictures
from reverie.recipes import serialisation
from reverie.recipes.recipe import Recipe

EPOCHS, LEAST, MOST = 12, 20_000, 500_000
"""Times that each picture is seen, within a least and a most number of images."""
AXES, ENOUGH = 64, 8
"""Axes of the prior, and the pictures a class from which one is fitted."""
LARGEST = 64
"""Pixels of the longer side on a processor, unless another size is asked for."""


def largest(device: str) -> int:
    """The side that is inferred for a folder at most, on a device."""
    return LARGEST if devices.choose(device).type == "cpu" else 256


def pictures(recipe: Recipe) -> ImageSet:
    """The data that a recipe chooses, of a size that suits the device where none is asked for."""
    config = recipe.data
    return data.load(
        config.name, size=config.size, channels=config.channels, fit=config.fit, largest=largest(recipe.train.device)
    )


def suiting(recipe: Recipe) -> Recipe:
    """``recipe``, whose data is chosen, with everything else as it suits them."""
    serialisation.check_recipe(recipe)
    images = pictures(recipe)
    return suited(images, replace(recipe, data=replace(recipe.data, size=images.size)))


def suited(images: ImageSet, recipe: Recipe) -> Recipe:
    """``recipe``, whose data and device are chosen, with the task, training and sampling that suit its pictures."""
    captioned = recipe.data.captions
    labelled = recipe.data.labels and images.labels is not None and not captioned
    mapped = recipe.data.maps is not None
    guided = labelled or captioned or mapped
    classes = max(1, len(images.classes)) if labelled else 1
    total = min(MOST, max(LEAST, EPOCHS * len(images)))
    if recipe.train.images != TrainConfig().images:
        total = recipe.train.images
    cpu = devices.choose(recipe.train.device).type == "cpu"
    batch = 32 if cpu else 128
    every, rest = max(1, total // 6), total % batch
    processes = 2 if cpu and len(os.sched_getaffinity(0)) > 1 and rest != 1 else 1
    return replace(
        recipe,
        task=DenoisingConfig(
            net=for_pictures(*images.shape),
            times_mean=0.2 if images.channels == 3 else 0.0,
            prior=AXES if len(images) >= ENOUGH * classes and not mapped else None,
        ),
        train=TrainConfig(
            images=total,
            batch=batch,
            optimizer="muon",
            lr=0.02,
            weight_decay=0.0,
            warmup=total // 30,
            decay="linear",
            processes=processes,
            validate_every=every,
            sample_every=every,
            save_every=every,
            device=recipe.train.device,
        ),
        sample=SampleConfig(steps=20, scale=2.0 if guided else 1.0, guide_below=2.0 if guided else None),
    )
