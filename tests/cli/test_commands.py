"""The commands doing their work, in this process and in one that is interrupted or killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

from reverie.cli import main
from reverie.measure.figures import Evaluation, Figure
from reverie.recipes import measuring

from .conftest import TINY

LONG = [*TINY, "--train.images", "8000"]


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, which does not outlive the block."""
    code = "import sys; from reverie.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob("checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def latest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def weights(run: Path) -> dict:
    return {
        f"{f}/{k}": v
        for f in ("model", "ema", "optimizer")
        for k, v in load_file(latest(run) / f"{f}.safetensors").items()
    }


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(a[key].equal(b[key]) for key in a)


def test_interrupted_and_killed_and_resumed_is_bitwise_the_run_left_alone(reverie, tmp_path):
    with started(tmp_path, "train", *LONG, "--out", "killed") as killed:
        with started(tmp_path, "train", *LONG, "--out", "stopped") as stopped:
            wait_for_checkpoint(tmp_path / "killed", killed)
            killed.kill()
            wait_for_checkpoint(tmp_path / "stopped", stopped)
            stopped.send_signal(signal.SIGINT)
            _, err = stopped.communicate()
        killed.wait()
    assert stopped.returncode == 130 and "Traceback" not in err
    assert "of 8,000 images; go on with: reverie train stopped" in err
    assert all(int(latest(tmp_path / name).name[5:]) < 250 for name in ("killed", "stopped"))

    for name in ("alone", "killed", "stopped"):
        assert reverie("train", *LONG, "--out", name).code == 0
    alone = weights(tmp_path / "alone")
    assert same(alone, weights(tmp_path / "killed")) and same(alone, weights(tmp_path / "stopped"))
    assert reverie("train", *LONG, "--out other --seed 1").code == 0
    assert not same(alone, weights(tmp_path / "other"))


def test_two_processes_interrupted_and_killed_and_resumed_are_bitwise_two_left_alone(reverie, tmp_path):
    shared = [*LONG, "--train.processes", "2"]
    with started(tmp_path, "train", *shared, "--out", "run") as stopped:
        wait_for_checkpoint(tmp_path / "run", stopped)
        second = reverie("train", *shared, "--out", "run")
        assert second.code == 1 and "another process is training in run" in second.err
        stopped.send_signal(signal.SIGINT)
        _, err = stopped.communicate()
    assert stopped.returncode == 130 and "Traceback" not in err
    assert "of 8,000 images; go on with: reverie train run" in err
    at = latest(tmp_path / "run").name
    assert int(at[5:]) < 250
    with started(tmp_path, "train", *shared, "--out", "run") as killed:
        deadline = time.monotonic() + 600
        while latest(tmp_path / "run").name == at and killed.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.kill()
        killed.wait()
    for name in ("alone", "run"):
        assert reverie("train", *shared, "--out", name).code == 0
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "run"))


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from reverie.cli import main; sys.exit(main(['--help']))"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    assert writer.stderr.read() == b"" and writer.wait() == 0
    writer.stderr.close()


def test_training_writes_a_run(trained):
    names = {path.name for path in trained.iterdir() if path.name[0] != "."}
    assert names == {"recipe.yaml", "log.jsonl", "checkpoints", "averages", "samples"}
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    assert (
        recipe["data"]["size"] == 28
        and recipe["data"]["channels"] == 1
        and recipe["data"]["classes"] == list("0123456789")
    )
    assert recipe["task"]["net"].items() >= {"name": "dit", "patch": 14, "width": 16, "depth": 1, "heads": 2}.items()
    with Image.open(trained / "samples" / "step-00000020.png") as sheet:
        assert sheet.size == (10 * 86 - 2, 4 * 86 - 2 + 18)


def test_the_same_command_again_has_nothing_to_do(reverie, digits):
    before = latest(digits).stat().st_mtime_ns
    assert reverie("train", *TINY, "--name digits --out digits").code == 2  # the name is part of the recipe
    assert reverie("train", *TINY, "--out digits").code == 0 and reverie("train digits").code == 0
    assert latest(digits).stat().st_mtime_ns == before


