"""A run from Python: train, load, sample."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.paths import SCHEDULES
from reverie.diffusion.config import DenoisingConfig, OnPath, SampleConfig
from reverie.learn import Draws, TrainConfig
from reverie.learn.checkpoint import Checkpoint
from reverie.nets.config import CONFIGS, DiTConfig, UNetConfig
from reverie.recipes import sources
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run
from reverie.report import report

RECIPE = Recipe(
    name="tiny",
    task=DenoisingConfig(net=DiTConfig(patch=14, width=16, depth=1, heads=2)),
    train=TrainConfig(images=320, batch=32, warmup=32, save_every=160, validate_every=160, sample_every=10**6),
    sample=SampleConfig(steps=2),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, seen = rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "tiny")
    assert seen == 320
    return run


def test_load_gives_the_averaged_weights_frozen(run):
    denoise = rv.load(run.folder)
    weights = run.checkpoint.tensors("ema")
    assert denoise.shape == (1, 28, 28) and denoise.conditions["label"].classes == 10
    assert not denoise.net.training and not any(p.requires_grad for p in denoise.net.parameters())
    for name, parameter in denoise.net.named_parameters():
        assert torch.equal(parameter, weights[f"denoiser.{name}"])
    last = dict(rv.load(run.folder, ema=False).net.named_parameters())
    assert not all(torch.equal(p, last[name]) for name, p in denoise.net.named_parameters())


def test_a_checkpoint_by_its_folder(run):
    first = run.checkpoints.all()[0].folder
    early, late = rv.load(first), rv.load(run.folder)
    assert not all(torch.equal(p, q) for p, q in zip(early.net.parameters(), late.net.parameters(), strict=True))


def test_what_a_run_says_and_what_it_loads_are_of_one_checkpoint(run, tmp_path):
    """Training saves and removes while a reader is at work: its state, weights and headers never mix two checkpoints."""
    shutil.copytree(run.folder, tmp_path / "run")
    reader = Run(tmp_path / "run")
    first, second = reader.checkpoints.all()
    shutil.move(second.folder, tmp_path / "later")
    assert reader.checkpoint.state["images"] == 160
    early = reader.denoiser().net.state_dict()
    shutil.move(tmp_path / "later", second.folder)
    assert reader.checkpoint.state["images"] == 160, "a newer one has come"
    again = reader.denoiser().net.state_dict()
    assert all(torch.equal(early[key], again[key]) for key in early)
    shutil.rmtree(first.folder)
    late = reader.denoiser().net.state_dict()
    assert reader.checkpoint.state["images"] == 320, "the one that it knew is gone"
    assert not all(torch.equal(early[key], late[key]) for key in early)


def test_a_checkpoint_removed_between_its_two_files_is_read_again_from_the_next(run, tmp_path, monkeypatch):
    shutil.copytree(run.folder, tmp_path / "run")
    reader = Run(tmp_path / "run")
    first, second = reader.checkpoints.all()
    shutil.move(second.folder, tmp_path / "later")
    assert reader.checkpoint == first
    metadata = Checkpoint.metadata

    def gone(checkpoint, name):
        if checkpoint == first:
            shutil.rmtree(first.folder)
            shutil.move(tmp_path / "later", second.folder)
        return metadata(checkpoint, name)

    monkeypatch.setattr(Checkpoint, "metadata", gone)
    loaded, expected = reader.denoiser(), rv.load(run.folder)
    assert all(torch.equal(p, q) for p, q in zip(loaded.net.parameters(), expected.net.parameters(), strict=True))


@pytest.mark.parametrize("seed", [2**24, 20_240_101, 2**31, 2**32 + 1, 2**63 - 1])
def test_any_seed_trains_and_layers_that_draw_by_themselves_hear_all_of_it(tmp_path, seed):
    recipe = replace(
        RECIPE,
        task=DenoisingConfig(
            net=UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(), heads=1, groups=4, dropout=0.5)
        ),
        data=replace(RECIPE.data, name="digits8"),
        train=replace(RECIPE.train, images=32, sample_every=32),
        seed=seed,
    )
    run, seen = rv.recipes.train(recipe, tmp_path / "r")
    assert seen == 32 and run.recipe.seed == seed
    assert len({Draws(s, 0, 1).key("layers") % 2**32 for s in (0, 1, 2**24, 2**32, 2**32 + 1, seed)}) >= 5


def test_sampling_what_was_loaded(run):
    images = rv.sample(rv.guide.cfg(rv.load(run.folder), 2.0), n=3, cond=rv.Cond(label=7), steps=2, seed=0)
    assert images.shape == (3, 1, 28, 28) and images.isfinite().all() and not images.requires_grad


def test_training_lowers_the_validation_loss_below_that_of_a_network_that_learned_nothing(run):
    losses = [entry["validation"]["loss"] for entry in run.log if "validation" in entry]
    assert losses[-1] < losses[0]


def test_the_seed_of_a_recipe_decides_its_first_weights():
    spec = rv.data.load("mnist5k").spec
    first, again, other = (RECIPE.task.build(spec, seed).net.embed.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_recipe_without_its_data_resolved_builds_nothing():
    with pytest.raises(InputError, match="size and channels"):
        sources.spec(RECIPE.data)


def test_a_model_whose_labels_were_never_dropped_is_not_guided(run):
    never, denoise = replace(run.recipe.task, drop=0.0), rv.load(run.folder)
    assert never.generator(denoise, SampleConfig(scale=1.0)).denoise is denoise
    assert never.usual(SampleConfig(scale=2.0)).scale == 1.0 and run.recipe.usual.scale == 2.0
    with pytest.raises(InputError, match=r"drop 0"):
        never.generator(denoise, SampleConfig(scale=2.0))


def test_the_help_names_every_path_there_is():
    (said,) = re.findall(r"^ *schedule: the path from data to noise: (.*)$", OnPath.__doc__ or "", re.MULTILINE)
    assert set(re.findall(r"\b[a-z0-9_]+\b(?=,| or|\.$)", said)) == set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("times", ["uniform", "logit-normal", "logsnr"])
def test_every_path_and_density_trains_and_samples(tmp_path, schedule, times):
    kind, time = ("edm", "log_sigma") if schedule in ("ve", "edm") else ("v", "t")
    task = replace(RECIPE.task, schedule=schedule, times=times, kind=kind, time=time, data_std=0.5)
    train = replace(RECIPE.train, images=32, sample_every=32)
    run, _ = rv.recipes.train(
        replace(RECIPE, task=task, train=train, sample=SampleConfig(steps=2, grid="logsnr")), tmp_path / "r"
    )
    assert len(list((run.folder / "samples").iterdir())) == 1
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in run.log if "loss" in entry)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_trains_on_labels_draws_and_is_reported(name, tmp_path):
    """Also those that were published with a text: what the data does not give is asked for by nobody."""
    small = {"unet": {"width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "heads": 1, "groups": 4}}
    net = CONFIGS[name](**small.get(name, {"patch": 4, "width": 16, "depth": 3, "heads": 2}))
    train = replace(RECIPE.train, images=32, sample_every=32)
    recipe = replace(RECIPE, task=DenoisingConfig(net=net), data=replace(RECIPE.data, name="digits8"), train=train)
    run, _ = rv.recipes.train(recipe, tmp_path / "r")
    denoise = rv.load(run.folder)
    assert set(denoise.conditions) == {"label"}
    one, other = (rv.sample(denoise, 1, rv.Cond(label=k), steps=2) for k in (1, 2))
    assert one.isfinite().all() and one.shape == other.shape == (1, 1, 8, 8)
    assert name in report(run).read_text()


def test_a_condition_that_nobody_gives_is_refused(tmp_path):
    for net in (UNetConfig(context=8), UNetConfig(vector=3), DiTConfig(vector=3), DiTConfig(image=1)):
        with pytest.raises(InputError, match="the data gives label"):
            rv.recipes.train(replace(RECIPE, task=DenoisingConfig(net=net)), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_run_goes_on_with_the_pictures_it_began_with_only(tmp_path):
    """A picture added, removed or changed between two calls is told, with nothing touched; put back, the run goes on."""
    folder, generator = tmp_path / "mine", np.random.default_rng(0)
    folder.mkdir()

    def draw(name: str) -> None:
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / name)

    for i in range(40):
        draw(f"{i}.png")
    task = DenoisingConfig(net=DiTConfig(patch=8, width=16, depth=1, heads=2))
    recipe = replace(RECIPE, name="", task=task, data=DataConfig(name=str(folder)))
    short = replace(recipe, train=replace(RECIPE.train, images=64))
    rv.recipes.train(short, tmp_path / "run")
    state = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    kept = (folder / "3.png").read_bytes()

    def refused() -> None:
        with pytest.raises(InputError, match=r"began with other pictures[\s\S]*data\.contents +40 pictures"):
            rv.recipes.train(short, tmp_path / "run")
        assert state == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    draw("new.png")
    refused()
    (folder / "new.png").unlink()
    draw("3.png")
    refused()
    (folder / "3.png").write_bytes(kept)
    (folder / "3.png").rename(folder / "003.png")
    refused()
    (folder / "003.png").rename(folder / "3.png")
    assert rv.recipes.train(short, tmp_path / "run")[1] == 64


def test_readers_ahead_change_no_bit_and_may_come_and_go(tmp_path):
    """Mirrored digits read by two workers, stopped and gone on with by none: the weights of one process that reads for itself."""
    train = replace(RECIPE.train, micro_batch=12, sample_every=10**6)
    recipe = replace(
        RECIPE,
        data=DataConfig(name="digits8", flip=True),
        task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2)),
        train=train,
    )
    plain, _ = rv.recipes.train(recipe, tmp_path / "plain")
    ahead, _ = rv.recipes.train(replace(recipe, train=replace(train, workers=2)), tmp_path / "ahead")
    shutil.copytree(ahead.folder, tmp_path / "cut")
    shutil.rmtree(Run(tmp_path / "cut").checkpoints.all()[-1].folder)
    cut, seen = rv.recipes.train(recipe, tmp_path / "cut")
    assert seen == 320
    whole = plain.checkpoint.tensors("model")
    for run in (ahead, cut):
        assert all(torch.equal(value, whole[key]) for key, value in run.checkpoint.tensors("model").items())
    unflipped, _ = rv.recipes.train(replace(recipe, data=DataConfig(name="digits8")), tmp_path / "unflipped")
    assert not all(torch.equal(value, whole[key]) for key, value in unflipped.checkpoint.tensors("model").items())
