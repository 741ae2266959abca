"""DDPM's ablation at the size of seconds: what each row trains, how it is drawn and measured, and going on."""

import math
from dataclasses import replace

import pytest
import torch

from reverie import data
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.diffusion.vlb import VLB
from reverie.learn import Batch, Draws
from reverie.reproduce import ddpm as ablation
from reverie.reproduce.ddpm import ROWS, SCALES, Figure, Row
from reverie.solve import variational_bound

TINY = replace(SCALES["tiny"], train=replace(SCALES["tiny"].train, images=64, warmup=32))
BY_NAME = {row.name: row for row in ROWS}


def objective(row: Row):
    images = data.load("mnist5k")
    return ablation.objective(ablation.network(row, TINY, images, 0), row, TINY)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_trains_what_it_says(row: Row):
    task = objective(row)
    denoise = task.denoise
    assert denoise.learned_variance == (row.loss == "learned") and denoise.kind.name.startswith(row.predicts)
    assert isinstance(task, VLB) == (row.loss != "simple")
    x, rng = data.load("mnist5k").batch(range(8)).x, Draws(0, 0, 8)
    with torch.no_grad():
        loss = sum(task.loss("denoiser", Batch(x), rng, Moment(0, 0, 1)).values())
    if row.loss == "simple":  # the network begins at 0: it pays the power of its target
        t = torch.ceil(60 * rng.even("time")) / 60
        noise = rng.normal("noise", x.shape[1:])
        alpha, sigma, u = denoise.schedule.alpha(t), denoise.schedule.sigma(t), t - 1 / 60
        before = (denoise.schedule.alpha(u), denoise.schedule.sigma(u))
        scale = [v.float().view(-1, 1, 1, 1) for v in (before[0], alpha * before[1] ** 2 / (before[0] * sigma))]
        target = scale[0] * x + scale[1] * noise if row.predicts == "mean" else noise
        torch.testing.assert_close(loss, target.square().flatten(1).mean(1), rtol=1e-3, atol=1e-4)
    else:
        assert isinstance(task, VLB) and not task.importance and set(task.players) == {"denoiser"}


def test_the_two_evaluations_measure_the_bound():
    row = BY_NAME["eps-learned"]
    test = data.load("mnist5k", "test")
    denoise = ablation.network(row, TINY, test, 0)
    with torch.no_grad():
        denoise.net.out.weight.normal_(std=0.05)
    some = replace(test, rows=test.rows[:40], labels=test.labels[:40])
    denoise.net.requires_grad_(False)
    bits, error = ablation.bound(denoise, some, 40, seed=0)
    whole = variational_bound(
        denoise, some.batch(range(40)).x, some.batch(range(40)).cond, variance="learned", steps=60
    )
    each = whole.total / (784 * math.log(2.0))
    assert bits == pytest.approx(float(each.mean()), rel=0.05) and 0 < error < 0.1 * bits


@pytest.mark.parametrize("name", ["eps-fixed", "mean-fixed"])
def test_only_where_the_noise_is_predicted_the_estimate_is_cut(name: str):
    row, images = BY_NAME[name], data.load("mnist5k")
    denoise = ablation.network(row, TINY, images, 0)
    drawn = ablation.sampler(denoise, row, TINY).denoise
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        plain, cut = denoise(x, 0.9).x0, drawn(x, 0.9).x0
    assert plain.abs().max() > 2.0
    expected = plain.clamp(-1.0, 1.0) if row.predicts == "eps" else plain
    torch.testing.assert_close(cut, expected, rtol=1e-4, atol=1e-4)


def test_rows_are_measured_once_and_the_folder_knows_its_settings(tmp_path, monkeypatch):
    rows = [BY_NAME["mean-learned"], BY_NAME["eps-simple"]]
    first = list(ablation.run(TINY, tmp_path, rows=rows[:1]))

    def again(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr(ablation, "learn", again)
        assert list(ablation.run(TINY, tmp_path, rows=rows[:1])) == first
    both = [figure for _, figure in ablation.run(TINY, tmp_path, rows=rows)]
    assert both[0] == first[0][1]
    for figure in both:
        assert isinstance(figure, Figure) and figure.accuracy is not None and 0 <= figure.accuracy <= 1
        assert all(math.isfinite(v) and v > 0 for v in (figure.bits, figure.error, figure.seconds))
    with pytest.raises(InputError, match="other settings"):
        list(ablation.run(TINY, tmp_path, rows=rows, seed=1))