def test_sampling_by_label(reverie, digits, tmp_path):
    assert reverie("sample digits --label 7 --n 9 --out a.png").out.strip() == "a.png"
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (3 * 86 - 2, 3 * 86 - 2)
    reverie("sample digits --label 7,7,1 --out b.png --n 3")
    reverie("sample digits --label all --out c.png")
    with Image.open(tmp_path / "c.png") as sheet:
        assert sheet.size == (10 * 86 - 2, 2 * 86 - 2 + 18)
    assert reverie("sample digits --label none --n 2 --out d.png").code == 0


def test_a_picture_says_how_it_was_drawn_and_is_drawn_again(reverie, digits, tmp_path):
    """To the byte, from the run that its file names, as a grid and by itself; also when the recipe or the newest weights are others now."""
    assert reverie("sample digits --label 7,1 --n 3 --scale 3 --solver heun --seed 5 --out a.png").code == 0
    with Image.open(tmp_path / "a.png") as image:
        said, recipe = json.loads(image.info["reverie"]), yaml.safe_load(image.info["recipe"])
    assert said["run"] == str(digits) and said["seed"] == 5 and said["checkpoint"] == "step-00000020"
    assert said["settings"]["solver"] == "heun" and said["settings"]["steps"] == 2 and said["settings"]["scale"] == 3.0
    assert recipe["name"] == "mnist5k" and recipe["sample"]["steps"] == 2
    assert reverie("sample --like a.png").out.strip() == "a-again.png"
    drawn = (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "a-again.png").read_bytes() == drawn
    assert reverie("sample digits --n 4 --out many").code == 0
    assert reverie("sample --like many/0002.png --out b.png").code == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "many" / "0002.png").read_bytes()
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / "many" / "0001.png").read_bytes()
    assert reverie("sample --like a.png --seed 6 --out other.png").code == 0
    assert (picture(tmp_path / "other.png") != picture(tmp_path / "a.png")).any()
    assert reverie("sample --like other.png --out seed.png --seed 5").code == 0
    assert (tmp_path / "seed.png").read_bytes() == drawn
    said = reverie("train", str(digits), "--extend", "--train.images", "768", "--sample.steps", "5")
    assert said.code == 0, said.err
    assert "not in" not in reverie("sample --like a.png --out c.png").err
    assert (picture(tmp_path / "c.png") == picture(tmp_path / "a.png")).all()
    shutil.move(digits, tmp_path / "moved")
    assert reverie("sample --like a.png --out d.png").code == 2
    assert reverie("sample moved --like a.png --out d.png").code == 0
    assert (picture(tmp_path / "d.png") == picture(tmp_path / "a.png")).all()
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "step-00000020")
    said = reverie("sample moved --like a.png --out e.png")
    assert said.code == 0 and "the weights that drew it (step-00000020) are not in moved" in said.err
    assert (picture(tmp_path / "e.png") != picture(tmp_path / "a.png")).any()


