"""Measuring a model end to end, on denoisers that are known exactly."""

import dataclasses
import json
import math

import pytest
import torch

from reverie.core.errors import InputError, RunError
from reverie.core.exact import Empirical, GaussianMixture
from reverie.core.schedules import Flow
from reverie.data import ImageSet, load
from reverie.guide import cfg
from reverie.learn.grid import to_bytes
from reverie.measure.evaluation import _proportional, _subset, blur, evaluate
from reverie.measure.figures import FID_EXTRACTOR, Evaluation, Figure, percent
from reverie.measure.judge import Judge
from reverie.measure.pictures import cut, from_bytes, sheet
from reverie.solve import DPMpp, Euler, Sampler, grids


class Pixels:
    """The picture itself as features."""

    name, dim = "pixels", 64

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    return load("digits8", "train"), load("digits8", "test")


@pytest.fixture(scope="module")
def judge(sets: tuple[ImageSet, ImageSet]) -> Judge:
    """An untrained network whose head is the nearest class mean of its own features: a judge good enough to tell digits apart."""
    torch.manual_seed(0)
    judge = Judge("digits8", sets[0].classes, 1, 8).eval()
    some = sets[0].batch(range(len(sets[0])))
    images, labels = some.x, some.label
    with torch.no_grad():
        features = judge(images).relu()
        targets = torch.nn.functional.one_hot(labels, 10).float()
        ones = torch.cat([features, torch.ones(len(features), 1)], 1)
        solution = torch.linalg.lstsq(
            ones.double().T @ ones.double() + 1e-3 * torch.eye(65).double(), ones.double().T @ targets.double()
        )
        weight = solution.solution.float()
        judge.head.weight.copy_(weight[:64].T)
        judge.head.bias.copy_(weight[64])
    return judge.requires_grad_(False)


@pytest.fixture(scope="module")
def copier(sets: tuple[ImageSet, ImageSet]) -> tuple[Evaluation, object]:
    some = sets[0].batch(range(0, len(sets[0]), 3))
    images, labels = some.x, some.label
    return evaluate(
        Sampler(Empirical(images, Flow(), labels), DPMpp(), 8, grids.time()),
        *sets,
        Pixels(),
        n=100,
        seeds=(0, 1),
    )


def test_a_model_that_copies_is_flagged_and_measures_like_training_pictures(copier):
    evaluation, _ = copier
    verdict = evaluation.memorisation["samples"]
    assert verdict.flagged and verdict.copies > 0.9
    ratio = evaluation.figure("frechet_ratio")
    assert ratio.value < 1.3
    assert evaluation.figure("frechet_ratio", "training").value == pytest.approx(1.0)
    assert evaluation.figure("frechet_ratio", "blurred").value > 1.5


def test_a_model_that_has_learned_the_law_is_not_flagged(sets: tuple[ImageSet, ImageSet], judge: Judge):
    some = sets[0].batch(range(len(sets[0])))
    images, labels = some.x, some.label
    flat = images.flatten(1).double()
    means = torch.stack([flat[labels == c].mean(0) for c in range(10)])
    covariances = torch.stack([torch.cov(flat[labels == c].T) + 1e-3 * torch.eye(64) for c in range(10)])
    law = GaussianMixture(torch.ones(10).double(), means.reshape(10, 1, 8, 8), covariances, labels=range(10)).denoiser(
        Flow()
    )
    evaluation, drawn = evaluate(Sampler(law, Euler(), 20), *sets, Pixels(), judge=judge, n=100, seeds=(3,))
    assert not evaluation.memorisation["samples"].flagged
    assert evaluation.memorisation["training"].flagged  # control: training pictures beside it
    assert evaluation.figure("frechet_ratio").value < 1.6
    assert evaluation.figure("accuracy").value > 0.7
    assert evaluation.figure("accuracy", "training").value > 0.75
    # control: the same samples, asked for the next class
    wrong = judge.logits(from_bytes(drawn.images)).argmax(1) == (drawn.labels + 1) % 10
    assert wrong.double().mean() < 0.1


@pytest.mark.parametrize("interval", [None, (-math.inf, 2.0)])
def test_where_guidance_acted_is_recorded(sets, judge, interval):
    labelled = Empirical(sets[0].batch(range(200)).x, Flow(), labels=sets[0].labels[:200])
    guided = cfg(labelled, 2.0, interval)
    evaluation, _ = evaluate(Sampler(guided, Euler(), 2), *sets, Pixels(), judge=judge, n=10, seeds=(0,))
    said = "guidance 2, interval -inf to 2," in evaluation.how
    assert said == (interval is not None) == (evaluation.figures[0].settings.get("interval") == "-inf to 2")


def test_every_figure_says_how_it_was_taken(copier):
    evaluation, _ = copier
    for figure in evaluation.figures:
        assert figure.extractor == "pixels" and figure.seeds == (0, 1) and figure.count in (99, 100)
        assert (figure.data, figure.split, figure.reference) == ("digits8", "test", 162)
        assert figure.value == pytest.approx(sum(figure.each) / 2)
        how = tuple(figure.settings.get(name) for name in ("solver", "grid", "steps", "guidance"))
        assert how == (
            ("DPMpp(order=2)", "time(start=None, end=None)", 8, 1.0) if figure.of == "samples" else (None,) * 4
        )
    assert evaluation.subjects == ["samples", "training", "blurred", "noise"]
    assert len({figure.each for figure in evaluation.figures if figure.measure == "kernel"}) == 4


