"""Reflow against a mixture whose flow is known, and as a run."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.cli import main
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VP, Flow
from reverie.core.task import Moment
from reverie.data import Loader, TensorSet
from reverie.diffusion import Reflow, reflow
from reverie.diffusion.config import ClassifierConfig, DenoisingConfig, SampleConfig
from reverie.diffusion.teacher import ReflowConfig
from reverie.learn import Batch, Checkpoints, Draws, TrainConfig, train
from reverie.nets.config import DiTConfig
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe

NOW = Moment(0, 0, 100)


def mixture(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Four narrow Gaussians in the plane, off the axes and unevenly weighted."""
    means = 1.5 * torch.tensor([[1.0, 0.4], [-0.9, 0.9], [0.2, -1.1], [-0.3, 0.1]], dtype=dtype)
    return GaussianMixture(
        torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=dtype), means, 0.02 * torch.eye(2, dtype=dtype).repeat(4, 1, 1)
    )


class Perceptron(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.conditions = {}
        self.layers = nn.Sequential(
            nn.Linear(9, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, x: Tensor, time: Tensor, cond: object = None) -> Tensor:
        t = time.expand(len(x))[:, None]
        waves = [f(k * math.pi * t) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, t, *waves], 1))


def learned(pairs: TensorSet, folder) -> NetDenoiser:
    torch.manual_seed(0)
    denoise = NetDenoiser(Perceptron(), Flow(), shape=(2,))
    config = TrainConfig(
        images=150_000, batch=500, lr=4e-3, warmup=4000, log_every=10**6, save_every=10**6, validate_every=10**6
    )
    train(Reflow(denoise, drop=0.0), Loader(pairs, 0), config, folder)
    ema = Checkpoints(folder / "checkpoints").latest().tensors("ema")  # pyright: ignore[reportOptionalMemberAccess]
    denoise.net.load_state_dict({key.removeprefix("denoiser."): value for key, value in ema.items()})
    denoise.net.requires_grad_(False).eval()
    return denoise


def test_after_reflow_one_step_ends_where_the_flow_did_and_after_shuffling_the_pairs_it_does_not(tmp_path):
    teacher = mixture().denoiser(Flow())
    pairs = reflow.pairs(teacher, 5000, tmp_path / "pairs", steps=40)
    shuffled = replace(pairs, extra={"noise": pairs.extra["noise"].roll(1, 0)})
    models = {"before": teacher, "after": learned(pairs, tmp_path / "a"), "shuffled": learned(shuffled, tmp_path / "b")}
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(7))
    goal = rv.sample(teacher, x=noise, solver="heun", steps=100, grid="time")
    error = {k: (reflow.one_step(m, noise) - goal).square().sum(1).mean().sqrt().item() for k, m in models.items()}
    straight = {k: reflow.straightness(m, noise, steps=50) for k, m in models.items()}
    assert error["after"] < 0.3 * error["before"] and error["shuffled"] > 0.9 * error["before"]
    assert straight["after"] < 0.1 * straight["before"] and straight["shuffled"] > 0.8 * straight["before"]


@pytest.mark.parametrize("path", [Flow(), VP()])
def test_the_straightness_of_a_gaussian_is_its_integral(path):
    """N(0, s²) flows as z = k(τ)·ε with k² = (1 − τ)²s² + τ², on any path: S = d·∫(k′ − (k(1) − k(0)))² dτ; which s = 1 bends too."""
    s, d = 0.3, 5
    exact = Gaussian(torch.zeros(d, dtype=torch.float64), s**2 * torch.eye(d, dtype=torch.float64)).denoiser(path)
    noise = torch.randn(64, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise *= (d / noise.square().sum(1).mean()).sqrt()
    end = path.point(1.0).tau
    tau = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * end
    scale = ((1 - tau) ** 2 * s**2 + tau**2).sqrt()
    slope = (tau - (1 - tau) * s**2) / scale
    begin = ((1 - end) ** 2 * s**2 + end**2) ** 0.5
    expected = d * (slope - (begin - s) / end).square().mean().item() * (end / begin) ** 2
    assert reflow.straightness(exact, noise, steps=1000) == pytest.approx(expected, rel=0.01)


def test_the_loss_meets_each_sample_with_its_own_noise_and_nothing_else():
    class Line(nn.Module):
        """Knows the one pair."""

        def forward(self, x, time, cond=None):
            return (noise - x0).expand(len(x), 2)

    x0, noise = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 0.7])
    task = Reflow(NetDenoiser(Line(), Flow(), shape=(2,)), drop=0.0)
    pair = Batch(x0.expand(16, 2), None, {"noise": noise.expand(16, 2)})
    torch.testing.assert_close(task.loss("denoiser", pair, Draws(0, 0, 16), NOW)["mse"], torch.zeros(16))
    other = Batch(pair.x, None, {"noise": pair.extra["noise"] + 1.0})
    torch.testing.assert_close(task.loss("denoiser", other, Draws(0, 0, 16), NOW)["mse"], torch.ones(16))


@pytest.mark.parametrize("path", [Flow(), VP()])
def test_times_are_even_in_tau(path):
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = reflow.EvenTau(path)(u)
    tau = torch.sigmoid(-path.lam(t))
    inside = u < path.point(1.0).tau
    torch.testing.assert_close(tau[inside], u[inside], rtol=1e-6, atol=1e-6)
    assert (t.diff() >= 0).all() and t.max() <= 1.0