def test_what_does_not_say_how_it_was_drawn_is_refused(reverie, digits, tmp_path):
    reverie("sample digits --n 1 --out a.jpg")
    Image.new("L", (8, 8)).save(tmp_path / "plain.png")
    for name in ("a.jpg", "plain.png"):
        said = reverie("sample --like", name)
        assert said.code == 2 and "--like takes a PNG that reverie sample wrote" in said.err
    assert "cannot be read" in reverie("sample --like missing.png").err
    assert "name the run to draw from" in reverie("sample").err
    text = PngInfo()
    named = {"run": str(digits), "checkpoint": "x", "weights": "y", "index": None}
    text.add_text("reverie", json.dumps(named | {"flags": ["--n=1", "--out=planted.png", "--like=plain.png"]}))
    text.add_text("recipe", (digits / "recipe.yaml").read_text())
    Image.new("L", (8, 8)).save(tmp_path / "odd.png", pnginfo=text)
    assert reverie("sample --like odd.png").out.strip() == "odd-again.png"
    assert not (tmp_path / "planted.png").exists(), "a picture decides no file that is written"


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_picture_depends_on_seed_and_label_and_not_on_how_many_are_drawn(reverie, digits, tmp_path):
    for name, flags in {
        "two": "--label 7 --n 2 --scale 8",
        "five": "--label 7 --n 5 --scale 8",
        "seed": "--label 7 --n 2 --scale 8 --seed 1",
        "cool": "--label 7 --n 2 --scale 8 --temperature 0.5",
        "label": "--label 1 --n 2 --scale 8",
        "scale": "--label 7 --n 2 --scale 1",
        "steps": "--label 7 --n 2 --scale 8 --steps 3",
        "heun": "--label 7 --n 2 --scale 8 --solver heun",
    }.items():
        assert reverie("sample digits --out", name, flags).out.strip() == f"{name}/"
    first = {
        name: picture(tmp_path / name / "0000.png")
        for name in ("two", "five", "seed", "cool", "label", "scale", "steps", "heun")
    }
    assert first["two"].shape == (28, 28) and len(list((tmp_path / "five").iterdir())) == 5
    assert abs(first["two"] - first["five"]).max() <= 1
    for name in ("seed", "cool", "label", "scale", "steps", "heun"):
        assert abs(first["two"] - first[name]).max() > 1, name


def test_a_calibrated_run_is_sampled_by_its_calibration_unless_told_otherwise(reverie, digits, tmp_path):
    draw = "sample digits --label 7 --n 1 --steps 4 --scale 1.5 --solver auto"
    reverie(draw, "--out before")
    said = reverie("calibrate digits --steps 4 --scale 1.5")
    assert said.code == 0, said.err
    assert "calibrated-4-1.5.json" in said.out and "scale 1.5" in said.out
    first, *tried = said.out.splitlines()
    assert first.startswith("tried, by the typical error") and "(the default" in tried[0] and len(tried) >= 8
    assert sum("the best)" in line for line in tried) == 1
    reverie(draw, "--out after")
    reverie(draw, "--scale 2.5 --out other")
    (digits / "calibrated-4-1.5.json").unlink()
    reverie(draw, "--scale 2.5 --out plain")
    before, after, other, plain = (picture(tmp_path / f / "0000.png") for f in ("before", "after", "other", "plain"))
    assert (other == plain).all(), "a calibration serves its own scale only"
    assert (before != after).any(), "it was not used"


def test_an_energy_goes_with_the_solver_that_is_chosen(reverie, digits, tmp_path):
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "black.png")
    draw = "sample digits --label 7 --n 2 --steps 6 --solver default"
    assert reverie(draw, "--out free").code == 0
    assert reverie(draw, "--guide energy:lowres:2 --target black.png --out held").code == 0
    free, held = (picture(tmp_path / f / "0000.png") for f in ("free", "held"))
    assert abs(held - free).max() > 1 and held.mean() < free.mean()


def test_image_to_image_stays_close_when_it_starts_late(reverie, digits, tmp_path):
    Image.fromarray(np.tile(np.linspace(0, 255, 28).astype(np.uint8), (28, 1))).save(tmp_path / "ramp.png")
    for name, at in {"near": "0.05", "far": "0.95"}.items():
        assert reverie("sample digits --label 7 --n 1 --image ramp.png --out", name, "--start", at).code == 0
    ramp = picture(tmp_path / "ramp.png")
    near, far = (abs(picture(tmp_path / name / "0000.png") - ramp).mean() for name in ("near", "far"))
    assert near < 25 < 50 < far


def test_the_demo_trains_measures_and_reports_once(reverie, digits, tmp_path, monkeypatch):
    recipe = yaml.safe_load((digits / "recipe.yaml").read_text())
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump({**recipe, "name": "demo"}))
    monkeypatch.setattr("reverie.recipes.serialisation.find", lambda given: tmp_path / f"{given}.yaml")
    monkeypatch.setattr("reverie.recipes.measuring.measure", partial(measuring.measure, n=20, seeds=(0,)))
    said = reverie("demo")
    assert said.code == 0, said.err
    report = tmp_path / "runs" / "demo" / "report.html"
    assert f"the report: {report}" in said.out and "train " in said.out and "measure " in said.out
    assert "<html" in report.read_text()[:500]
    trained = [path.stat().st_mtime_ns for path in (latest(report.parent), report.parent / "evaluation.json")]
    assert reverie("demo").code == 0
    assert trained == [path.stat().st_mtime_ns for path in (latest(report.parent), report.parent / "evaluation.json")]
    assert "right" in reverie("runs").out


