"""Next-scale prediction: no token sees its own scale's truth or later ones, decoding is teacher forcing step by step, and a run."""

import itertools
from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.families.token_config import ScaledSample, VARConfig
from reverie.families.var import VAR, Scaling
from reverie.learn import TrainConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces.config import SpaceConfig

from .runs import resumes

SPACE = SpaceConfig(name="multiscale-vq", patch=2, dims=4, codes=16, width=8, images=1024)
CONFIG = VARConfig(space=SPACE, width=32, depth=2, heads=2)
RECIPE = Recipe(
    name="var",
    data=DataConfig(name="digits8"),
    task=CONFIG,
    train=TrainConfig(
        images=6400, batch=64, lr=3e-3, warmup=64, save_every=3200, validate_every=3200, sample_every=6400
    ),
)
SIZES = [1, 4, 16]
STARTS = [0, 1, 5, 21]


@pytest.fixture(scope="module")
def model() -> VAR:
    torch.manual_seed(0)
    model = CONFIG.build(rv.data.load("digits8").spec, 0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.space.codebook.codes.normal_()
        model.space.smooth.weight.normal_(std=0.1)
    model.net.eval()
    return model


def test_a_scale_depends_on_all_earlier_ones_and_on_nothing_else(model):
    """Changing a token of scale k changes the logits of every later scale, and bitwise nothing of scales 1 … k."""
    tokens, label = torch.randint(0, 16, (1, 21)), Cond(label=3)
    logits = model.net(model.before(tokens), label)
    assert logits.shape == (1, 21, 16)
    for k, (start, stop) in enumerate(itertools.pairwise(STARTS)):
        other = tokens.clone()
        other[0, start] = (other[0, start] + 5) % 16
        changed = (model.net(model.before(other), label) - logits).abs().amax((0, 2))
        assert (changed[:stop] < 1e-5).all()
        if k < 2:
            assert (changed[stop:] > 1e-4).all()
    blind = model.net.predict(  # the control: without the mask the coarse sees the fine
        torch.cat([model.net.embed["start"](label, 1)[:, None], model.net.embed["before"](model.before(tokens))], 1),
        label,
    )
    assert (blind - logits)[:, 0].abs().max() > 1e-3


def test_drawing_predicts_as_training_does(model):
    model = model.drawing(ScaledSample(scale=1.0))
    tokens, label = torch.randint(0, 16, (2, 21)), Cond(label=[3, 4])
    at_once, start = model.net(model.before(tokens), label), 0
    for size in SIZES:
        step = model.logits(tokens[:, :start], label)
        torch.testing.assert_close(step, at_once[:, start : start + size], atol=1e-4, rtol=1e-4)
        start += size
    shifted = model.logits(tokens[:, :5].flip(1), label)
    assert (shifted - at_once[:, 5:21]).abs().max() > 1e-2


def test_guidance_grows_from_the_coarsest_scale_to_the_finest(model):
    tokens, label = torch.randint(0, 16, (2, 21)), Cond(label=[3, 4])
    strong, plain = model.drawing(ScaledSample(scale=3.0)), model.drawing(ScaledSample(scale=1.0))
    for k, start in enumerate(STARTS[:3]):
        told, untold = plain.logits(tokens[:, :start], label), plain.logits(tokens[:, :start], None)
        expected = untold + (1 + k) * (told - untold)
        torch.testing.assert_close(strong.logits(tokens[:, :start], label), expected, atol=1e-4, rtol=1e-4)
        assert (told - untold).abs().max() > 1e-2


def test_the_loss_is_the_surprise_at_the_tokens(model):
    data, model = rv.data.load("digits8"), model.drawing(ScaledSample(scale=1.0))
    batch = data.batch(range(8))
    found = Scaling(model, data, 0.0).loss("net", batch, Draws(0, 0, 8), None)["surprise"]  # pyright: ignore[reportArgumentType]
    tokens = model.space.tokens(batch.x)
    log_p = torch.cat([model.logits(tokens[:, :start], batch.cond).log_softmax(-1) for start in STARTS[:3]], 1)
    torch.testing.assert_close(found, -log_p.gather(2, tokens[..., None])[..., 0].mean(1), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "var")[0]


def test_a_run_draws(run):
    model = rv.load(run.folder)
    few = rv.sample(model, cond=Cond(label=[3, 4]), seed=5)
    assert few.shape == (2, 1, 8, 8)
    torch.testing.assert_close(rv.sample(model, 1, Cond(label=3), seed=5), few[:1], atol=1e-5, rtol=0)
    assert rv.sample(model, 2).shape == (2, 1, 8, 8)
    frames = []
    model.sample(2, seed=5, on_step=lambda frame: frames.append(frame.state()))
    assert len(frames) == 3
    torch.testing.assert_close(frames[-1], rv.sample(model, 2, seed=5))
    losses = [entry["validation"]["loss"] for entry in run.log if "validation" in entry]
    assert losses[-1] < losses[0] < 2.8


def test_it_resumes_bitwise_after_its_space(tmp_path, monkeypatch):
    short = replace(RECIPE, train=replace(RECIPE.train, images=512, save_every=256, validate_every=512))
    short = replace(short, task=replace(CONFIG, space=replace(SPACE, images=128)))
    assert resumes(short, tmp_path, monkeypatch)


def test_a_space_of_one_scale_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"tokens of a MultiScaleVQ \(multiscale-vq\): got a VQ"):
        rv.recipes.train(replace(RECIPE, task=replace(CONFIG, space=replace(SPACE, name="vq"))), tmp_path / "run")
