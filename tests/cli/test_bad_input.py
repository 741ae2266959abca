"""Everything that can be given wrongly: one clear message, no traceback, 2 for usage and 1 for failure, nothing lost."""

import json
import math
import resource
from functools import reduce
from operator import getitem

import pytest
import yaml

from reverie.learn import Checkpoints

from .conftest import TINY


def clear(said, code: int, *parts: str) -> None:
    assert said.code == code, said
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, (part, said.err)


def test_no_command_is_help_and_an_unknown_one_names_the_nearest(reverie):
    assert "usage: reverie" in reverie("").out and reverie("--help").code == 0
    clear(reverie("trian"), 2, "no command 'trian'", "Did you mean 'train'?")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--net.widht 96", ["--net.widht", "--net.width"]),
        ("--net.multipliers 1 2", ["--net.multipliers"]),
        ("--net.width wide", ["--net.width", "wide"]),
        ("--net.name unett", ["unett", "Did you mean 'unet'?"]),
        ("--train.decay cubic", ["cubic", "cosine"]),
        ("--sample.solver dpmp2", ["dpmp2", "Did you mean 'dpmpp2'?"]),
        ("--sample.steps 0", ["steps", "at least 1", "got 0"]),
        ("--data mnist5", ["mnist5", "Did you mean 'mnist5k'?"]),
        ("--net dit --data.size 30", ["30x30", "multiples of 4"]),
        ("--net unet --data.size 30", ["30x30", "multiples of 4"]),
        ("--train.device abacus", ["abacus", "cpu"]),
        ("--train.batch 0", ["train.batch", "at least 1", "got 0"]),
        ("--train.lr -1", ["train.lr", "-1"]),
        ("--train.ema-half-life 0", ["train.ema_half_life", "got 0"]),
        ("--drop 1.5", ["drop", "1.5"]),
        ("demo2", ["no recipe 'demo2'", "Did you mean 'demo'?"]),
        ("--seed 1 demo", ["comes first"]),
        ("judge --net unet", ["no network to choose"]),
        ("autoencoder --patch 5", ["multiples of 5"]),
        ("--net unet --net.context 8", ["conditions text", "context"]),
        ("--budget 0s", ["--budget is a time such as", "'0s'"]),
        ("pixelcnn --levels 300", ["levels", "at most 256", "got 300"]),
        ("tile --data digits8 --patch 3", ["3x3 pixels do not fill pictures of 8x8"]),
        (
            "autoencoder --data digits8 --kind vq --patch 8 --codes 5000 --out none",
            ["codebook of 5,000 codes", "larger than the data"],
        ),
        ("judge --data digits8 --data.no-labels", ["learns to tell classes apart", "sub-folders"]),
        ("classifier --data digits8 --data.no-labels", ["learns from labels"]),
    ],
)
def test_training_flags(reverie, tmp_path, flags, parts):
    clear(reverie("train", flags), 2, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ({"trian": {}}, ["unknown key trian", "Did you mean 'train'?"]),
        ({"train": {"imagse": 5}}, ["unknown key train.imagse", "Did you mean 'images'?"]),
        ({"net": {"name": "unet", "depth": 4}}, ["unknown key task.net.depth", "multipliers"]),
        ({"net": {"name": "unett"}}, ["net.name", "Did you mean 'unet'?"]),
        ({"net": 5}, ["net is a section", "got 5"]),
        ({"net": {"name": ["dit"]}}, ["net.name is one of", "['dit']"]),
        ({"train": {"images": "many"}}, ["train.images is a whole number", "'many' (str)"]),
        ({"train": {"images": True}}, ["train.images is a whole number", "True (bool)"]),
        ({"train": {"lr": [1]}}, ["train.lr is a number", "[1] (list)"]),
        ({"train": {"betas": [0.9]}}, ["train.betas is a list of float, float"]),
        ({"train": {"decay": "cubic"}}, ["train.decay is one of cosine, linear, constant"]),
        ({"data": {"flip": "yes please"}}, ["data.flip is true or false"]),
        ([1, 2], ["a recipe is a mapping", "[1, 2] (list)"]),
    ],
)
def test_recipe_files(reverie, tmp_path, recipe, parts):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    clear(reverie("train r.yaml"), 2, "r.yaml", *parts)


def test_a_file_that_is_not_yaml(reverie, tmp_path):
    (tmp_path / "r.yaml").write_text("a: [1")
    clear(reverie("train r.yaml"), 2, "r.yaml is not YAML")


