"""``reverie train --objective``: grey and colour from the recipe to pictures and a report, and what is refused."""

import json
from pathlib import Path

import pytest

import reverie as rv

TINY = "--net.patch 4 --net.width 16 --net.depth 1 --net.heads 2 --train.images 64 --train.batch 32 --sample.steps 2 --out RUN"


@pytest.mark.parametrize(("data", "objective"), [("mnist5k", "hybrid"), ("emoji", "vlb"), ("emoji", "hybrid")])
def test_a_learned_variance_from_the_command_line(data: str, objective: str, reverie):
    said = reverie(f"train --data {data} --net.learn-sigma --objective {objective} --times uniform", TINY)
    assert said.code == 0, said.err
    validations = [
        e["validation"] for e in map(json.loads, Path("RUN/log.jsonl").read_text().splitlines()) if "validation" in e
    ]
    assert validations and validations[-1]["vlb"] > 0
    denoise = rv.load("RUN")
    channels = {"mnist5k": 1, "emoji": 3}[data]
    assert denoise.learned_variance and denoise.shape[0] == channels
    for words in ("sample RUN --label 1 --n 2 --solver ddpm --steps 3 --out drawn.png", "report RUN"):
        said = reverie(words)
        assert said.code == 0, said.err
    assert Path("drawn.png").exists() and "Likelihood" in Path("RUN/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--net.learn-sigma", "--objective hybrid or vlb"),
        ("--objective hybrid --times uniform", "--net.learn-sigma"),
        ("--net jit --objective hybrid --times uniform", "dit and unet"),
        ("--net.learn-sigma --objective hybrid", "--times uniform"),
        ("--objective vlb", "--times uniform"),
        ("--objective vlb --times uniform --loss-kind eps", "loss_kind"),
        ("--objective vlb --times uniform --schedule cosine --kind eps", "does not determine"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(words: str, says: str, reverie):
    said = reverie(f"train --data mnist5k {words} --train.images 32 --out RUN")
    assert said.code == 2 and says in said.err, said.err


def test_a_diffusion_auto_encoder_trains_no_variance(reverie):
    said = reverie("train diffae --data digits8 --net.learn-sigma --train.images 32 --out RUN")
    assert said.code == 2 and "net.learn_sigma" in said.err