def test_runs_are_listed(reverie, digits, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.yaml").write_text("nte: 5")
    said = reverie("runs .")
    assert said.code == 0
    row = next(line for line in said.out.splitlines() if line.startswith("digits"))
    assert all(word in row.split() for word in ("mnist5k", "dit", "640/640"))
    assert "unknown key nte" in said.out


def test_runs_are_sorted_and_chosen(reverie, tmp_path):
    """By a column, a figure or any key of the recipe; the best figure comes first, and what has none last."""
    figures = {"a": (0.5, 30.0), "b": (0.9, 4.0), "c": (0.7, 200.0), "d": None}
    for name, pair in figures.items():
        task = (
            {"name": "dcgan"}
            if name == "c"
            else {"name": "denoising", "net": {"name": "dit" if name == "a" else "unet"}}
        )
        (tmp_path / name).mkdir()
        recipe = {"name": name, "task": task, "train": {"lr": 0.5 if name == "b" else 0.001}}
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        if pair is not None:
            taken = [
                Figure(
                    measure=m,
                    of="samples",
                    value=v,
                    each=(v,),
                    seeds=(0,),
                    count=9,
                    data="x",
                    split="test",
                    reference=9,
                    extractor="x",
                )
                for m, v in zip(("accuracy", "frechet"), pair, strict=True)
            ]
            whole = Evaluation(figures=tuple(taken), memorisation={}, closest=(), seconds=1.0)
            (tmp_path / name / "evaluation.json").write_text(whole.to_json())

    def names(*words: str) -> list[str]:
        said = reverie("runs .", *words)
        assert said.code == 0, said.err
        return [line.split()[0] for line in said.out.splitlines() if line.split() and line.split()[0] in figures]

    assert names() == ["a", "b", "c", "d"]
    assert names("--sort frechet") == ["b", "a", "c", "d"]  # as numbers: as text 200 comes before 30
    assert names("--sort accuracy") == ["b", "c", "a", "d"]
    assert names("--where task=gan") == ["c"] and names("--where task=denoising") == ["a", "b", "d"]
    assert names("--where net.name=unet train.lr=5e-1") == ["b"] and names("--where task=nothing") == []
    assert "200" in reverie("runs . --sort frechet").out
    assert "Did you mean 'frechet'" in reverie("runs . --sort frechit").err
    assert "KEY=VALUE" in reverie("runs . --where frechet").err


def test_strange_runs_hide_no_other(reverie, digits, tmp_path):
    recipes = {"[red]marked": "[/blue]", "deep": "[" * 5_000, "bytes": "\xff\x00", "name": "name: ../../x"}
    for name, text in {**recipes, **{f"many-{i}": "seed: 1" for i in range(200)}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(text, encoding="latin-1")
    (tmp_path / "folder" / "recipe.yaml").mkdir(parents=True)
    spoiled = {
        "log.jsonl": "5\n",
        "log.jsonl ": '{"images": 1, "loss": []}\n',
        "evaluation.json": "[1]",
        "checkpoints/step-00000020/state.json": "[]",
        "checkpoints": "a file",
    }
    for i, (file, text) in enumerate(spoiled.items()):
        shutil.copytree(digits, tmp_path / f"spoiled-{i}")
        path = tmp_path / f"spoiled-{i}" / file.strip()
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_text(text)
    shutil.copytree(digits, tmp_path / "pipes")
    for file in (
        "checkpoints/step-00000016/state.json",
        "checkpoints/step-00000020/model.safetensors",
        "evaluation.json",
    ):
        (tmp_path / "pipes" / file).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "pipes" / file)
    said = reverie("runs .")
    rows = [line.split() for line in said.out.splitlines() if line.strip()]
    expected = {
        "digits",
        "folder",
        "pipes",
        *recipes,
        *(f"spoiled-{i}" for i in range(5)),
        *(f"many-{i}" for i in range(200)),
    }
    assert said.code == 0 and expected <= {row[0] for row in rows}
    assert "640/640" in next(row for row in rows if row[0] == "digits")
    assert "512/640" in next(row for row in rows if row[0] == "spoiled-3"), "the checkpoint before"


def test_a_folder_of_pictures_without_classes(reverie, tmp_path):
    (tmp_path / "cats").mkdir()
    for i in range(40):
        Image.fromarray(np.full((16, 16, 3), (6 * i, 255 - 6 * i, 90), np.uint8)).save(tmp_path / "cats" / f"{i}.png")
    small = "--net unet --net.width 8 --net.multipliers 1 2 --net.heads 2 --train.images 64 --train.batch 16 --sample.steps 2"
    said = reverie("train --data cats", small)
    assert said.code == 0 and "size 16" in said.err
    recipe = yaml.safe_load((tmp_path / "runs" / "cats" / "recipe.yaml").read_text())
    data = {"name": str(tmp_path / "cats"), "classes": None, "channels": 3, "size": 16}
    assert data.items() <= recipe["data"].items() and recipe["task"]["net"]["multipliers"] == [1, 2]
    assert reverie("sample runs/cats").code == 0
    assert reverie("sample runs/cats --label 3").code == 2
    assert reverie("train --data ./cats", small).code == 0


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "train --help",
        "sample --help",
        "runs --help",
        "data encode --help",
        "demo --help",
        "evaluate --help",
        "report --help",
        "judge --help",
    ],
)
def test_help_needs_no_torch(words: str):
    code = f"import sys; from reverie.cli import main; code = main({words.split()!r}); sys.exit(code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: reverie" in done.stdout


