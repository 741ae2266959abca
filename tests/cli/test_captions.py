"""``reverie train towers`` and ``reverie evaluate --score``: from pictures with captions to the table of a model that is told classes."""

import json
import shutil

import pytest
import torch
from PIL import Image

from reverie import data
from reverie.cli import main
from reverie.recipes import Run

TOWERS = (
    "--data.channels 1 --encoder.width 8 --encoder.multipliers 1 2 --encoder.attention 2 --encoder.heads 2 --width 16 --depth 1 --heads 2 "
    "--dim 8 --train.images 64 --train.batch 16 --train.warmup 16 --train.validate-every 32"
)


@pytest.fixture
def words(tmp_path):
    """Forty digits, each with its name beside it."""
    digits = data.load("mnist5k", "test")
    (tmp_path / "words").mkdir()
    for i in range(40):
        Image.fromarray(digits.images[25 * i, 0].numpy()).save(tmp_path / "words" / f"{i}.png")
        (tmp_path / "words" / f"{i}.txt").write_text(digits.classes[digits.labels[25 * i]])
    return tmp_path / "words"


def test_a_model_of_classes_is_scored_by_their_names(reverie, digits, words):
    said = reverie("train towers --data words --data.size 28", TOWERS)
    assert said.code == 0, said.err
    assert "--data.captions; reverie evaluate runs/words --score runs/words-towers" in said.out
    log = [json.loads(line) for line in (words.parent / "runs/words-towers/log.jsonl").read_text().splitlines()]
    measured = [entry["validation"] for entry in log if "validation" in entry]
    assert measured and set(measured[-1]) == {"score", "at_one", "at_five"}

    said = reverie("evaluate digits --score runs/words-towers --n 60 --seeds 0 1 --steps 1")
    assert said.code == 0, said.err
    rows = [line.split("  ")[0] for line in said.out.splitlines()]
    assert rows[1:5] == ["samples", "real pictures of these captions", "samples, captions shuffled", "chance"]
    assert "caption nearest of 10" in said.out and "10.0\N{NO-BREAK SPACE}%  " in said.out
    assert "towers-words has seen the training split of words" in said.out and "flatters" not in said.out
    (kept,) = json.loads((digits / "captions.json").read_text())
    assert (kept["count"], kept["among"], kept["new"], kept["data"]) == (60, 10, 0, "mnist5k")
    assert reverie("report digits").code == 0
    assert "samples, captions shuffled" in (digits / "report.html").read_text()


def test_what_cannot_be_scored_is_refused_with_what_to_do(reverie, digits, words):
    assert "reverie train towers --data DATA" in reverie("evaluate digits --score digits --n 20").err
    assert "leave --judge out" in reverie("evaluate digits --score digits --judge j").err
    assert "leave --score out" in reverie("evaluate digits --outliers words --score digits").err
    assert "no captions in the data mnist5k" in reverie("train towers --data mnist5k").err
    assert "--data.captions" in reverie("train towers --data words --data.no-captions").err


def test_what_the_towers_see_tells_other_models_what_to_draw(reverie, words):
    """Retrieval, and both models of unCLIP, told vectors of towers: trained, opened and drawn from."""
    import reverie as rv
    from reverie.diffusion import unclip

    assert reverie("train towers --data words --data.size 28", TOWERS).code == 0
    few = (
        "--train.images 32 --train.batch 16 --train.warmup 16 --train.validate-every 32 --train.sample-every 32 --data.size 28 "
        "--data.channels 1"
    )
    net = "--net.width 8 --net.multipliers 1 2 --net.attention 2 --net.blocks 1 --net.heads 2 --sample.steps 2"
    given = "--data words --embed runs/words-towers"
    for what in (f"rdm {net}", f"unclip {net}", "unclip-prior --data.captions --width 16 --depth 1 --heads 2"):
        said = reverie("train", what, given, few)
        assert said.code == 0, said.err
    looks = rv.load("runs/words-towers")
    y = looks.texts(["3", "7"])
    assert rv.load("runs/words-rdm").sample(cond=rv.Cond(query=y)).shape == (2, 1, 28, 28)
    pair = unclip.Pair(rv.load("runs/words-unclip-prior"), rv.load("runs/words-unclip"))
    pictures, z = pair.draw(y, steps=2, prior_steps=2)
    assert pictures.shape == (2, 1, 28, 28) and z.shape == (2, 8)
    assert reverie("sample runs/words-rdm --n 2").code == 0 and reverie("sample runs/words-unclip --n 2").code == 0

    said = reverie(
        "train unclip-prior --data words --data.size 28 --data.no-captions --embed runs/words-towers --name none"
    )
    assert said.code == 2 and "words has no captions" in said.err
    assert "give --embed RUN" in reverie("train unclip --data words").err
    assert (
        "reads no texts"
        in reverie("train unclip-prior --data words --data.captions --data.size 28 --embed mnist5k --name none").err
    )


def test_towers_go_on_where_they_stopped(reverie, words):
    """Bitwise, also where the text is told in several ways; control: another seed."""

    def train(out, *more):
        ways = ["--data.templates", "{}", "a {}"]
        given = [
            *f"train towers --data words --data.size 28 {TOWERS} --train.save-every 32 --out {out}".split(),
            *ways,
            *more,
        ]
        assert main(given) == 0

    for name in ("whole", "part"):
        train(name)
    shutil.rmtree(Run("part").checkpoints.all()[-1].folder)
    train("part")
    train("other", "--seed", "1")
    whole, part, other = (Run(name).checkpoint for name in ("whole", "part", "other"))
    for file in ("model", "ema", "optimizer"):
        ours, theirs = part.tensors(file), whole.tensors(file)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    weight = "towers.image.embed.weight"
    assert not torch.equal(whole.tensors("model")[weight], other.tensors("model")[weight])
