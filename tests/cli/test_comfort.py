"""What the command line says and shows for convenience: help, published sizes, headings, before and after."""

import numpy as np
import pytest
import yaml
from PIL import Image

from reverie import data
from reverie.core.text import counted
from reverie.learn.grid import TEXT
from reverie.nets.presets import PRESETS


def test_help_begins_with_the_network_and_leaves_the_rest_to_help_all(reverie):
    said, everything = reverie("train demo --help"), reverie("train demo --help-all")
    assert said.code == 0 and everything.code == 0
    sections = [line for line in said.out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections[0] == "network:" and "--net {dit,unet,uvit,mmdit,jit}" in said.out
    assert all(name in said.out for name in PRESETS)
    assert "--train.betas" in everything.out and "--train.betas" not in said.out and "--help-all" in said.out
    assert len(said.out.splitlines()) < 80


def test_help_says_what_this_recipe_has_and_where_it_has_nothing(reverie):
    demo, plain, bare = (reverie(f"train {what} --help").out for what in ("demo", "--net dit", ""))
    lines = {
        key: next(line for line in text.splitlines() if "images in all" in line)
        for key, text in (("demo", demo), ("plain", plain))
    }
    assert "(23000)" in lines["demo"] and "(500000)" in lines["plain"]

    def closed(text: str) -> list[str]:
        return " ".join(text.split()).split("In this recipe it is the value of ")[1].replace(",", "").split()

    assert "--data.size" in closed(demo) and "--prior" not in closed(demo) and "--prior" in closed(plain)
    assert "(suits the data)" in bare and "(suits the data)" not in demo
    assert "--net " not in reverie("train autoencoder --help").out


def test_a_published_size_is_a_network(reverie, tmp_path):
    said = reverie(
        "train --data mnist5k --net dit-s/4 --net.depth 1 --train.images 32 --train.batch 32 --train.warmup 0",
        "--train.sample-every 1000 --sample.steps 1 --train.validate-every 1000 --out small",
    )
    assert said.code == 0, said.err
    net = yaml.safe_load((tmp_path / "small" / "recipe.yaml").read_text())["task"]["net"]
    published = PRESETS["dit-s/4"].config
    assert (net["name"], net["patch"], net["width"], net["heads"]) == ("dit", 4, published.width, published.heads)  # pyright: ignore
    assert net["depth"] == 1 and net["learn_sigma"] is False
    wrong = reverie("train --net dit-s/3")
    assert wrong.code == 2 and "Did you mean 'dit'?" in wrong.err


def test_columns_of_labels_have_headings(reverie, digits, tmp_path):
    assert reverie("sample digits --label 3,7 --n 4 --out two.png").code == 0
    assert reverie("sample digits --label 3 --n 4 --out one.png").code == 0
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert (two.width, two.height) == (one.width, one.height + TEXT + 6)
        strip = np.asarray(two.convert("L"))[: TEXT + 6]
    half = strip.shape[1] // 2
    assert strip[:, :half].min() < 100 and strip[:, half:].min() < 100
    assert not np.array_equal(strip[:, :half], strip[:, half + 2 :]), "3 and 7"


def test_restore_shows_before_and_after(reverie, digits, tmp_path):
    digit = data.load("mnist5k", "test").images[3, 0].numpy()
    Image.fromarray(digit).resize((7, 7), Image.Resampling.BOX).save(tmp_path / "small.png")
    said = reverie("restore digits --task superres --image small.png --steps 4 --out r.png")
    assert said.code == 0 and "r-before-after.png" in said.out
    with Image.open(tmp_path / "r.png") as restored, Image.open(tmp_path / "r-before-after.png") as both:
        assert restored.size == (28, 28)
        side = (both.width - 2) // 2
        pixels = np.asarray(both)[TEXT + 6 :]
        before, after = (pixels[:, i * (side + 2) :][:, :side] for i in (0, 1))
        times = side // 28
        assert np.array_equal(after[::times, ::times], np.asarray(restored))
    with Image.open(tmp_path / "small.png") as small:
        assert abs(before[:: 4 * times, :: 4 * times].astype(int) - np.asarray(small)).max() <= 1


@pytest.mark.parametrize(("number", "said"), [(1, "1 thread"), (2, "2 threads"), (1200, "1,200 threads")])
def test_one_is_no_plural(number, said):
    assert counted(number, "thread") == said