def test_version():
    assert main(["--version"]) == 0


def test_a_run_goes_on_by_more_images(reverie, digits):
    said = reverie("train", str(digits), "--train.images", "768")
    assert said.code == 2 and "--extend goes on" in said.err
    said = reverie("train", str(digits), "--extend", "--train.images", "768")
    assert said.code == 0 and "768 images" in said.out and "train.images 768 (was 640)" in said.err
    assert reverie("train", str(digits)).code == 0
    for flag in (["--fresh"], ["--budget", "1m"]):
        assert reverie("train", str(digits), "--extend", *flag).code == 2


def test_the_demo_is_converted_and_draws_in_diffusers_by_the_lines_that_are_printed(reverie):
    """Its prior and its folded pixels with it; what the run said of it before its first step holds."""
    said = reverie("train demo --out runs/a --train.images 32 --train.processes 1 --train.sample-every 1000000")
    assert said.code == 0 and "for diffusers: reverie convert runs/a OUT" in said.err
    said = reverie("convert runs/a OUT")
    assert said.code == 0, said.err
    scope = {}
    exec(said.out.partition("In diffusers:")[2], scope)
    assert [picture.size for picture in scope["images"]] == [(28, 28)] * 4 and "guidance_scale=" in said.out


def test_a_run_that_cannot_be_converted_says_so_before_its_first_step_and_what_would_help_does(reverie):
    short = "--train.images 32 --train.processes 1 --train.sample-every 1000000 --net.fourier 16 --net.skip-scale 0.7"
    said = reverie("train demo --out runs/a", short)
    assert (
        said.code == 0
        and "no export: diffusers has nothing like this UNet run: train with --net.skip-scale 1.0" in said.err
    )
    refused = reverie("convert runs/a OUT")
    assert refused.code == 2 and refused.err.strip().rpartition("train with ")[2] in said.err
    flags = refused.err.strip().partition("train with ")[2].replace(",", "")
    assert reverie("train demo --out runs/b", short, flags).code == 0
    assert reverie("convert runs/b OUT").code == 0
