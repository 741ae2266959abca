"""A run starts from weights: those of another run, or of a pipeline that diffusers saved; what does not fit is listed."""

import re
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli.train import parse
from reverie.core.errors import InputError
from reverie.core.paths import SCHEDULES
from reverie.diffusion.config import DenoisingConfig
from reverie.learn import TrainConfig
from reverie.nets.config import UNetConfig
from reverie.recipes import serialisation, sources
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run
from reverie.recipes.training import make, train

NET = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(), heads=1, groups=4)
FIRST = Recipe(
    name="first",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=NET, kind="v", schedule="cosine"),
    train=TrainConfig(images=64, batch=16, warmup=16, lr=0.01, sample_every=10**6, validate_every=10**6),
)
WORDS = ["--train.processes", "1", "--train.device", "cpu", "--train.batch", "16", "--train.sample-every", "1000000"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return train(FIRST, tmp_path_factory.mktemp("runs") / "first")[0]


@pytest.fixture
def photographs(tmp_path):
    """Forty pictures of 16x16 in colour, without classes."""
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        pixels = np.clip(rng.normal((200, 90, 40), 30, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{i}.png")
    return tmp_path / "photographs"


def pipeline(folder, scheduler, seed=0, **changes):
    """A tiny pipeline of pixels with random weights, of which none is zero or one by chance."""
    torch.manual_seed(seed)
    options = {
        "sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    net = diffusers.UNet2DModel(**options | changes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.08 * torch.randn(parameter.shape)
    diffusers.DDPMPipeline(net.eval(), scheduler).save_pretrained(folder)
    return net


def started(init, data, folder, *words, images=32):
    """The run of ``reverie train --init INIT --data DATA``."""
    recipe = parse(["--init", str(init), "--data", str(data), *WORDS, "--train.images", str(images), *words]).recipe
    return train(recipe, folder)


def fresh(run):
    """The model of a run before its first step."""
    recipe = run.recipe
    data, held_out = (sources.load(recipe, split) for split in ("train", "test"))
    return make(recipe, data, held_out, run.folder / "nowhere").model


def test_another_runs_averaged_weights_its_network_path_and_kind(first, tmp_path, capfd):
    run, seen = started(first.folder, "digits8", tmp_path / "second")
    assert seen == 32 and run.recipe.init == str(first.folder)
    assert run.recipe.task == first.recipe.task and run.recipe.train.lr < FIRST.train.lr
    said = capfd.readouterr().err
    (taken, of), *_ = re.findall(rf"from {first.folder}: (\d+) of (\d+) tensors taken", said)
    assert taken == of and "not there" not in said
    before, averages = fresh(run).net.state_dict(), first.checkpoint.tensors("ema")
    assert all(torch.equal(value, averages[f"denoiser.{key}"]) for key, value in before.items())
    last = first.checkpoint.tensors("model")
    assert not all(torch.equal(value, last[f"denoiser.{key}"]) for key, value in before.items())
    moved = run.checkpoint.tensors("model")
    assert not all(torch.equal(value, moved[f"denoiser.{key}"]) for key, value in before.items())


def test_it_goes_on_where_it_stopped_although_the_weights_are_gone(first, tmp_path):
    """Only a run without a checkpoint starts from weights; its recipe still says from which."""
    short = parse(["--init", str(first.folder), "--data", "digits8", *WORDS, "--train.images", "32"]).recipe
    short = replace(short, train=replace(short.train, decay="constant", warmup=0))
    long = replace(short, train=replace(short.train, images=64))
    whole, _ = train(long, tmp_path / "whole")
    source = tmp_path / "source"
    first.folder.rename(source)
    try:
        train(replace(short, init=str(source)), tmp_path / "parts")
        source.rename(first.folder)
        run, _ = train(replace(long, init=str(source)), tmp_path / "parts", extending=True)
    finally:
        if source.exists():
            source.rename(first.folder)
    a, b = (r.checkpoint.tensors("model") for r in (whole, run))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert serialisation.load(run.folder / "recipe.yaml", sealed=True).init == str(source)


def test_what_does_not_fit_is_listed_and_nothing_else(first, photographs, tmp_path, capfd):
    """Of another size of pictures all fits; without classes their table is left over; a wider network fits nowhere."""
    run, _ = started(first.folder, photographs, tmp_path / "grey")
    said = capfd.readouterr().err
    assert run.spec.shape == (1, 8, 8) and "not used: denoiser.conditioning.label" in said
    assert "another shape" not in said and "too few" not in said
    before, averages = fresh(run).net.state_dict(), first.checkpoint.tensors("ema")
    assert all(torch.equal(value, averages[f"denoiser.{key}"]) for key, value in before.items())
    capfd.readouterr()
    started(first.folder, photographs, tmp_path / "colour", "--data.channels", "3")
    said = capfd.readouterr().err
    assert "of another shape: denoiser.embed.weight 8x3x3x3, there 8x1x3x3" in said
    with pytest.raises(InputError, match="no weight that fits"):
        started(first.folder, photographs, tmp_path / "other", "--net", "uvit", "--net.width", "24", "--net.heads", "2")
    with pytest.raises(InputError, match="no run in"):
        started(tmp_path / "nothing", photographs, tmp_path / "other")


TABLES = {
    "ddpm": diffusers.DDPMScheduler(),
    "scaled_linear": diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "squaredcos_cap_v2": diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "cosine": diffusers.DDPMScheduler(
        trained_betas=(-torch.expm1(2 * SCHEDULES["cosine"]().log_alpha(torch.linspace(0, 1, 1001).double()).diff())).tolist(),
        prediction_type="v_prediction",
    ),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, another count": diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=250),
    "edm": diffusers.EDMEulerScheduler(sigma_data=0.4),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_pipeline_of_diffusers_is_fine_tuned(name, photographs, tmp_path, capfd):
    """Before its first step the run says what the pipeline says; after it, another model, which diffusers loads again."""
    pipeline(tmp_path / "theirs", TABLES[name])
    theirs = rv.load(tmp_path / "theirs")
    run, seen = started(tmp_path / "theirs", photographs, tmp_path / "run")
    said = capfd.readouterr().err
    (taken, of), *_ = re.findall(r"(\d+) of (\d+) tensors taken", said)
    assert seen == 32 and taken == of and "too few" not in said and "not " not in said
    assert run.recipe.task.schedule == name.split(",")[0] and run.spec.shape == (3, 16, 16)
    begun, ended = fresh(run), run.denoiser()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for t in (0.1, 0.5, 0.9):
        point = begun.schedule.point(t)
        if name == "edm":
            point = theirs.schedule.at(point.lam)
        with torch.no_grad():
            expected = theirs(x, point).eps
            assert torch.allclose(begun(x, begun.schedule.point(t)).eps, expected, atol=2e-4), t
            assert (ended(x, ended.schedule.point(t)).eps - expected).abs().max() > 1e-3, t
            wrong = replace_name(begun, 0.02)(x, point).eps if name != "edm" else None
            assert wrong is None or (wrong - expected).abs().max() > 1e-3, "the time is read"
    images = rv.sample(run.generator(), n=2, seed=0)
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    rv.bridge.write(ended, tmp_path / "again")
    assert rv.load(tmp_path / "again").model[0] == "UNet2DModel"


def replace_name(denoise, shift):
    """The denoiser as one that is told a later time."""
    from reverie.core.denoiser import NetDenoiser

    return NetDenoiser(
        denoise.net, denoise.schedule, denoise.kind, shape=denoise.shape, time=lambda point: point.t + shift,
        data_std=denoise.data_std, learned_variance=denoise.learned_variance,
    )  # fmt: skip


def test_what_of_theirs_cannot_be_trained_on_is_said(photographs, tmp_path):
    pipeline(tmp_path / "odd", diffusers.DDPMScheduler(beta_start=0.003))
    with pytest.raises(InputError, match=r"odd cannot be trained on: its table of 1000 β is none of our paths: flow"):
        started(tmp_path / "odd", photographs, tmp_path / "run")
    pipeline(tmp_path / "foreign", diffusers.DDPMScheduler(), act_fn="mish")
    with pytest.raises(InputError, match="is no network of ours"):
        started(tmp_path / "foreign", photographs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_learned_variance_is_trained_as_one(photographs, tmp_path):
    pipeline(tmp_path / "theirs", diffusers.DDPMScheduler(variance_type="learned_range"), out_channels=6)
    run, _ = started(tmp_path / "theirs", photographs, tmp_path / "run")
    assert run.recipe.task.objective == "hybrid" and run.denoiser().learned_variance


def test_forty_photographs_are_too_few_to_learn_from_alone(photographs, tmp_path, capfd):
    recipe = parse(["--data", str(photographs), *WORDS, "--train.images", "32"]).recipe
    train(recipe, tmp_path / "alone")
    said = capfd.readouterr().err
    assert re.search(r"\d\d pictures are too few to learn from alone", said)
    assert f"reverie train --init RUN --data {photographs}" in said
    train(parse(["--data", "digits8", *WORDS, "--train.images", "32"]).recipe, tmp_path / "many")
    assert "too few" not in capfd.readouterr().err
    assert Run(tmp_path / "alone").recipe.init is None