def test_an_empty_or_missing_folder_of_pictures(reverie, tmp_path):
    (tmp_path / "pictures").mkdir()
    clear(reverie("train --data pictures"), 2, "no pictures in", "PNG")
    clear(reverie("train --data picturse"), 2, "picturse", "Did you mean")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--label 10", ["label 10 is out of range", "0 to 9"]),
        ("--label -1", ["label -1 is out of range"]),
        ("--label seven", ["unknown label 'seven'", "0 to 9"]),
        ("--label 7 --steps 0", ["steps", "at least 1", "got 0"]),
        ("--label 7 --n 0", ["--n", "at least 1", "got 0"]),
        ("--label 7 --n 1000000000", ["--n is at least 1 and at most 1,000,000", "got 1,000,000,000"]),
        ("--label 7 --steps 1000000000", ["--steps", "at most 100,000"]),
        ("--label 7 --scale nan", ["--scale is a finite number; got nan"]),
        ("--label 7 --scale inf", ["--scale is a finite number; got inf"]),
        ("--temperature 0", ["--temperature is above 0; got 0.0"]),
        ("--label 7 --solver eular", ["eular", "Did you mean 'euler'?"]),
        ("--label 7 --step 5", ["--step", "--steps"]),
        ("--label 7 --out x.txt", [".png", "x.txt"]),
        ("--label 7 --start 0.5", ["--start", "--image"]),
        ("--label 7 --image nothing.png", ["nothing.png", "cannot be read"]),
        ("--label 7 --image digits/samples/step-00000020.png --start 2", ["start", "got 2"]),
        ("--label none --scale 3", ["--scale", "--label"]),
    ],
)
def test_sampling_flags(reverie, digits, flags, parts):
    clear(reverie("sample digits", flags), 2, *parts)
    assert not (digits.parent / "samples.png").exists()


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("evaluate digits --n 1000000000", "--n"),
        ("evaluate digits --batch 0", "--batch"),
        ("restore digits --image a.png --task superres --factor 0", "--factor"),
        ("restore digits --image a.png --task deblur --blur nan", "--blur"),
        ("restore digits --image a.png --task deblur --noise -1", "--noise"),
        ("calibrate digits --steps 31", "--steps"),
        ("judge digits8 --images 0", "--images"),
        ("read probe digits --labels 0", "--labels"),
        ("read segment digits --t nan", "--t"),
        ("read match a.png b.png --noises 0", "--noises"),
        ("convert digits out --scale nan", "--scale"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_every_verb(reverie, digits, command, flag):
    clear(reverie(command), 2, f"{flag} is ", "; got ")


def test_more_pictures_than_memory_holds(reverie, digits, monkeypatch):
    monkeypatch.setattr("reverie.core.memory.physical", lambda: 10 * 4 * 28 * 28)
    clear(reverie("sample digits --label 7 --n 11"), 2, "--n 11 takes", "this machine has", "fewer at a time")
    clear(reverie("evaluate digits --n 11"), 2, "n 11 takes")
    clear(reverie("train --out big --data mnist5k --train.batch 11"), 2, "train.batch 11 takes", "train.micro_batch")


def test_a_name_that_leaves_its_folder(reverie, tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("../../x", "/x", "a/b", "..", "a\\b"):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": name}))
        clear(reverie("train r.yaml"), 2, "name is the name of a folder", repr(name))
        clear(reverie(f"train --name {name}"), 2, "name is the name of a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "r.yaml"]


def test_a_run_that_is_not_there(reverie, digits):
    clear(reverie("sample digist --label 7"), 2, "no run in digist", "Did you mean 'digits'?")
    clear(reverie("runs elsewhere"), 2, "no runs in")


def weights(folder, step: int = 20):
    return folder / "checkpoints" / f"step-{step:08d}" / "ema.safetensors"


def test_a_truncated_checkpoint(reverie, digits):
    whole = weights(digits).read_bytes()
    weights(digits).write_bytes(whole[: len(whole) // 2])
    parts = ("ema.safetensors is damaged", f"{len(whole):,}", "step-00000020", "step-00000016 is used")
    clear(reverie("sample digits --label 7 --out a.png"), 0, *parts)
    assert reverie("sample digits/checkpoints/step-00000016 --label 7 --out b.png").code == 0
    assert (digits.parent / "a.png").read_bytes() == (digits.parent / "b.png").read_bytes()
    clear(reverie("sample digits/checkpoints/step-00000020 --label 7"), 1, "ema.safetensors is damaged", "Restore it")
    clear(reverie("train digits"), 0, *parts)
    assert weights(digits).read_bytes() == whole, "training went on from the one before"
    assert reverie("sample digits --label 7 --out c.png").err == ""


def test_the_checkpoint_before_can_be_named(reverie, digits):
    weights(digits).write_bytes(b"")
    assert reverie("sample digits/checkpoints/step-00000016 --label 7").code == 0


@pytest.mark.parametrize(
    ("section", "key", "value", "parts"),
    [
        ("task.net", "width", 32, ["(32, 1, 14, 14)", "(16, 1, 14, 14)"]),
        ("data", "size", 42, ["its shape is 1x28x28, the recipe's 1x42x42"]),
        ("task", "kind", "v", ["its kind is flow, the recipe's v"]),
    ],
)
def test_a_checkpoint_of_another_architecture(reverie, digits, section, key, value, parts):
    recipe = yaml.safe_load((digits / "recipe.yaml").read_text())
    reduce(getitem, section.split("."), recipe)[key] = value
    (digits / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    clear(reverie("sample digits --label 7"), 2, "another network", "recipe.yaml", *parts)
    if section == "task.net":
        clear(reverie("train digits"), 2, "step-00000020 holds the weights of another network")


def test_a_run_without_a_checkpoint(reverie, digits):
    for path in (digits / "checkpoints").iterdir():
        path.rename(digits / path.name)
    clear(reverie("sample digits --label 7"), 1, "no checkpoint yet", "reverie train digits")


def test_a_changed_recipe_shows_the_difference_and_touches_nothing(reverie, digits):
    before = sorted((p, p.stat().st_mtime_ns) for p in digits.rglob("*"))
    said = reverie("train digits --net.width 32 --seed 3")
    clear(said, 2, "another recipe", "--fresh")
    rows = [line.split() for line in said.err.splitlines()]
    assert ["net.width", "16", "32"] in rows and ["seed", "0", "3"] in rows
    assert sorted((p, p.stat().st_mtime_ns) for p in digits.rglob("*")) == before


def test_fresh_keeps_the_old_run_beside_it(reverie, digits):
    old = weights(digits).read_bytes()
    assert reverie("train digits --seed 3 --fresh").code == 0
    assert weights(digits.with_name("digits.old-1")).read_bytes() == old != weights(digits).read_bytes()


def test_a_folder_of_something_else_is_not_taken(reverie, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    clear(reverie("train --out thesis", *TINY), 2, "thesis holds other files")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_loss_that_is_not_finite(reverie):
    wild = "--train.lr 1e30 --train.clip 1e30 --train.warmup 0 --train.decay constant --train.save-every 32"
    said = reverie("train --out run", *TINY, wild)
    clear(
        said,
        1,
        "training stopped at step",
        "learning rate was 1e+30",
        "last good checkpoint is run/checkpoints/step-",
        "train.lr",
    )


@pytest.fixture
def small_disk():
    """No file can grow over so many bytes in this process, as on a disk that is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("limit", [8_000, 50_000])
def test_a_full_disk_while_training(reverie, digits, small_disk, limit):
    """There is no room for the checkpoint, which is written before any picture."""
    latest = weights(digits, 20).parent
    latest.rename(digits / "elsewhere")
    small_disk(limit)
    said = reverie("train digits")
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    clear(
        said,
        1,
        "step-00000020 could not be saved",
        "File too large",
        "step-00000016 (512 images) is whole",
        "make room",
    )
    assert reverie("sample digits --label 7").code == 0
    assert reverie("train digits").code == 0
    for file in ("model", "ema", "optimizer"):
        assert (latest / f"{file}.safetensors").read_bytes() == (
            digits / "elsewhere" / f"{file}.safetensors"
        ).read_bytes()


def test_a_defect_is_one_line_and_the_traceback_is_for_who_asks(reverie, digits, monkeypatch):
    (digits / "checkpoints" / "step-00000020" / "state.json").write_text(json.dumps({"images": None}))
    monkeypatch.setattr("reverie.diffusion.config.DenoisingConfig.build", lambda *_: 1 / 0)
    clear(reverie("sample digits --label 7"), 1, "ZeroDivisionError", "REVERIE_DEBUG=1")
    monkeypatch.setenv("REVERIE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        reverie("sample digits --label 7")


def test_numbers_that_are_not_finite_draw_no_picture(reverie, digits):
    clear(reverie("sample digits --label 7 --scale nan"), 2, "scale is a finite number", "nan")
    clear(reverie("sample digits --label 7 --scale 1e30 --steps 8"), 1, "not finite", "the guidance scale is 1e+30")
    checkpoints = Checkpoints(digits / "checkpoints", keep=9)
    latest = checkpoints.latest()
    files = {name: latest.tensors(name) for name in ("model", "ema", "optimizer")}
    next(value for key, value in files["ema"].items() if key.endswith("weight")).flatten()[0] = math.nan
    checkpoints.save(latest.state["step"] + 1, files, latest.state, latest.metadata("ema"))
    clear(reverie("sample digits --label 7"), 1, "not finite from step 1 ")
    assert not (digits.parent / "samples.png").exists()


def test_seeds_as_large_as_dates_train_and_sample(reverie, tmp_path):
    words = [*TINY[:10], *["--train.images", "32", "--train.batch", "32", "--train.warmup", "0", "--sample.steps", "1"]]
    for seed in (2**24, 20261231):
        assert reverie("train", *words, f"--seed {seed} --out s{seed}").code == 0
        assert reverie(f"sample s{seed} --label 7 --n 1 --steps 1 --seed {2**63} --grid beta --solver ddim").code == 0
