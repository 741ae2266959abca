"""Outliers by density: an area in closed form, scikit-learn's, the known failure of simple pictures, and runs by their verb."""

import json
import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

import reverie as rv
from reverie.core.condition import Label
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.measure import auroc, outliers
from reverie.measure.density import log_density
from reverie.measure.figures import Evaluation, Outliers
from reverie.measure.pictures import lossless


class Gaussian(Generator):
    """x ~ N(mean of a class, spread²·1), pictures (1, 4, 4)."""

    shape = (1, 4, 4)

    def __init__(self, means: list[float], spread: float = 0.3, bound: bool = False) -> None:
        self.means, self.spread = means, spread
        self.conditions = {"label": Label(len(means))} if len(means) > 1 else {}
        name = "log_prob_bound" if bound else "log_prob"
        setattr(self, name, lambda x, cond=None: self.density(x, 0 if cond is None else cond["label"].value))

    def density(self, x, label):
        mean = torch.tensor(self.means)[label].view(-1, 1, 1, 1)
        return torch.distributions.Normal(mean, self.spread).log_prob(x).flatten(1).sum(1)

    def sample(self, *_, **__):
        raise NotImplementedError


@pytest.fixture(scope="module")
def digits():
    return rv.data.load("digits8", "test")


def pictures(digits, x, name="others"):
    stored = x.add(1).mul(127.5).round().clamp(0, 255).byte()
    return replace(digits, name=name, store=stored, rows=torch.arange(len(x)), labels=None, classes=[], source=None)


def test_the_area_is_that_of_two_normals():
    """P(a > b) = Φ(d/√2) for scores N(d, 1) and N(0, 1)."""
    torch.manual_seed(0)
    a, b = torch.randn(4000) + 1.0, torch.randn(3000)
    exact = torch.special.ndtr(torch.tensor(1 / math.sqrt(2))).item()
    error = math.sqrt(exact * (1 - exact) / 3000)
    assert auroc(a, b) == pytest.approx(exact, abs=4 * error)
    assert auroc(-a, -b) == pytest.approx(1 - auroc(a, b), abs=1e-12)  # and so the wrong sign is found out
    assert abs(auroc(-a, -b) - exact) > 40 * error


def test_the_area_is_scikit_learns_also_with_ties():
    torch.manual_seed(0)
    for a, b in ((torch.randn(50), torch.randn(70)), (torch.randint(5, (50,)), torch.randint(4, (70,)))):
        truth = [1] * 50 + [0] * 70
        assert auroc(a, b) == pytest.approx(roc_auc_score(truth, torch.cat([a, b])), abs=1e-12)
    assert auroc(a, a) == 0.5
    for a, b in ((torch.tensor([]), torch.ones(2)), (torch.ones(2), torch.tensor([math.nan]))):
        with pytest.raises(InputError, match="scores are numbers"):
            auroc(a, b)


def test_the_density_of_a_gaussian_tells_as_much_as_can_be_told(digits):
    """Means ±m along all D axes: log p of N(m, s²) orders pictures by their distance to m, and the area is that of two normals
    approximately; the same set twice gives ½, and a model of the others the opposite."""
    torch.manual_seed(0)
    own, other = (pictures(digits, 0.3 * torch.randn(200, 1, 4, 4) + m, str(m)) for m in (0.1, -0.1))
    found = outliers(Gaussian([0.1]), own, other)
    centre = torch.full((16,), 0.1)
    near, far = (torch.linalg.norm(0.3 * torch.randn(20_000, 16) + m - centre, dim=1) for m in (0.1, -0.1))
    expected = auroc(-near, -far)
    assert found.density == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 200))
    wrong = [log_density(Gaussian([-0.1]), images.batch(range(200)).x, unlabelled=False) for images in (own, other)]
    assert auroc(*wrong) < 0.4 < 0.6 < found.density
    same = outliers(Gaussian([0.1]), own, own)
    assert same.density == same.complexity == same.corrected == 0.5 and same.bits == same.other_bits
    assert (found.count, found.reference, found.own, found.data) == (200, 200, "0.1", "-0.1")
    bits = torch.distributions.Normal(0.0, 0.3).entropy() / math.log(2) + 7  # of 8 bits on [−1, 1]
    assert found.bits == pytest.approx(bits.item(), abs=0.04) and found.other_bits > found.bits
    few = outliers(Gaussian([0.1], bound=True), own, other, n=20)
    assert not found.bound and few.bound and few.count == few.reference == 20


def test_simple_pictures_are_likelier_and_the_size_of_a_file_corrects_that():
    """A Gaussian of photograph-like noise around grey gives a constant picture more density than its own pictures."""
    digits = rv.data.load("digits8", "test")
    torch.manual_seed(0)
    noise = pictures(digits, 0.3 * torch.randn(50, 1, 16, 16), "noise")
    flat = pictures(digits, (0.05 * torch.randn(50, 1, 1, 1)).expand(-1, 1, 16, 16), "constant")
    model = Gaussian([0.0])
    model.shape = (1, 16, 16)
    found = outliers(model, noise, flat)
    assert found.density == 0.0 and found.complexity == 0.0 and found.corrected == 1.0
    assert found.other_file_bits < found.file_bits
    assert found.other_bits < found.bits and "the others look likelier" in found.how


