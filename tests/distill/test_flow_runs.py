"""Methods of flow maps as runs: trained from a teacher's, gone on with to the same bits, opened, drawn from in 1, 2 and 4 steps."""

import shutil
from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.flow_map import FlowMap
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.distill import flow_config as settings
from reverie.distill.config import LeapConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes import tasks
from reverie.recipes.recipe import DataConfig, Recipe

TEACHER = Recipe(
    name="digits",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2), drop=0.2, prior=4),
    train=TrainConfig(images=320, batch=32, lr=1e-2, warmup=64, save_every=320, validate_every=320, sample_every=10**6),
    sample=SampleConfig(steps=2, scale=1.5, guide_below=2.0),
)
AFTER = replace(TEACHER.train, images=64, batch=16, lr=1e-3, save_every=32)
RUNS = {
    "cd": settings.ConsistencyConfig(),
    "ct": settings.ConsistencyConfig(variant="ct"),
    "ict": settings.ConsistencyConfig(variant="ict"),
    "ect": settings.ConsistencyConfig(variant="ect"),
    "scd": settings.SCMConfig(),
    "sct": settings.SCMConfig(variant="sct"),
    "meanflow": settings.MeanFlowConfig(),
    "imf": settings.MeanFlowConfig(scratch=True, improved=True),
    "shortcut": settings.ShortcutConfig(),
    "imm": settings.IMMConfig(),
    "tvm": settings.TVMConfig(),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return rv.recipes.train(TEACHER, tmp_path_factory.mktemp("runs") / "digits")[0]


def recipe(teacher, task, **others) -> Recipe:
    return Recipe(task=replace(task, teacher=str(teacher.folder)), train=replace(AFTER, **others), sample=LeapConfig())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_saved_and_goes_on_to_the_same_bits_and_draws(teacher, tmp_path, name):
    run, seen = rv.recipes.train(recipe(teacher, RUNS[name]), tmp_path / "run")
    assert seen == 64
    whole = {kind: run.checkpoint.tensors(kind) for kind in ("model", "ema", "optimizer")}
    shutil.rmtree(sorted((run.folder / "checkpoints").glob("step-*"))[-1])
    again, seen = rv.recipes.train(recipe(teacher, RUNS[name]), run.folder)
    assert seen == 64
    for kind, tensors in whole.items():
        ours = again.checkpoint.tensors(kind)
        assert ours.keys() == tensors.keys() and all(torch.equal(ours[key], tensors[key]) for key in ours)
    model = rv.load(run.folder)
    assert isinstance(model, FlowMap) and model.anywhere == RUNS[name].second_time
    for steps in (1, 2, 4):
        x = rv.sample(model, cond=rv.Cond(label=[1, 2]), steps=steps)
        assert x.shape == (2, 1, 8, 8) and x.isfinite().all()


def test_the_teachers_guidance_is_learned_and_data_have_none(teacher):
    config = replace(RUNS["meanflow"], teacher=str(teacher.folder))
    known = config.of(TEACHER.task, TEACHER.sample)
    model = known.build(teacher.spec, 0)
    assert model.scale == 1.5 and model.below == 2.0 and model.guided.guidance == 1.5
    assert replace(config, scratch=True).of(TEACHER.task, TEACHER.sample).scale == 1.5
    for name in ("ect", "sct"):
        assert replace(RUNS[name], teacher="RUN").of(TEACHER.task, TEACHER.sample).scale == 1.0
    wrong = replace(RUNS["ict"], teacher="RUN", scale=2.0).of(TEACHER.task, TEACHER.sample)
    with pytest.raises(InputError, match="leave scale out"):
        wrong.check(teacher.spec, LeapConfig())


def test_every_task_is_registered():
    for task in RUNS.values():
        assert tasks.config(task.name) is type(task)


def test_a_tangent_that_is_no_number_stops_training_and_names_the_noise_level(teacher, tmp_path, monkeypatch):
    from reverie.core.errors import RunError
    from reverie.distill.mapping import Mapping

    along = Mapping.along

    def torn(self, x, t, v):
        dx, dt = along(self, x, t, v)
        return torch.where((t > 0.6).view(-1, 1, 1, 1), torch.nan, dx), dt

    monkeypatch.setattr(Mapping, "along", torn)
    with pytest.raises(RunError, match=r"student, part 'meanflow', is nan.* samples, logsnr -"):
        rv.recipes.train(recipe(teacher, RUNS["meanflow"], images=256), tmp_path / "run")
