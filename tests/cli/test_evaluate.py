"""``reverie evaluate`` in other features and against files of statistics."""

import json

import numpy as np
import pytest
import torch

from reverie.measure.figures import FID_EXTRACTOR


class Corners(torch.nn.Module):
    """What stands in for Inception, whose 2,048 features take thousands of pictures: four of them."""

    dim = 4

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.name = FID_EXTRACTOR if weights == "published.pth" else "inception:01234567"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 2).flatten(1)


@pytest.fixture
def evaluate(reverie, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.recipes.measuring.Inception", Corners)

    def evaluate(*words: str):
        said = reverie("evaluate digits --n 80 --seeds 0", *words)
        path = tmp_path / "digits" / "evaluation.json"
        return said, json.loads(path.read_text()) if said.code == 0 else {}

    return evaluate


def rows(out: str) -> list[str]:
    """The headings of a printed table."""
    return [line.split("  ")[0] for line in out.splitlines()]


def test_statistics_of_the_training_pictures_are_written_and_compared_with(evaluate, reverie, tmp_path):
    said, first = evaluate("--write-statistics stats/train.npz")
    assert said.code == 0, said.err
    assert "Fréchet distance to train.npz" in said.out and "FID" not in said.out
    with np.load(tmp_path / "stats" / "train.npz") as written:
        assert written["mu"].shape == (64,) and int(written["count"]) == 4000
        np.savez(tmp_path / "[red]other.npz", mu=written["mu"] + 1, sigma=written["sigma"])
    again, second = evaluate("--reference stats/train.npz")
    assert again.code == 0
    assert [f for f in first["figures"] if f["measure"] == "frechet_reference"] == [
        f for f in second["figures"] if f["measure"] == "frechet_reference"
    ]
    other, third = evaluate("--reference [red]other.npz")
    assert "Fréchet distance to [red]other.npz" in rows(other.out)

    def distance(of):
        return next(f["value"] for f in of["figures"] if f["measure"] == "frechet_reference")

    assert distance(third) != distance(second)
    assert len(third["earlier"]) == 1  # the two before were measured alike
    assert reverie("report digits").code == 0
    page = (tmp_path / "digits" / "report.html").read_text()
    kept = page.split("All measurements")[1]
    assert all(kept.count(f">Fréchet distance to {name}</th>") == 1 for name in ("train.npz", "[red]other.npz"))


def test_distances_in_the_features_of_inception_with_the_judge_for_classes(evaluate, reverie):
    for weights, title in {"published.pth": "FID", "mine.pth": "Fréchet distance"}.items():
        said, found = evaluate(f"--extractor inception:{weights} --write-statistics train.npz")
        assert said.code == 0, said.err
        assert {title, f"{title} to train.npz", "Class accuracy"} <= set(rows(said.out))
        assert ("FID" in said.out) == (title == "FID")
        by = {f["measure"]: f["extractor"] for f in found["figures"]}
        assert by["accuracy"] == "judge-mnist5k" and by["frechet"] == by["kernel"] == Corners(weights).name


def test_what_does_not_fit_is_said_before_anything_is_drawn(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.measure.evaluation._draw", None)
    np.savez(tmp_path / "ref.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "fits.npz", mu=np.zeros(64), sigma=np.eye(64))
    for words, said in {
        "--reference ref.npz": "2,048 features, and pictures are measured in the 64 of judge-mnist5k",
        "--reference gone.npz": "no file gone.npz",
        "--reference fits.npz --n 64": "got n = 64",
        "--write-statistics train.pkl": "npz file: got train.pkl",
        "--extractor resnet": "unknown extractor 'resnet'",
    }.items():
        found, _ = evaluate(words)
        assert found.code == 2 and said in " ".join(found.err.split()), found.err
