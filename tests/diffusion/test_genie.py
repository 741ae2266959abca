"""The head against the derivative of a mixture's flow, and as a run."""

import copy
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VP
from reverie.diffusion import Genie
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.diffusion.genie import GenieHead, WithHead
from reverie.diffusion.teacher import GenieConfig
from reverie.learn import Batch, Checkpoints, TrainConfig, train
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.solve import DDIM, GENIE, iterate
from reverie.solve.plan import plain

SHAPE = (2, 1, 1)


def mixture(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Three Gaussians in the plane, as pictures of one pixel in two colours."""
    means = torch.tensor([[1.2, 0.5], [-1.0, 0.8], [0.2, -1.3]], dtype=dtype).reshape(3, *SHAPE)
    a = torch.tensor([[0.30, 0.10], [0.10, 0.20]], dtype=dtype)
    return GaussianMixture(torch.tensor([0.4, 0.3, 0.3], dtype=dtype), means, torch.stack([a, a.flip(0, 1), 0.7 * a]))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> SimpleNamespace:
    """A head of the exact denoiser, trained on 100,000 draws."""
    data, folder = mixture(), tmp_path_factory.mktemp("head")
    torch.manual_seed(0)
    model = WithHead(data.denoiser(VP()), GenieHead(2, 48, 2))

    def feed(start: int, count: int) -> Batch:
        return Batch(data.sample(count, torch.Generator().manual_seed(start)))

    task = Genie(model, held_out=Batch(data.sample(2000, torch.Generator().manual_seed(-1))))
    with torch.no_grad():
        before = task.validate()
    config = TrainConfig(
        images=100_000,
        batch=250,
        optimizer="muon",
        lr=0.02,
        weight_decay=0.0,
        warmup=2500,
        decay="linear",
        log_every=10**6,
        save_every=10**6,
        validate_every=10**6,
    )
    train(task, feed, config, folder)
    kept = Checkpoints(folder / "checkpoints").latest().tensors("ema")  # pyright: ignore[reportOptionalMemberAccess]
    model.head.load_state_dict({key.removeprefix("head.head."): value for key, value in kept.items()})
    model.head.requires_grad_(False)
    with torch.no_grad():
        return SimpleNamespace(model=model, before=before, after=task.validate())


def ends(solver, steps: int) -> torch.Tensor:
    """Where a solver takes 64 marginal samples from logsnr −4 to 4 in steps even in λ, in float64."""
    path = VP()
    points = tuple(path.at(float(v)) for v in torch.linspace(-2.0, 2.0, steps + 1, dtype=torch.float64))
    start = points[0]
    data = mixture(torch.float64)
    x = start.alpha * data.sample(64, torch.Generator().manual_seed(1))
    x = x + start.sigma * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    *_, last = iterate(data.denoiser(path), x=x, solver=solver, walk=plain(points))
    return last.x


@pytest.mark.slow
def test_the_head_reaches_the_derivative_and_begins_at_nothing(distilled):
    assert distilled.before["relative"] == pytest.approx(1.0, abs=1e-5)
    assert distilled.after["relative"] < 0.25


@pytest.mark.slow
def test_with_the_head_the_error_falls_as_the_products_does(distilled):
    exact = ends(GENIE("eps"), 400)
    trained = GENIE("eps", copy.deepcopy(distilled.model.head).double())

    def errors(solver) -> list[float]:
        return [(ends(solver, n) - exact).square().mean().sqrt().item() for n in (6, 12)]

    head, jvp, ddim = (errors(s) for s in (trained, GENIE("eps"), DDIM()))
    assert math.log2(head[0] / head[1]) > 1.3 and math.log2(ddim[0] / ddim[1]) < 1.05
    assert head[1] < 1.5 * jvp[1] and head[1] < 0.3 * ddim[1]


def test_an_untrained_head_is_ddim():
    untrained = GENIE("eps", GenieHead(2, 8, 1).double())
    torch.testing.assert_close(ends(untrained, 6), ends(DDIM(), 6))
    assert (ends(GENIE("eps"), 6) - ends(DDIM(), 6)).abs().max() > 0.05


@pytest.mark.slow
def test_a_step_with_the_head_is_one_evaluation(distilled):
    model = distilled.model
    _, with_head = rv.sample(model, 3, solver=model.solver, steps=6, report=True)
    assert with_head.evaluations == 6
    with pytest.raises(InputError, match="eps"):
        GENIE("straight", model.head)


TEACHER = Recipe(
    name="digits",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2)),
    train=TrainConfig(images=640, batch=32, lr=1e-2, warmup=64, save_every=640, validate_every=640, sample_every=10**6),
    sample=SampleConfig(steps=3, scale=1.0),
)


def test_a_run_keeps_the_head_alone_resumes_bitwise_and_draws_by_it(tmp_path):
    teacher, _ = rv.recipes.train(TEACHER, tmp_path / "digits")
    config = replace(TEACHER.train, images=192, save_every=96, validate_every=96)
    recipe = Recipe(
        task=GenieConfig(teacher=str(teacher.folder), width=8, depth=1), train=config, sample=SampleConfig(steps=3)
    )
    whole, _ = rv.recipes.train(recipe, tmp_path / "whole")
    part, _ = rv.recipes.train(recipe, tmp_path / "part")
    shutil.rmtree(part.checkpoints.all()[-1].folder)
    resumed, seen = rv.recipes.train(recipe, tmp_path / "part")
    assert seen == 192
    for name in ("model", "ema", "optimizer"):
        ours, theirs = resumed.checkpoint.tensors(name), whole.checkpoint.tensors(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(key.startswith("head.head.") for key in whole.checkpoint.tensors("model"))
    relative = [entry["validation"]["relative"] for entry in whole.log if "validation" in entry]
    assert len(relative) == 2 and all(0.0 < value < 1.1 for value in relative)
    opened, before, label = rv.load(whole.folder), rv.load(teacher.folder), rv.Cond(label=[1, 2])
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(opened(x, 0.5, label).x0, before(x, 0.5, label).x0)
    drawn, by_hand = whole.generator().sample(2, label), rv.sample(opened, 2, label, opened.solver, 3, "quadratic")
    torch.testing.assert_close(drawn, by_hand)
    plain_ddim = rv.sample(before, 2, label, DDIM(), 3, "quadratic")
    assert (drawn - plain_ddim).abs().max() > 1e-3
    other = whole.generator(SampleConfig(solver="ddim", steps=3, scale=1.0, grid="quadratic"))
    torch.testing.assert_close(other.sample(2, label), plain_ddim)
    with pytest.raises(InputError, match="scale 1"):
        whole.generator(SampleConfig(steps=3, scale=2.0))
