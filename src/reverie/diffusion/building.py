"""From the settings of diffusion's tasks to what they describe: space, network, denoiser, objective, sampler."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from reverie import guide, nets, spaces
from reverie.core import spelling
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Image
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError, unknown
from reverie.core.files import inside
from reverie.core.paths import SCHEDULES
from reverie.core.schedules import Schedule
from reverie.core.space import Identity, Space
from reverie.core.task import Given
from reverie.core.times import LogitNormal, LogNormalSigma, LogSNR, TimeSampler, Uniform
from reverie.data import Loader, captions, encoded
from reverie.data.codes import of_codes
from reverie.diffusion import first_stage
from reverie.diffusion.augment import CHANGES, TOLD
from reverie.diffusion.config import ClassifierConfig, DenoisingConfig, OnPath, RestoreConfig, SampleConfig
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.showing import shown
from reverie.diffusion.texts import BESIDE, reading, texts_of
from reverie.diffusion.vlb import VLB, Hybrid
from reverie.guide.classifier import NetClassifier
from reverie.learn.config import TrainConfig
from reverie.nets.caption_prior import CaptionPrior
from reverie.nets.prior import Prior
from reverie.solve import Sampler, auto, grids
from reverie.spaces.config import FILE, SpaceConfig
from reverie.spaces.files import SPACES
from reverie.spaces.latent import Latent
from reverie.spaces.tokenizing import Tokenizing

SPACE = "space"
"""In a run's folder, that of the training of its space."""
HELD_OUT = 512
"""Held-out samples that training validates on."""
FITTED = 20_000
"""Training samples that a prior is fitted to."""


def prepare_space(config: SpaceConfig, given: Given) -> None:
    """Leave the space in the run's folder: fitted or trained on its data, or taken from the run that trained it.

    Raises:
        InputError: when there is no such space or run, or it does not fit the data.
        RunError: when its training was interrupted; the same command goes on with it.
    """
    path = given.folder / FILE
    if config.name == "pixels" or path.exists():
        return
    if config.name == "pca":
        space: Latent = spaces.PatchPCA.fit(given.data, config.patch, config.dims)
    elif config.name in SPACES:
        space = _trained_space(config, given)
    elif Path(config.name).expanduser().exists():
        space = given.load(config.name)
        if (coded := getattr(space, "as_space", None)) is not None:
            space = coded(given.data)
        if not isinstance(space, Latent):
            raise InputError(
                f"{config.name} gives a {type(space).__name__}, no space: train one with `reverie train autoencoder`"
            )
    else:
        raise unknown("space", config.name, ["pixels", *SPACES])
    space.code_shape(given.spec.shape)
    spaces.save(space, inside(given.folder, FILE))