def test_a_share_that_rounds_to_nothing_has_no_sign():
    assert [percent(share) for share in (-0.0004, -0.003, 0.983)] == ["0.0\xa0%", "−0.3\xa0%", "98.3\xa0%"]


def test_a_figure_is_called_fid_only_in_inception():
    figure = Figure(measure="frechet", of="samples", value=1.0, each=(1.0,), seeds=(0,), count=1, data="d", split="test", reference=1,
                    extractor="judge-mnist5k")  # fmt: skip
    assert figure.title == "Fréchet distance"
    assert dataclasses.replace(figure, extractor=FID_EXTRACTOR).title == "FID"
    assert dataclasses.replace(figure, extractor="inception:01234567").title == "Fréchet distance"
    assert dataclasses.replace(figure, extractor=FID_EXTRACTOR, measure="kernel").title == "Kernel distance"


def test_what_is_written_is_what_is_read(copier, tmp_path):
    evaluation, _ = copier
    path = tmp_path / "evaluation.json"
    path.write_text(evaluation.to_json())
    assert Evaluation.load(path) == evaluation
    path.write_text(json.dumps({**json.loads(evaluation.to_json()), "version": 99}))
    with pytest.raises(RunError, match="version 99"):
        Evaluation.load(path)
    path.write_text(evaluation.to_json()[:100])
    with pytest.raises(RunError, match="reverie evaluate"):
        Evaluation.load(path)


def test_sample_figures_do_not_depend_on_the_batch(sets: tuple[ImageSet, ImageSet]):
    some = sets[0].batch(range(200))
    images, labels = some.x, some.label
    model = Sampler(Empirical(images, Flow(), labels), steps=4)
    one, two = (evaluate(model, *sets, Pixels(), n=30, seeds=(0,), batch_size=b)[1].images for b in (30, 7))
    assert (one.int() - two.int()).abs().max() <= 1
    other = evaluate(model, *sets, Pixels(), n=30, seeds=(1,))[1].images
    assert not torch.equal(one, other)


def test_closest_pictures_are_the_ones_named(copier, sets: tuple[ImageSet, ImageSet]):
    evaluation, drawn = copier
    assert [c.ratio for c in evaluation.closest] == sorted(c.ratio for c in evaluation.closest)
    for item, picture, sampled in zip(evaluation.closest, drawn.neighbours, drawn.closest, strict=True):
        assert torch.equal(picture, sets[0].images[item.index])
        distance = (from_bytes(picture) - from_bytes(sampled)).square().mean().sqrt().item()
        assert distance == pytest.approx(item.distance, abs=1e-6)


def test_labels_follow_the_held_out_proportions():
    assert _proportional(torch.tensor([0, 1, 2] * 5), 9).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.bincount(_proportional(torch.tensor([0, 0, 0, 1]), 10)).tolist() == [8, 2]
    assert len(_proportional(torch.tensor([0, 1, 2]), 1000)) == 1000


def test_control_pictures_have_the_same_proportions(sets: tuple[ImageSet, ImageSet]):
    train, held_out = sets
    rows = _subset(train, held_out.labels, 100, seed=0)
    assert torch.equal(train.labels[rows], _proportional(held_out.labels, 100))
    assert len(rows.unique()) == 100
    assert not torch.equal(rows, _subset(train, held_out.labels, 100, seed=1))


def test_without_labels(sets: tuple[ImageSet, ImageSet]):
    plain = [dataclasses.replace(s, labels=None, classes=[]) for s in sets]
    sampler = Sampler(Empirical(plain[0].batch(range(100)).x, Flow()), steps=3)
    evaluation, drawn = evaluate(sampler, *plain, Pixels(), n=20, seeds=(0,))
    assert evaluation.figure("accuracy") is None and drawn.labels is None
    assert evaluation.figure("kernel").count == 20 and evaluation.figure("frechet") is None


def test_bad_input(sets: tuple[ImageSet, ImageSet], judge: Judge):
    some = sets[0].batch(range(50))
    images, labels = some.x, some.label
    model = Sampler(Empirical(images, Flow(), labels))
    with pytest.raises(InputError, match="n = 2 samples"):
        evaluate(model, *sets, Pixels(), n=2)
    with pytest.raises(InputError, match="seed"):
        evaluate(model, *sets, Pixels(), n=10, seeds=())
    stranger = Judge("letters", ["a", "b"], 1, 8)
    with pytest.raises(InputError, match="judge-letters tells a, b apart"):
        evaluate(model, *sets, Pixels(), judge=stranger, n=10, seeds=(0,))
    with pytest.raises(RunError, match="not finite"):
        broken = Sampler(Empirical(images * math.nan, Flow(), labels), steps=2)
        evaluate(broken, *sets, Pixels(), n=10, seeds=(0,))


def test_blur_is_a_gaussian():
    impulse = -torch.ones(1, 3, 15, 15)
    impulse[0, 1, 7, 7] = 1.0
    spread = (blur(impulse, 1.0)[0] + 1) / 2
    assert spread[0].max() == 0.0 and spread[2].max() == 0.0
    assert spread[1].sum().item() == pytest.approx(1.0, abs=0.03)
    assert (spread[1, 7, 7] / spread[1, 7, 8]).item() == pytest.approx(math.exp(0.5), rel=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_can_be_cut_up_again(tmp_path, channels: int):
    images = torch.randint(0, 256, (7, channels, 5, 4), dtype=torch.uint8)
    sheet(images, 3).save(tmp_path / "sheet.png")
    assert torch.equal(cut(tmp_path / "sheet.png", (5, 4))[:7], images)


def test_bytes_round_trip():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(from_bytes(every)), every)
    assert to_bytes(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]
