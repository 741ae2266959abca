"""``reverie train towers`` and ``reverie evaluate --score``: from pictures with captions to the table of a model that is told classes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.cli import main
from reverie.core import image_files
from reverie.core.condition import Tokens
from reverie.core.errors import InputError
from reverie.recipes import Run, asking, sources

from ..margin import apart

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
    real, looked_up = "real pictures of these captions", "pictures of nearest captions"
    assert rows[1:6] == ["samples", real, looked_up, "samples, captions shuffled", "chance"]
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
    assert pair.prior.conditions["text"] == Tokens(16, looks.length)
    with pytest.raises(InputError, match="give read="):
        pair.draw(y, steps=2, prior_steps=2)
    pictures, z = pair.draw(y, looks.read(["3", "7"]), steps=2, prior_steps=2)
    assert pictures.shape == (2, 1, 28, 28) and z.shape == (2, 8)
    assert reverie("sample runs/words-rdm --n 2").code == 0 and reverie("sample runs/words-unclip --n 2").code == 0

    def drawn(run, words):
        said = reverie(f"sample runs/{run} --n 2 --scale 2 --seed 3 --out {run}.png {words}")
        assert said.code == 0, said.err
        return np.array(image_files.open_image(f"{run}.png"))

    run, seen = Run("runs/words-rdm"), "--query words/7.png"
    rdm = run.generator(replace(run.recipe.usual, scale=2.0))
    rv.save(rdm.sample(cond=rv.Cond(query=looks.texts(["3", "3"])), seed=3), "expected.png", columns=2)
    assert np.array_equal(drawn("words-rdm", "--text 3"), np.array(image_files.open_image("expected.png")))
    (
        drawn("words-rdm", seen),
        drawn("words-unclip", seen),
        drawn("words-unclip", "--text 3 --prior runs/words-unclip-prior"),
    )
    picture = sources.picture(Path("words/7.png"), run.recipe)[0]
    query = asking.asked(run.recipe.task, rdm, (), picture, 2, rv.load)["query"].value
    assert torch.allclose(query, looks.pictures(picture[None]).expand(2, -1), atol=1e-6)
    assert apart(query, looks.texts(["3", "3"])) > 0.01
    decoder = Run("runs/words-unclip")
    told = asking.asked(decoder.recipe.task, decoder.generator(), ["3"], None, 2, rv.load, "runs/words-unclip-prior")[
        "vector"
    ].value
    assert torch.allclose(told.square().mean(1), torch.ones(2), atol=1e-5) and apart(told[:1], told[1:]) > 0.01
    for words, message in (
        ("words-unclip --text 3", "give --prior RUN"),
        ("words-rdm --text 3 --prior runs/words-unclip-prior", "--prior is unclip's"),
        ("words-rdm --text 3 --negative 4", "leave it out"),
        ("words-rdm --text 3 --query x.png", "give one of them"),
        ("words-unclip --prior runs/words-unclip-prior", "give --text"),
    ):
        said = reverie(f"sample runs/{words}")
        assert said.code == 2 and message in said.err, said.err

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