def _trained_space(config: SpaceConfig, given: Given) -> Latent:
    """One that is trained in a folder of the run."""
    task, folder = tokenizer(config, given), inside(given.folder, SPACE)
    batch, warmup = config.batch, min(3_200, config.images // 10)
    learn_space(task, given.data, config.images, folder, given.seed, given.device, batch=batch, warmup=warmup)
    return task.space


def tokenizer(config: SpaceConfig, given: Given) -> Tokenizing:
    """What trains the space of a run, from the beginning."""
    first_stage.keep_judge(config, given)
    stage = first_stage.build(config, given.spec, given.seed, given.folder)
    return first_stage.tokenizing(config, stage, given.data, given.held_out, given.seed)


def learn_space(
    task: Tokenizing,
    data: Dataset,
    images: int,
    folder: Path,
    seed: int,
    device: str = "auto",
    *,
    batch: int = 64,
    warmup: int = 3_200,
) -> None:
    """Train a space on so many images, or go on with it.

    Raises:
        RunError: when it was interrupted.
    """
    config = TrainConfig(
        images=images,
        batch=batch,
        lr=3e-3,
        weight_decay=0.0,
        warmup=min(warmup, images),
        log_every=max(1, images // 50),
        validate_every=images,
        sample_every=images,
        save_every=max(1, images // 4),
        device=device,
    )
    first_stage.learned(task, Loader(data, seed), config, folder, seed, f"the space {task.space.name}")
    task.space.eval().requires_grad_(False)


def space_of(config: SpaceConfig, spec: DataSpec, folder: Path | None) -> Space:
    """The space that was prepared in a run's folder; without, one of the same shape. Pixels need none.

    Raises:
        InputError: for an unknown space, or sizes that do not fit.
    """
    if config.name == "pixels":
        return Identity()
    return spaces.build(config, spec.shape[0]) if folder is None else spaces.load(folder / FILE)


def coded(data: Dataset, folder: Path, codes: Path, device: torch.device | str = "cpu") -> Dataset:
    """The codes of a data set in the space that was prepared in a run's folder, made once, on a device, and kept in ``codes``; an empty one
    stays as it is."""
    if not len(data):
        return data
    return encoded(data, spaces.load(folder / FILE).to(device), codes, device)  # pyright: ignore[reportArgumentType]


def schedule_of(config: OnPath) -> Schedule:
    """The path of the settings.

    Raises:
        InputError: for an unknown name.
    """
    if config.schedule not in SCHEDULES:
        raise unknown("schedule", config.schedule, SCHEDULES)
    return SCHEDULES[config.schedule]()


def times(config: OnPath, schedule: Schedule) -> TimeSampler:
    """The density of the training times."""
    known = config.resolved()
    assert known.times_mean is not None and known.times_std is not None
    if config.times == "logit-normal":
        return LogitNormal(known.times_mean, known.times_std)
    if config.times == "lognormal-sigma":
        return LogNormalSigma(schedule, known.times_mean, known.times_std)
    return Uniform() if config.times == "uniform" else LogSNR(schedule)


def _classes(spec: DataSpec) -> int | None:
    return len(spec.classes) if "label" in spec.conditions else None


def _net(seed: int, config: object, shape: tuple[int, ...], **given: int | None) -> nn.Module:
    """A network for pictures or codes of a shape, freshly initialised by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nets.build(config, channels=shape[0], size=shape[1:], **given)  # pyright: ignore[reportArgumentType]


def denoiser(config: DenoisingConfig, spec: DataSpec, seed: int, folder: Path | None) -> NetDenoiser:
    """The model, its network freshly initialised.

    Raises:
        InputError: when the network cannot take the size of the data.
    """
    space, classes = space_of(config.space, spec, folder), _classes(spec)
    shape, schedule = space.code_shape(spec.shape), schedule_of(config)
    pooled, spelt = hasattr(config.net, "vector"), config.prior_captions is not None
    own, texts = config.net, texts_of(config.text, spec, seed, pooled, folder, spelt)
    if texts is not None:
        own = reading(own, texts)
    elif getattr(own, "context", 0) == getattr(type(own)(), "context", 0) != 0:
        own = replace(own, context=0)  # asked for by nobody
    net = _net(seed, own, shape, classes=classes, image=_seen(config, spec, shape))
    if config.prior_neighbours and not spelt:
        raise InputError(
            "prior_neighbours are pictures of nearest captions: add --prior-captions as well, or leave it out"
        )
    if spelt and (texts is None or config.prior is None):
        raise InputError(
            "prior_captions tells the closed form of captions: add --prior RANK and, with data that has them, --data.captions, "
            "or leave it out, --prior-captions None"
        )
    if config.prior and config.prior_captions:
        net.prior = CaptionPrior(config.prior_captions, shape, config.prior, config.prior_neighbours)
    elif config.prior:
        net.prior = Prior(classes or 1, shape, config.prior)
    denoise = NetDenoiser(
        net,
        schedule,
        config.kind,
        shape=shape,
        time=config.time,
        data_std=config.data_std,
        learned_variance=learns_variance(config.net),
        space=space,
    )
    if config.augment:  # the network is told, the model takes no condition more
        net.listen(CHANGES, count=TOLD)  # pyright: ignore[reportCallIssue]
    if texts is not None:
        denoise.told = texts.told
        denoise.conditioner = Conditioner(denoise.conditions, spec.classes, texts)
    return denoise


def _seen(config: DenoisingConfig, spec: DataSpec, shape: tuple[int, ...]) -> int:
    """Channels of the picture that the network is shown: the estimate of a prior, or a map that comes with the data."""
    told = spec.conditions.get("image")
    if not isinstance(told, Image):
        return shape[0] * (1 + config.prior_neighbours) if config.prior else 0
    if config.prior or config.space.name != "pixels":
        raise InputError(
            "a map is told in the place of a prior's estimate, and beside pixels: leave prior and space out"
        )
    if config.augment:
        raise InputError("augment changes pictures and not the maps that they are told: leave augment out")
    return told.channels


def learns_variance(net: object) -> bool:
    """Whether the settings of a network ask for a learned variance."""
    return getattr(net, "learn_sigma", False)


def check_objective(config: DenoisingConfig) -> None:
    """Raise an :class:`InputError` unless the objective trains all that the network gives, and looks at all that is set."""
    if config.augment and (config.objective != "simple" or config.space.name != "pixels"):
        raise InputError(
            "augment changes pictures, of which neither the bound (--objective) nor the codes of a --space are: leave one of them out"
        )
    if config.objective == "simple":
        if learns_variance(config.net):
            raise InputError(
                "the simple objective trains no variance: with net.learn_sigma use --objective hybrid or vlb, or --net.no-learn-sigma"
            )
        return
    if config.objective == "hybrid" and not learns_variance(config.net):
        raise InputError(
            "the objective hybrid trains the network's variance: add --net.learn-sigma (dit and unet have one)"
        )
    if config.times != "uniform":
        raise InputError(f"the objective {config.objective} is a sum over all steps of a chain: add --times uniform")
    if config.objective == "vlb" and config.loss_kind is not None:
        raise InputError("the objective vlb measures no squared error: leave out loss_kind")


def classifier(config: ClassifierConfig, spec: DataSpec, seed: int, folder: Path | None) -> NetClassifier:
    """The classifier, freshly initialised.

    Raises:
        InputError: when the data has no classes, or the network cannot take its size.
    """
    space, classes = space_of(config.space, spec, folder), _classes(spec)
    if classes is None:
        raise InputError("a classifier learns from labels: use data with classes, and data.labels true")
    shape = space.code_shape(spec.shape)
    own = config.net
    if "text" not in spec.conditions and getattr(own, "context", 0) == getattr(type(own)(), "context", 0) != 0:
        own = replace(own, context=0)  # asked for by nobody
    net = _net(seed, own, shape, classes=classes)
    return NetClassifier(net, schedule_of(config), classes, shape=shape, time=config.time, space=space)


def check_fed(model: NetDenoiser | NetClassifier, spec: DataSpec) -> None:
    """Raise an :class:`InputError` when the network listens to conditions that the data does not give."""
    given_by_text = BESIDE if getattr(model, "told", None) is not None else ()
    if unfed := [name for name in getattr(model, "conditions", ()) if name not in {*spec.conditions, *given_by_text}]:
        given = ", ".join(spec.conditions) or "none"
        raise InputError(
            f"the network listens to the conditions {', '.join(unfed)}, and the data gives {given}: leave the settings of net that ask for "
            "more (context, vector, image) at 0"
        )


def unseen(held_out: Dataset) -> Batch | None:
    """What training validates on."""
    return held_out.batch(range(min(HELD_OUT, len(held_out)))) if len(held_out) else None


def denoising(
    config: DenoisingConfig, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int
) -> Denoising:
    """The objective, on pictures or on codes of them; a prior is fitted to the data."""
    codes = of_codes(data)
    if model.prior is not None:
        _fit_prior(model, data)
    objective = {"simple": partial(Denoising, times=times(config, model.schedule)), "hybrid": Hybrid, "vlb": VLB}
    return objective[config.objective](
        model,
        drop=config.drop,
        loss_kind=config.loss_kind,
        coded=codes,
        **({"augment": config.augment} if config.augment else {}),
        word_drop=config.text.drop,
        held_out=unseen(held_out),
        show=shown(data, partial(sampler, config, sample=sample), seed, model.space if codes else None)
        if len(data.spec.shape) == 3
        else None,
    )


def _fit_prior(model: NetDenoiser, data: Dataset) -> None:
    """Fit the network's prior to the codes of at most :data:`FITTED` samples, or to all that have captions where it is told these."""
    if isinstance(model.prior, CaptionPrior):
        found = captions.of(data)
        assert found is not None
        told = torch.tensor([row for row, texts in enumerate(found.texts) if texts])
        grams = [spelling.grams(spelling.spelled(found.texts[row], found.length)).mean(0) for row in told.tolist()]
        batches = [data.batch(rows * found.ways) for rows in told.split(500)]
        codes = [batch.x if of_codes(data) else model.space.encode(batch.x) for batch in batches]
        model.prior.fit(torch.cat(codes), torch.stack(grams))
        return
    rows = torch.arange(0, len(data), -(-len(data) // FITTED))
    batches = [data.batch(part) for part in rows.split(500)]
    labels = [label for batch in batches if (label := batch.label) is not None]
    codes = [batch.x if of_codes(data) else model.space.encode(batch.x) for batch in batches]
    model.prior.fit(torch.cat(codes), torch.cat(labels) if labels else None)


def sampler(config: DenoisingConfig, denoise: Denoiser, sample: SampleConfig) -> Sampler:
    """What draws by the settings, guided by label where the model takes one.

    Raises:
        InputError: for an unknown solver or grid, or a model that cannot be guided.
    """
    return Sampler(guided(config, denoise, sample), **solving(sample))


def solving(sample: SampleConfig | RestoreConfig) -> dict:
    """The arguments ``solver``, ``steps`` and ``grid`` of :func:`reverie.sample`, and ``temperature`` where there is one.

    Raises:
        InputError: for an unknown solver or grid.
    """
    if auto.split(sample.solver)[0] not in auto.CHOICES:
        raise unknown("solver", sample.solver, auto.CHOICES)
    grids.check_steps(sample.steps)
    grid = None if sample.grid is None else grids.named(sample.grid)
    how = {"solver": sample.solver, "steps": sample.steps, "grid": grid}
    return {**how, "temperature": sample.temperature} if isinstance(sample, SampleConfig) else how


def guided(config: DenoisingConfig, denoise: Denoiser, sample: SampleConfig) -> Denoiser:
    """The denoiser at the settings' guidance scale; as it is at scale 1 or without classes.

    Raises:
        InputError: when the model cannot be guided, because its labels were never dropped in training.
    """
    if sample.scale == 1.0 or not denoise.conditions:
        return denoise
    if config.drop == 0.0:
        raise InputError(
            "this model was trained with drop 0, so it cannot be guided: use scale 1, or train with drop 0.1"
        )
    below = sample.guide_below
    return guide.cfg(denoise, sample.scale, None if below is None else (-math.inf, below))