def test_pairs_are_those_of_sampling_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reflow, "PART", 8)
    teacher = mixture().denoiser(Flow())
    whole = reflow.pairs(teacher, 20, tmp_path / "a", seed=3, steps=10)
    torch.testing.assert_close(whole.x, rv.sample(teacher, 20, solver="dpmpp3", steps=10, seed=3))
    torch.testing.assert_close(
        whole.x, rv.sample(teacher, x=whole.extra["noise"], solver="dpmpp3", steps=10), msg="from the noise beside it"
    )
    (tmp_path / "a" / "pairs-00000008.safetensors").unlink()
    kept = (tmp_path / "a" / "pairs-00000000.safetensors").stat().st_mtime_ns
    again = reflow.pairs(teacher, 20, tmp_path / "a", seed=3, steps=10)
    assert torch.equal(again.x, whole.x) and torch.equal(again.extra["noise"], whole.extra["noise"])
    assert (tmp_path / "a" / "pairs-00000000.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="holds other pairs"):
        reflow.pairs(teacher, 20, tmp_path / "a", seed=4, steps=10)


TEACHER = Recipe(
    name="digits",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2), drop=0.2),
    train=TrainConfig(images=640, batch=32, lr=1e-2, warmup=64, save_every=640, validate_every=640, sample_every=10**6),
    sample=SampleConfig(steps=2, scale=1.0),
)
AFTER = replace(TEACHER.train, images=192, save_every=96, validate_every=96, sample_every=96)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return rv.recipes.train(TEACHER, tmp_path_factory.mktemp("runs") / "digits")[0]


def recipe(teacher, **others) -> Recipe:
    task = ReflowConfig(teacher=str(teacher.folder), pairs=48, steps=4)
    return Recipe(task=task, train=replace(AFTER, **others), sample=TEACHER.sample)


def test_a_run_begins_with_its_teacher_and_opens_as_a_denoiser(teacher, tmp_path):
    run, seen = rv.recipes.train(recipe(teacher, lr=1e-12, weight_decay=0.0), tmp_path / "run")
    assert seen == 192 and run.recipe.name == "digits-reflow" and run.recipe.data == teacher.recipe.data
    student, before = rv.load(run.folder), rv.load(teacher.folder)
    assert isinstance(student, NetDenoiser) and student.conditions == before.conditions
    for mine, theirs in zip(student.net.parameters(), before.net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    validation = [entry["validation"] for entry in run.log if "validation" in entry]
    assert validation[-1]["straightness"] > 0.0
    assert len(list((run.folder / "samples").glob("*.png"))) == 2
    assert run.generator().sample(2, rv.Cond(label=[1, 2])).shape == (2, 1, 8, 8)


def test_what_is_interrupted_ends_with_the_same_bits_also_when_the_teacher_is_gone(teacher, tmp_path):
    shutil.copytree(teacher.folder, tmp_path / "digits")
    whole, _ = rv.recipes.train(recipe(teacher), tmp_path / "whole")
    mine = replace(recipe(teacher), task=replace(recipe(teacher).task, teacher=str(tmp_path / "digits")))
    rv.recipes.train(mine, tmp_path / "part")
    shutil.rmtree(tmp_path / "digits")
    part = tmp_path / "part"
    newest = sorted((part / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)
    kept = (part / "pairs" / "pairs-00000000.safetensors").stat().st_mtime_ns
    resumed, seen = rv.recipes.train(serialisation.load(part / "recipe.yaml", sealed=True), part)
    assert seen == 192 and (part / "pairs" / "pairs-00000000.safetensors").stat().st_mtime_ns == kept
    for name in ("model", "ema", "optimizer"):
        ours, theirs = resumed.checkpoint.tensors(name), whole.checkpoint.tensors(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_model_is_straightened_twice_and_the_command_line_goes_on(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "--pairs 24 --steps 3 --train.images 32 --train.batch 16 --sample.scale 1"
    assert main(f"train reflow --teacher {teacher.folder} {words}".split()) == 0
    assert main(["train", "runs/digits-reflow"]) == 0
    assert main(f"train reflow --teacher runs/digits-reflow {words} --out twice".split()) == 0
    again = rv.recipes.Run("twice").recipe
    assert isinstance(again.task, ReflowConfig)
    assert again.task.model == teacher.recipe.task and again.name == "digits-reflow-reflow"
    assert main(["train", "reflow"]) == 2
    assert "--teacher" in capsys.readouterr().err


def test_a_teacher_that_is_none_is_refused(teacher, tmp_path):
    with pytest.raises(InputError, match="other data"):
        rv.recipes.train(replace(recipe(teacher), data=DataConfig(name="emoji")), tmp_path / "emoji")
    judge = Recipe(
        data=TEACHER.data,
        task=ClassifierConfig(),
        train=replace(TEACHER.train, images=32),
    )
    run, _ = rv.recipes.train(judge, tmp_path / "judge")
    with pytest.raises(InputError, match="begins with a diffusion model"):
        rv.recipes.train(recipe(run), tmp_path / "none")
