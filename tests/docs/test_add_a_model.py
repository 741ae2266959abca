"""The page that adds a model from nothing runs as it stands: trained, resumed, sampled, measured and reported by the ordinary verbs."""

import re
import signal
import sys
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.recipes import tasks
from reverie.recipes.runs import Run

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "add_a_model.md"
CODE = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S).group(1)  # pyright: ignore[reportOptionalMemberAccess]
FLAGS = [
    "--width",
    "64",
    "--train.batch",
    "20",
    "--train.images",
    "2000",
    "--train.save-every",
    "500",
    "--train.warmup",
    "100",
    "--data",
    "digits8",
]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The page's module on the path, and the registry without it afterwards."""
    (tmp_path / "toygan.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REVERIE_PLUGINS", "toygan")
    tasks.plugins.cache_clear()
    yield sys.modules
    tasks.plugins.cache_clear()
    tasks.TASKS.pop("toygan", None)
    sys.modules.pop("toygan", None)


def test_it_is_short():
    assert len([line for line in CODE.splitlines() if line.strip()]) < 80


def test_a_generator_without_a_schedule_is_a_citizen(plugin, tmp_path, capsys):
    assert main(["train", "toygan", *FLAGS, "--out", "whole"]) == 0
    from toygan import Duel

    loss, calls = Duel.loss, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 101:
            signal.raise_signal(signal.SIGINT)
        return loss(self, *arguments)

    Duel.loss = interrupted
    assert main(["train", "toygan", *FLAGS, "--out", "halves"]) == 130
    Duel.loss = loss
    assert 0 < Run("halves").checkpoint.state["images"] < 2000
    assert main(["train", "halves"]) == 0
    for file in ("model", "ema", "optimizer"):
        a, b = (Run(run).checkpoint.tensors(file) for run in ("whole", "halves"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    gan = rv.load("whole")
    fresh = Run("whole").recipe.task.build(Run("whole").spec, 0)
    labels = rv.Cond(label=[3, 4])
    few = rv.sample(gan, cond=labels, seed=5)
    assert few.shape == (2, 1, 8, 8)
    torch.testing.assert_close(rv.sample(gan, 1, rv.Cond(label=3), seed=5), few[:1], atol=1e-5, rtol=0)
    assert (rv.sample(fresh, cond=labels, seed=5) - few).abs().max() > 0.1
    with pytest.raises(rv.core.errors.InputError, match="draws in its own way: leave solver out"):
        rv.sample(gan, 2, labels, solver="heun")

    assert (
        main(["sample", "whole", "--label", "0,1,2", "--n", "9", "--out", "drawn.png"]) == 0
        and Path("drawn.png").exists()
    )
    assert main(["sample", "whole", "--steps", "5"]) == 2 and "without --steps" in capsys.readouterr().err
    judge = [
        "--train.images",
        "2000",
        "--train.warmup",
        "200",
        "--train.save-every",
        "2000",
        "--out",
        "judge",
        "--data",
        "digits8",
    ]
    assert main(["train", "judge", *judge]) == 0
    assert main(["evaluate", "whole", "--n", "60", "--seeds", "0", "--judge", "judge"]) == 0
    assert "accuracy" in capsys.readouterr().out.lower()
    assert main(["report", "whole"]) == 0
    page = Path("whole/report.html").read_text()
    assert "toygan" in page and "From noise to picture" not in page and "Guidance" not in page
    assert main(["runs", "."]) == 0 and "toygan" in capsys.readouterr().out