def test_the_class_that_nobody_told_is_summed_over():
    x = 0.3 * torch.randn(50, 1, 4, 4).clamp(-3, 3)
    both = log_density(Gaussian([0.5, -0.5]), x, unlabelled=False)
    each = torch.stack([log_density(Gaussian([m]), x, unlabelled=False) for m in (0.5, -0.5)])
    torch.testing.assert_close(both, each.exp().mean(0).log())
    torch.testing.assert_close(log_density(Gaussian([0.5, -0.5]), x, unlabelled=True), each[0])
    torch.testing.assert_close(log_density(Gaussian([0.5]), x, unlabelled=False, batch_size=7), each[0])
    model = Gaussian([0.5, -0.5])
    model.conditions["text"] = Label(3)
    with pytest.raises(InputError, match="only labels can be averaged over"):
        log_density(model, x, unlabelled=False)


def test_a_flat_picture_is_a_shorter_file(digits):
    x = digits.batch(range(20)).x
    sizes = [
        torch.stack(list(lossless(pictures(digits, images).store).values())).amin(0) for images in (x, 0 * x + 0.5)
    ]
    assert {"PNG", "WebP"} <= set(lossless(digits.store[:1])) and sizes[0].shape == (20,)
    assert sizes[1].sum() < sizes[0].sum()


def test_pictures_that_do_not_fit_are_said(digits):
    small = pictures(digits, torch.zeros(3, 1, 4, 4))
    with pytest.raises(InputError, match="of one shape"):
        outliers(Gaussian([0.0]), small, digits)
    with pytest.raises(InputError, match="at least one each: got 0"):
        outliers(Gaussian([0.0]), pictures(digits, torch.zeros(0, 1, 4, 4)), small)


RUNS = {
    "pixelcnn": "--width 6 --depth 2",
    "vae": "--dims 8 --width 8",
    "denoising": "--net dit --net.patch 4 --net.width 16 --net.depth 1 --net.heads 2",
}


@pytest.mark.parametrize("task", RUNS)
def test_a_run_is_asked_by_its_verb(task, tmp_path, monkeypatch, capsys):
    from reverie.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    short = "--train.images 64 --train.batch 32 --train.processes 1 --out run"
    assert main(f"train {task} --data digits8 {RUNS[task]} {short}".split()) == 0
    for name in ("mnist5k", "digits8"):
        assert main(f"evaluate run --outliers {name} --n 6".split()) in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "AUROC" in said and "both together 0.500" in said and ("a bound on the log density" in said) == (task == "vae")
    )
    same, other = Outliers.load_all(tmp_path / "run" / "evaluation.json")
    assert same.density == 0.5 and same.bits == same.other_bits and same.images == 64
    assert (other.data, other.count, other.reference) == ("mnist5k", 6, 6) and math.isfinite(other.density)
    assert Evaluation.load(tmp_path / "run" / "evaluation.json") is None
    assert main(["runs", "."]) in (0, None)
    if task == "vae":
        assert main(["report", "run"]) in (0, None)
        assert "told from mnist5k by" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
    assert main(f"evaluate run --outliers {name} --seeds 0".split()) == 2
    assert "leave --seeds out" in capsys.readouterr().err


def test_a_model_without_a_density_names_those_that_have_one():
    model = Gaussian([0.0])
    model.log_prob = None
    with pytest.raises(InputError, match="no density of pictures") as error:
        log_density(model, torch.zeros(2, 1, 4, 4), unlabelled=False)
    assert all(name in str(error.value) for name in ("pixelcnn", "denoising", "vae"))


def test_outliers_are_kept_beside_the_figures_of_samples(tmp_path):
    path = tmp_path / "evaluation.json"
    known = {"split": "all", "count": 3, "own": "own", "reference": 4, "bits": 1.0, "other_bits": 2.0}
    known |= {"file_bits": 3.0, "other_file_bits": 4.0, "bound": False}
    areas = {"density": 0.25, "complexity": 0.5, "corrected": 0.75}
    first, other = (Outliers(data=name, **known, **areas) for name in ("a", "b"))
    path.write_text(first.to_json(path))
    path.write_text(other.to_json(path))
    path.write_text(replace(first, density=0.125).to_json(path))
    assert Outliers.load_all(path) == [replace(first, density=0.125), other]
    assert Evaluation.load_all(path) == [] and json.loads(path.read_text())["version"] == 2
    kept = Outliers.load_all(path)
    figures = Evaluation(figures=(), memorisation={}, closest=(), seconds=1.0)
    path.write_text(figures.to_json(Evaluation.load_all(path), kept))
    assert Evaluation.load(path) == figures and Outliers.load_all(path) == kept
    path.write_text(other.to_json(path))
    assert Evaluation.load(path) == figures and Outliers.load_all(path) == kept[::-1]
    assert first.rows[0][0] == "the log density" and "its own" not in first.how.split(":")[0]
