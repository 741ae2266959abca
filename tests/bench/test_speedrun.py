"""The ladder's line is reached by real pictures, and neither by class means nor by a copier; its test is Welch's."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reverie.data import load
from reverie.recipes.serialisation import check_recipe

scipy = pytest.importorskip("scipy")
BENCH = Path(__file__).parents[2] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "speedrun")]
import run as speedrun  # noqa: E402
from line import class_means, copier, lacks  # noqa: E402

import ablate  # noqa: E402
import panel as panels  # noqa: E402
from learners import named  # noqa: E402
from panel import Panel, spread  # noqa: E402

VIEW, COUNT = "judge-mnist5k", 300


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "CACHE", tmp_path_factory.mktemp("panel"))
        return Panel("mnist5k", outside=False)


@pytest.mark.parametrize(("control", "missing"), [(class_means, {"ratio", "recall"}), (copier, {"copies"})])
def test_controls_fail_the_line(panel: Panel, control, missing: set[str]):
    labels = panel.labels(COUNT)
    assert labels is not None
    assert missing <= set(lacks(panel.figures(control(panel, labels), labels), VIEW))


def test_unseen_pictures_reach_the_line(panel: Panel):
    seen = panel.held_out.batch(range(COUNT))
    assert lacks(panel.figures(seen.x, seen.label), VIEW) == []


def test_a_stretch_of_the_order_has_the_classes_of_the_whole():
    data = load("emoji")
    assert data.labels is not None
    shares = torch.bincount(data.labels) / len(data)
    rows = spread(data)
    assert sorted(rows.tolist()) == list(range(len(data)))

    def off(part: torch.Tensor) -> float:
        return float((torch.bincount(data.labels[part], minlength=len(shares)) / len(part) - shares).abs().max())

    assert off(rows[200:400]) < 0.01 < off(data.labels.argsort()[200:400])


def test_welch():
    now, before = [70.0, 71.0, 69.5, 70.5], [75.0, 78.0, 74.0, 77.0, 76.0]
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (now, before))
    va, vb = a.var() / len(a), b.var() / len(b)
    t = (a.mean() - b.mean()) / (va + vb).sqrt()
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    assert abs(speedrun.faster(now, before) - scipy.stats.t.cdf(float(t), float(freedom))) < 1e-12
    assert speedrun.faster(before, now) > 0.95


def test_a_record_reaches_the_line_and_is_faster():
    record, now = [75.0, 78.0, 74.0], [70.0, 71.0, 69.5]
    assert speedrun.judged(now, record, True)[1] and speedrun.judged(record, [], True)[1]
    assert not speedrun.judged(now, record, False)[1]
    assert not speedrun.judged(record, now, True)[1]
    assert not speedrun.judged(now[:1], record, True)[1]


def test_the_best_scale_lacks_least():
    def figures(accuracy: float, ratio: float):
        return {"accuracy": accuracy, "copies": 0.0, "held_out_copies": 0.0, VIEW: {"ratio": ratio, "recall": 0.7}}

    scales = {"1": figures(0.9, 3.0), "2": figures(0.985, 4.5), "3": figures(0.995, 4.9)}
    assert speedrun.best(scales, VIEW) == "2"
    assert speedrun.best({**scales, "2": figures(0.97, 4.5)}, VIEW) == "3"


def test_rows_are_recipes_that_can_be_trained():
    recipe, spec = named("mnist5k"), load("mnist5k").spec
    for name, row in ablate.ROWS.items():
        each = recipe
        for key, value in row.keys.items():
            each = ablate.changed(each, key, value)
        assert (each != recipe) == bool(row.keys), name
        check_recipe(each)
        replace(each.task, prior=None).check(spec, each.sample)  # pyright: ignore[reportCallIssue]
    with pytest.raises(KeyError, match="no times_means"):
        ablate.changed(recipe, "task.times_means", 0.5)


def test_pictures_meet_the_noise_that_is_nearest_in_all():
    x, noise = torch.randn(5, 3), torch.randn(5, 3)

    def cost(met: torch.Tensor) -> float:
        return float((x - met).square().sum())

    least = min(cost(noise[list(order)]) for order in itertools.permutations(range(5)))
    assert abs(cost(ablate.meet(x, noise)) - least) < 1e-5 < cost(noise) - least
