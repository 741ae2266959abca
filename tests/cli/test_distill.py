"""`reverie distill`: from a run to a run that draws in one step, measured and shown beside its teacher; what it refuses, by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.cli import main
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.diffusion.config import SampleConfig
from reverie.distill.config import LeapConfig
from reverie.distill.student import hearing
from reverie.nets import DiTConfig, build

TEACHER = (
    "train --data mnist5k --net dit --net.patch 7 --net.width 16 --net.depth 1 --net.heads 2 --train.images 320 --train.batch 32 "
    "--train.optimizer adamw --train.lr 1e-2 --train.processes 1 --sample.steps 2 --sample.scale 2"
)
SHORT = "--train.images 64 --train.batch 16 --train.warmup 0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    assert main([*TEACHER.split(), "--out", str(folder / "teacher")]) == 0
    words = ["distill", str(folder / "teacher"), "--method", "dmd2", "--steps", "2", *SHORT.split()]
    assert main([*words, "--out", str(folder / "student")]) == 0
    return folder


def test_a_run_is_distilled_and_its_recipe_says_how(runs):
    run, teacher = rv.recipes.Run(runs / "student"), rv.recipes.Run(runs / "teacher").recipe
    task = run.recipe.task
    assert task.name == "dmd2" and run.recipe.sample == LeapConfig(steps=2)
    assert (task.model, task.scale) == (teacher.task, 2.0) and task.drawn == teacher.sample
    assert run.recipe.data == teacher.data and run.recipe.train.optimizer == "adamw"
    assert {key.split(".")[0] for key in run.checkpoint.tensors("model")} == {"student", "fake"}
    assert main(["train", str(runs / "student")]) == 0


def test_it_is_measured_and_shown_in_1_2_4_and_8_steps_beside_its_teacher(runs, tmp_path, reverie):
    shutil.copytree(runs / "student", "RUN")
    assert reverie("sample RUN --label 3 --n 2").code == 0
    said = reverie("evaluate RUN --n 40 --seeds 0")
    assert said.code == 0 and "teacher, 2 steps" in said.out
    found = json.loads(Path("RUN/evaluation.json").read_text())
    assert found["figures"][0]["settings"]["steps"] == 2 and len(found["earlier"]) == 4
    assert reverie("evaluate RUN --n 40 --seeds 0 --steps 3").code == 0
    assert reverie("report RUN").code == 0
    assert "teacher, 2" in Path("RUN/report.html").read_text()


def test_other_numbers_of_steps_than_it_was_made_for_are_drawn_with_a_warning(runs):
    model, cond = rv.load(runs / "student"), rv.Cond(label=1)
    with pytest.warns(UserWarning, match="made to draw in 2 steps, not in 3"):
        assert rv.sample(model, cond=cond, steps=3).isfinite().all()
    torch.testing.assert_close(rv.sample(model, cond=cond), rv.sample(model, cond=cond, steps=2))


def test_what_is_no_teacher_is_refused(runs, reverie):
    for words, expected in {
        f"distill {runs / 'student'} --method dmd2": "itself a distilled run",
        f"distill {runs / 'teacher'} --method magic": "magic",
        f"distill {runs / 'nowhere'}": "no run in",
        f"distill {runs / 'teacher'} --method progressive --steps 3": "not halved down to 3",
        f"distill {runs / 'teacher'} --method drifting --steps 2": "one step",
        f"distill {runs / 'teacher'} --data.size 14": "model of other data",
        "distill --method dmd2": "comes first",
    }.items():
        said = reverie(f"{words} {SHORT} --out new")
        assert said.code == 2 and expected in said.err, said.err
        shutil.rmtree("new", ignore_errors=True)


def test_what_has_no_meaning_for_a_flow_map_is_refused_by_name(runs):
    model, x = rv.load(runs / "student"), torch.zeros(1, 1, 28, 28)
    with pytest.raises(InputError, match="Inversion follows the velocity"):
        rv.invert(model, x)
    with pytest.raises(InputError, match="Likelihood follows the velocity"):
        rv.solve.log_prob(model, x)
    for guide in (lambda: rv.guide.cfg(model, 2.0), lambda: rv.guide.auto(model, model, 2.0)):
        with pytest.raises(InputError, match="says where a leap ends"):
            guide()
    guided = rv.solve.DDIMStep(rv.guide.cfg(rv.load(runs / "teacher"), 2.0))
    assert rv.sample(guided, cond=rv.Cond(label=1), steps=2).isfinite().all()


def test_a_network_without_a_second_time_says_how_it_is_opened():
    class Foreign(nn.Module):
        def forward(self, x, time, cond=None):
            return x

    with pytest.raises(InputError, match=r"Foreign has no input for until.*copy its weights.*begins at zero"):
        hearing(NetDenoiser(Foreign(), Flow(), shape=(1, 8, 8)), "until")
    net = build(DiTConfig(patch=4, width=16, depth=1, heads=2), channels=1, size=(8, 8))
    torch.nn.init.normal_(net.out.weight if hasattr(net, "out") else next(net.parameters()))
    denoise, x = NetDenoiser(net, Flow(), shape=(1, 8, 8)), torch.randn(2, 1, 8, 8)
    before = denoise(x, 0.5).out
    told = hearing(denoise, "until")
    assert torch.equal(told(x, 0.5, rv.Cond(until=[[0.3], [0.1]])).out, before)


def test_guidance_as_an_input_is_drawn_at_any_scale(runs, tmp_path):
    words = ["distill", str(runs / "teacher"), "--method", "guided", *SHORT.split(), "--out", str(tmp_path / "guided")]
    assert main(words) == 0
    run = rv.recipes.Run(tmp_path / "guided")
    assert run.recipe.sample == SampleConfig(steps=2, scale=2.0)
    model, cond = rv.load(run.folder), rv.Cond(label=1)
    drawn = {scale: rv.sample(model, cond=cond, scale=scale) for scale in (1.0, 4.0)}
    assert (drawn[1.0] - drawn[4.0]).abs().max() > 1e-4
    assert rv.sample(model, cond=cond, report=True)[1].evaluations == 2
