"""Statistics of features: what other programs write is read, what is written they read, and what does not fit is refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reverie.core.errors import InputError, RunError
from reverie.core.exact import Empirical
from reverie.core.schedules import Flow
from reverie.data import load
from reverie.measure.evaluation import evaluate
from reverie.measure.figures import FID_EXTRACTOR, Evaluation
from reverie.measure.frechet import frechet_distance, frechet_distance_to_moments
from reverie.measure.pictures import from_bytes
from reverie.measure.statistics import Statistics
from reverie.solve import Sampler


class Corners:
    """Means of the quarters of a picture as features."""

    name, dim = "corners", 4

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        n, _, h, w = images.shape
        return images.mean(1).reshape(n, 2, h // 2, 2, w // 2).mean((2, 4)).flatten(1)


class Others(Corners):
    name = "others"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images).flip(1)


@pytest.fixture(scope="module")
def sets():
    return load("digits8", "train"), load("digits8", "test")


@pytest.fixture(scope="module")
def features(sets) -> np.ndarray:
    return Corners()(sets[0].batch(range(len(sets[0]))).x).double().numpy()


def test_they_are_the_mean_and_the_unbiased_covariance(sets, features):
    assert len(sets[0]) > 1000  # several chunks
    found = Statistics.of(sets[0], Corners())
    assert (found.count, found.extractor) == (len(sets[0]), "corners")
    assert np.allclose(found.mean, features.mean(0), atol=1e-12)
    assert np.allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-12)
    assert not np.allclose(found.covariance, np.cov(features, rowvar=False, bias=True), atol=1e-12)


def test_what_is_written_is_read_here_and_elsewhere(sets, tmp_path):
    found, path = Statistics.of(sets[0], Corners()), tmp_path / "train.npz"
    found.save(path)
    back = Statistics.load(path, Corners())
    assert torch.equal(back.mean, found.mean) and torch.equal(back.covariance, found.covariance)
    assert (back.name, back.count, len(back.version)) == ("train.npz", len(sets[0]), 8)
    with np.load(path) as theirs:  # without pickles
        assert theirs["mu"].shape == (4,) and theirs["sigma"].shape == (4, 4) and theirs["mu"].dtype == np.float64
    assert [p.name for p in tmp_path.iterdir()] == ["train.npz"]


def test_an_interrupted_write_leaves_what_was_there(sets, tmp_path, monkeypatch):
    found, path = Statistics.of(sets[0], Corners()), tmp_path / "train.npz"
    found.save(path)
    before = path.read_bytes()

    def full(file, **content):
        file.write(b"half")
        raise OSError("no space")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match="no space"):
        replace(found, count=1).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("layout", ["edm", "adm", "adm pictures"])
def test_files_of_others_are_read(sets, features, tmp_path, layout):
    pixels = sets[0].store[sets[0].rows].permute(0, 2, 3, 1).numpy()
    mu, sigma = features.mean(0), np.cov(features, rowvar=False)
    content = {
        "edm": {"mu": mu, "sigma": sigma},
        "adm": {
            "arr_0": pixels[:3],
            "mu": mu.astype("f4"),
            "sigma": sigma,
            "mu_s": np.zeros(7),
            "sigma_s": np.zeros((7, 7)),
        },
        "adm pictures": {"arr_0": np.repeat(pixels, 3, axis=3)},
    }[layout]
    np.savez(tmp_path / "ref.npz", **content)
    found = Statistics.load(tmp_path / "ref.npz", Corners())
    assert np.allclose(found.mean, mu, atol=1e-6) and np.allclose(found.covariance, sigma, atol=1e-6)
    assert found.count == (len(pixels) if layout == "adm pictures" else 0)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    eye = np.eye(4)
    wrong = {
        "statistics of 3 features, .* 4 of corners": {"mu": eye[0, :3], "sigma": eye[:3, :3]},
        r"shape \(4,\) and sigma of shape \(3, 3\)": {"mu": eye[0], "sigma": eye[:3, :3]},
        "not symmetric": {"mu": eye[0], "sigma": eye + np.triu(eye[::-1])},
        "mu is not finite": {"mu": eye[0] * np.nan, "sigma": eye},
        "sigma is not finite": {"mu": eye[0], "sigma": eye.astype(complex)},
        "holds nothing: expected mu and sigma": {},
        "holds mean: expected mu and sigma": {"mean": eye[0]},
        r"arr_0 of type float64 .*: expected pictures": {"arr_0": np.zeros((5, 8, 8, 3))},
        r"arr_0 of type <U1 .*: expected pictures": {"arr_0": np.array("a")},
        "two pictures or more: got 1": {"arr_0": np.zeros((1, 8, 8, 3), np.uint8)},
        "no npz file": {"mu": np.array([Evil()]), "sigma": eye},
    }
    for said, content in wrong.items():
        np.savez("ref.npz", **content)
        with pytest.raises(InputError, match=said):
            Statistics.load(Path("ref.npz"), Corners())
    for name in ("ref.pkl", "pickle.npz"):
        Path(name).write_bytes(pickle.dumps({"fid": Evil()}))
    with pytest.raises(InputError, match=r"EDM2 .*numpy.savez"):
        Statistics.load(Path("ref.pkl"), Corners())
    np.save("array.npy", eye)
    Path("array.npy").rename("array.npz")
    for name in ("pickle.npz", "array.npz"):
        with pytest.raises(InputError, match="no npz file"):
            Statistics.load(Path(name), Corners())
    with pytest.raises(InputError, match=r"no file gone.npz: expected statistics"):
        Statistics.load(Path("gone.npz"), Corners())
    assert not Path("touched").exists()


def test_statistics_of_other_features_are_refused(sets, tmp_path):
    """As many features, but others: the file says of which it is."""
    Statistics.of(sets[0], Others()).save(tmp_path / "ref.npz")
    with pytest.raises(InputError, match=r"the 4 features of others, .* 4 of corners"):
        Statistics.load(tmp_path / "ref.npz", Corners())
    with pytest.raises(InputError, match="in the features of others, not of corners"):
        measured(sets, 30, Statistics.of(sets[0], Others()))


def test_the_distance_to_moments_is_that_to_the_features(features):
    x, y = (torch.from_numpy(rows) for rows in (features[:200], features[500:]))
    found = frechet_distance_to_moments(x, y.mean(0), torch.cov(y.T))
    assert found == pytest.approx(frechet_distance(x, y), rel=1e-9)
    with pytest.raises(InputError, match=r"\(200, 4\) and \(2, 3\)"):
        frechet_distance_to_moments(x, y.mean(0)[:3], torch.eye(3))


def measured(sets, n: int, statistics: Statistics | None, extractor=None) -> Evaluation:
    some = sets[0].batch(range(0, len(sets[0]), 5))
    model = Sampler(Empirical(some.x, Flow(), some.label), steps=4)
    return evaluate(model, *sets, extractor or Corners(), statistics=statistics, n=n, seeds=(0, 1))[0]


def test_a_model_is_measured_against_them(sets, tmp_path):
    Statistics.of(sets[0], Corners()).save(tmp_path / "train.npz")
    statistics = Statistics.load(tmp_path / "train.npz", Corners())
    evaluation = measured(sets, 60, statistics)
    figure, control = (evaluation.figure("frechet_reference", of) for of in ("samples", "training"))
    assert (figure.data, figure.split, figure.reference) == (
        "train.npz",
        f"statistics {statistics.version}",
        len(sets[0]),
    )
    assert figure.title == "Fréchet distance to train.npz"
    assert f"{figure.title} is the distance to the {figure.split} of {len(sets[0]):,} pictures." in evaluation.how
    assert evaluation.tells("frechet_reference")
    assert control.value < evaluation.figure("frechet_reference", "noise").value / 10
    path = tmp_path / "evaluation.json"
    path.write_text(evaluation.to_json())
    assert Evaluation.load(path) == evaluation
    # the distance to held-out pictures is another, and what it was without them
    plain = measured(sets, 60, None)
    assert plain.figure("frechet").value == evaluation.figure("frechet").value != figure.value
    assert plain.figure("frechet_reference") is None and plain.settings != evaluation.settings
    # never a headline: this model copies, and is as near as training pictures
    assert evaluation.memorisation["samples"].flagged
    assert {f.measure for f in evaluation.headline} == {f.measure for f in plain.headline}


def test_all_training_pictures_have_no_distance_to_themselves(sets, features):
    found = Statistics.of(sets[0], Corners())
    x = torch.from_numpy(features)
    assert frechet_distance_to_moments(x, found.mean, found.covariance) == pytest.approx(0.0, abs=1e-10)
    x[:, 0] += 0.1
    assert frechet_distance_to_moments(x, found.mean, found.covariance) == pytest.approx(0.01, rel=1e-9)


def test_fewer_pictures_than_features_are_refused(sets):
    statistics = Statistics.of(sets[0], Corners())
    with pytest.raises(InputError, match=r"4 features of corners .* papers 50,000: got n = 4"):
        measured(sets, 4, statistics)
    with pytest.raises(InputError, match=r"got those of digits8, 3"):
        measured(sets, 30, replace(statistics, count=3))


def test_fid_says_of_how_many_samples_it_is(sets):
    class Named(Corners):
        name = FID_EXTRACTOR

    found = measured(sets, 30, Statistics.of(sets[0], Named()), Named())
    titles = [f.title for f in found.figures if f.of == "samples"]
    assert "FID" in titles and "FID to digits8" in titles
    said = "With 30 samples FID is higher than with the 50,000 that papers take."
    assert said in found.warnings and said not in measured(sets, 30, None).warnings


def test_bytes_of_files_are_pictures():
    pixels = torch.arange(192, dtype=torch.uint8).reshape(1, 8, 8, 3)
    assert torch.equal(from_bytes(pixels.permute(0, 3, 1, 2))[0, 2, 0, 1], torch.tensor(5 / 127.5 - 1))
