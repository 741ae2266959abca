"""Masked tokens: the counts of each step, known tokens that stay, guidance on logits, and a run."""

import itertools
from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.families.maskgit import MaskGIT, Masking, gumbel, halton, masked
from reverie.families.token_config import AutoencoderConfig, MaskedSample, MaskGITConfig
from reverie.families.token_net import categorical, guided
from reverie.learn import TrainConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces.config import SpaceConfig

from .runs import resumes

SPACE = SpaceConfig(name="vq", patch=2, dims=4, codes=16, width=8, images=1024)
CONFIG = MaskGITConfig(space=SPACE, width=32, depth=2, heads=2)
RECIPE = Recipe(
    name="maskgit",
    data=DataConfig(name="digits8"),
    task=CONFIG,
    train=TrainConfig(
        images=6400, batch=64, lr=3e-3, warmup=64, save_every=3200, validate_every=3200, sample_every=6400
    ),
)


@pytest.fixture(scope="module")
def model() -> MaskGIT:
    model = CONFIG.build(rv.data.load("digits8").spec, 0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    model.space.codebook.codes.normal_()
    return model


def test_the_counts_are_those_of_the_cosine():
    """64 tokens in 8 steps: ⌊64·cos(π(t+1)/16)⌋, by hand."""
    assert masked(64, 8) == [62, 59, 53, 45, 35, 24, 12, 0]
    assert masked(64, 8) != [int(64 * (1 - (t + 1) / 8)) for t in range(8)]  # a linear schedule
    for length, steps in ((5, 8), (49, 1), (49, 12), (16, 16)):
        left = masked(length, steps)
        assert len(left) == steps and left[-1] == 0 and min(left[:-1], default=1) >= 1
        assert all(a > b or a == b == 1 for a, b in zip([length, *left], left, strict=False))


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_each_step_leaves_so_many_masked_and_what_is_known_stays(model, order):
    model = model.drawing(MaskedSample(steps=6, order=order))
    length, mask = model.length, model.net.mask
    tokens = torch.full((3, length), mask)
    tokens[1, :6] = torch.arange(6)
    tokens[2] = 7
    seen = []
    done = model.filled(tokens, Cond(label=[1, 2, 3]), Tape(sample_seeds(0, 3)), lambda t, now: seen.append(now))
    counts = torch.stack([(now == mask).sum(1) for now in seen])
    assert counts[:, 0].tolist() == masked(length, 6) and counts[:, 1].tolist() == masked(length - 6, 6)
    assert counts[:, 2].tolist() == [0] * 6
    assert torch.equal(done[1, :6], torch.arange(6)) and (done[2] == 7).all() and (done < mask).all()
    for before, after in itertools.pairwise(seen):  # what was kept once is never taken back
        kept = before != mask
        assert torch.equal(after[kept], before[kept])


def test_the_halton_order_is_a_permutation_that_spreads():
    ranks = halton(8, 8)
    assert ranks.sort().values.tolist() == list(range(64))
    assert halton(4, 6).sort().values.tolist() == list(range(24))

    def nearest(places: torch.Tensor) -> float:
        """The mean distance of each place to the next of them."""
        at = torch.stack([places // 8, places % 8], 1).float()
        return (torch.cdist(at, at) + 100 * torch.eye(len(at))).min(1).values.mean().item()

    first = ranks.argsort()[:9]
    assert nearest(first) > 1.3 * nearest(torch.arange(9))
    assert nearest(first) > 1.2 * sum(nearest(torch.randperm(64)[:9]) for _ in range(50)) / 50


def test_a_draw_of_one_of_several_has_their_frequencies():
    logits = torch.tensor([0.0, 1.0, -1.0, -torch.inf]).expand(200, 100, 4)
    found = categorical(logits, torch.randn(200, 100))
    share = torch.bincount(found.flatten(), minlength=4) / found.numel()
    expected = logits[0, 0].softmax(0)
    assert (share - expected).abs().max() < 4 * (0.25 / found.numel()) ** 0.5
    assert share[3] == 0
    extreme = categorical(logits[:1, :2], torch.tensor([[-40.0, 40.0]]))
    assert extreme.tolist() == [[0, 2]]


def test_gumbel_noise_is_that():
    noise = gumbel(torch.randn(100_000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02) and noise.var().item() == pytest.approx(
        1.6449, abs=0.05
    )
    assert gumbel(torch.tensor([-30.0, 9.0])).isfinite().all()


def test_guidance_moves_logits_away_from_those_without_a_label(model):
    tokens, label = torch.randint(0, 17, (2, model.length)), Cond(label=[3, 4])
    told, untold = model.net(tokens, label), model.net(tokens, None)
    torch.testing.assert_close(model.drawing(MaskedSample(scale=1.0)).logits(tokens, label), told)
    torch.testing.assert_close(
        model.drawing(MaskedSample(scale=3.0)).logits(tokens, label), untold + 3 * (told - untold), atol=1e-4, rtol=1e-4
    )
    assert (told - untold).abs().max() > 0.1
    torch.testing.assert_close(guided(torch.cat([told, untold]), 0.0), untold)


def test_what_is_masked_in_training_follows_the_cosine_and_nothing_else_counts(model):
    data = rv.data.load("digits8")
    task = Masking(model, data, drop=0.0, smoothing=0.0)
    share = task.hidden(Draws(0, 0, 4096)).float().mean(1)
    assert share.mean().item() == pytest.approx(2 / torch.pi, abs=0.02) and share.min() >= 1 / model.length
    batch, rng = data.batch(range(8)), Draws(0, 0, 8)
    found = task.loss("net", batch, rng, None)["surprise"]  # pyright: ignore[reportArgumentType]
    tokens, hidden = model.space.tokens(batch.x), task.hidden(rng)
    log_p = model.net(tokens.masked_fill(hidden, 16), batch.cond).log_softmax(-1)
    by_hand = torch.stack([-log_p[i][hidden[i]].gather(1, tokens[i][hidden[i]][:, None]).mean() for i in range(8)])
    torch.testing.assert_close(found, by_hand)
    everywhere = -log_p.gather(2, tokens[..., None])[..., 0].mean(1)
    assert (found - everywhere).abs().max() > 1e-2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "maskgit")[0]


def test_a_run_draws(run):
    model = rv.load(run.folder)
    few = rv.sample(model, cond=Cond(label=[3, 4]), seed=5)
    assert few.shape == (2, 1, 8, 8)
    torch.testing.assert_close(rv.sample(model, 1, Cond(label=3), seed=5), few[:1], atol=1e-5, rtol=0)
    assert rv.sample(model, 2).shape == (2, 1, 8, 8)  # labels were dropped
    frames = []
    model.sample(2, seed=5, on_step=lambda frame: frames.append(frame.state()))
    assert len(frames) == 8 and frames[0].shape == (2, 1, 8, 8)
    losses = [entry["validation"]["loss"] for entry in run.log if "validation" in entry]
    assert losses[-1] < losses[0] < 2.8  # log 16 = 2.77
    with pytest.raises(InputError, match="out of range"):
        rv.sample(model, 1, Cond(label=11))


def test_it_resumes_bitwise_after_its_space(tmp_path, monkeypatch):
    short = replace(RECIPE, train=replace(RECIPE.train, images=512, save_every=256, validate_every=512))
    short = replace(short, task=replace(CONFIG, space=replace(SPACE, images=128)))
    assert resumes(short, tmp_path, monkeypatch)


def test_it_works_on_the_tokens_of_another_run_and_on_no_others(tmp_path):
    train = TrainConfig(images=128, batch=64, warmup=64, save_every=128, validate_every=128, sample_every=128)
    data = DataConfig(name="digits8")
    for kind in ("vq", "conv-vae"):
        own = AutoencoderConfig(kind=kind, patch=2, dims=4, codes=16, width=8)
        rv.recipes.train(Recipe(name=kind, data=data, task=own, train=train), tmp_path / kind)
    task = replace(CONFIG, space=SpaceConfig(name=str(tmp_path / "vq")))
    run, _ = rv.recipes.train(replace(RECIPE, task=task, train=train), tmp_path / "run")
    x = rv.data.load("digits8").batch(range(4)).x
    assert torch.equal(rv.load(run.folder).space.tokens(x), rv.load(tmp_path / "vq").tokens(x))
    with pytest.raises(InputError, match=r"tokens of a VQ \(vq\): got a ConvVAE"):
        task = replace(CONFIG, space=SpaceConfig(name=str(tmp_path / "conv-vae")))
        rv.recipes.train(replace(RECIPE, task=task, train=train), tmp_path / "other")


def test_without_dropped_labels_there_is_no_guidance_and_no_draw_without(tmp_path):
    train = TrainConfig(images=64, batch=64, warmup=64, save_every=64, validate_every=64, sample_every=64)
    task = replace(CONFIG, drop=0.0, space=replace(SPACE, images=64))
    run, _ = rv.recipes.train(replace(RECIPE, task=task, train=train), tmp_path / "run")
    with pytest.raises(InputError, match="trained with drop 0"):
        run.generator(MaskedSample(scale=2.0))
    with pytest.raises(InputError, match="cannot draw without a label"):
        rv.sample(rv.load(run.folder), 2)
