"""Every method that matches steps, distributions or fields as a run: it trains, resumes to the same bits, opens and draws."""

import math
from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.denoiser import NetDenoiser
from reverie.core.flow_map import NetFlowMap
from reverie.core.schedules import Flow
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.distill import LADD, Student
from reverie.distill import match_config as methods
from reverie.distill.config import LeapConfig
from reverie.distill.flow_config import SCMConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import DataConfig, Recipe

from ..families.runs import resumes

TEACHER = Recipe(
    name="digits",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2), drop=0.2),
    train=TrainConfig(
        images=320, batch=32, lr=1e-2, warmup=64, save_every=320, validate_every=10**6, sample_every=10**6
    ),
    sample=SampleConfig(steps=2, scale=2.0, guide_below=2.0),
)
AFTER = replace(TEACHER.train, images=96, batch=16, save_every=48)
EVERY = {
    "progressive": (methods.ProgressiveConfig(begin=2), LeapConfig(steps=1)),
    "guided": (methods.GuidedConfig(), SampleConfig(steps=2, scale=3.0)),
    "dmd2": (methods.DMD2Config(), LeapConfig(steps=2)),
    "add": (methods.ADDConfig(), LeapConfig(steps=2)),
    "ladd": (methods.LADDConfig(), LeapConfig(steps=2)),
    "moments": (methods.MomentsConfig(), LeapConfig(steps=2)),
    "drifting": (methods.DriftingConfig(), LeapConfig()),
    "sharp": (methods.DriftingConfig(field="sharp"), LeapConfig()),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return rv.recipes.train(TEACHER, tmp_path_factory.mktemp("runs") / "digits")[0]


@pytest.mark.parametrize("name", EVERY)
def test_a_run_resumes_opens_and_draws(name, teacher, tmp_path, monkeypatch):
    task, sample = EVERY[name]
    recipe = Recipe(task=replace(task, teacher=str(teacher.folder)), train=AFTER, sample=sample)
    assert resumes(recipe, tmp_path, monkeypatch)
    run = rv.recipes.Run(tmp_path / "whole")
    model, cond = rv.load(run.folder), rv.Cond(label=[3, 1])
    assert isinstance(model, NetDenoiser if name == "guided" else NetFlowMap)
    drawn = rv.sample(model, cond=cond, seed=5)
    assert drawn.shape == (2, 1, 8, 8) and drawn.isfinite().all()
    torch.testing.assert_close(drawn, run.generator().sample(2, cond, seed=5))
    before = rv.load(teacher.folder).net.state_dict()
    after = run.checkpoint.tensors("model")
    assert any((after[f"student.{key}"] - value).abs().max() > 1e-4 for key, value in before.items())


def test_students_whose_target_moves_with_them_move_slower():
    taught = TrainConfig(optimizer="muon", lr=0.02, adam_lr=0.003)
    for config, times in ((methods.DMD2Config(), 10), (methods.DriftingConfig(), 3), (SCMConfig(), 3)):
        own = config.training(taught)
        assert own.optimizer == "adamw" and own.lr == 0.003 / times
        assert config.training(replace(taught, optimizer="adamw")).lr == 0.02 / times
    assert methods.ProgressiveConfig().training(taught) is taught


def levels(side: int) -> float:
    """The mean of ln(σ/α) at which the critic of LADD looks at pictures."""
    net = rv.nets.build(DiTConfig(patch=side // 4, width=16, depth=1, heads=2), channels=1, size=side)
    denoise = NetDenoiser(net, Flow(), shape=(1, side, side))
    return LADD(Student(denoise, lambda: denoise)).levels.mean


def test_the_critic_of_a_small_picture_sees_less_noise():
    """A picture of a quarter of the side is looked at under a quarter of the noise."""
    assert levels(128) == 1.0 and levels(32) == pytest.approx(1.0 - math.log(4.0))
