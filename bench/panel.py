"""What samples are judged by in the benches of training: a judge of the data's classes, and features that have nothing to do with the data.

Each figure of distance and coverage is taken in two feature spaces, so that a method which happens to please one of them is found out:
the penultimate layer of the judge, and EfficientNet-Lite0 of ImageNet. Colour pictures without a judge have the latter only.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

import reverie as rv
from reverie.core.files import write_tensors
from reverie.data import ImageSet
from reverie.learn.grid import to_bytes
from reverie.measure import FeatureExtractor, frechet_distance, kernel_distance, nearest, precision_recall
from reverie.measure.extract import EfficientNetLite0
from reverie.measure.pictures import from_bytes
from reverie.recipes.measuring import judge_of

AXES, FOLDS, COUNT = 64, 2, 1000
"""Principal axes of the held-out pictures that a Fréchet distance is taken on, sets of training pictures that say what 1 is, and pictures
of each."""
CACHE = Path(__file__).parent / "results" / "references"


class View(NamedTuple):
    """A feature space, what it says of held-out pictures, and the Fréchet distance of training pictures to them."""

    looks: FeatureExtractor
    held_out: Tensor
    axes: Tensor
    unit: float

    def distance(self, features: Tensor) -> float:
        """Fréchet, on the principal axes of the held-out pictures: 1,000 pictures do not fill 1,280 dimensions."""
        return frechet_distance(features @ self.axes, self.held_out @ self.axes)


class Panel:
    """All judges of a data set.

    Args:
        data: a data set, or a folder of pictures.
        judge: file or run of a judge; the bundled one of the data by default.
        outside: whether EfficientNet-Lite0 looks too (``reverie prefetch efficientnet-lite0``).
        size: to which the pictures are brought; their own by default.
    """

    def __init__(self, data: str, judge: str | None = None, outside: bool = True, size: int | None = None) -> None:
        self.data = data
        self.train, self.held_out = (rv.data.load(data, split, size=size) for split in ("train", "test"))
        self.judge = judge_of(data, self.train, judge)
        looks: list[FeatureExtractor] = [] if self.judge is None else [self.judge]
        self.views = {each.name: self._view(each) for each in (*looks, *([EfficientNetLite0()] if outside else []))}
        self.usual_copies = nearest(self.held_out.batch(range(len(self.held_out))).x, self.train).copies

    def labels(self, n: int) -> Tensor | None:
        """What n samples are asked to show: the held-out pictures' labels in turn."""
        own = self.held_out.labels
        return None if own is None else own[torch.arange(n) % len(own)]

    @torch.no_grad()
    def figures(self, images: Tensor, labels: Tensor | None) -> dict[str, Any]:
        """Accuracy, share of copies, and by feature space distances and coverage of samples (N, C, H, W) in [−1, 1]."""
        images = from_bytes(to_bytes(images))
        found: dict[str, Any] = {"copies": nearest(images, self.train).copies, "held_out_copies": self.usual_copies}
        if self.judge is not None and labels is not None:
            found["accuracy"] = (self.judge.logits(images).argmax(1) == labels).double().mean().item()
        for name, view in self.views.items():
            features = view.looks(images)
            covered = precision_recall(view.held_out, features)
            found[name] = {
                "ratio": view.distance(features) / view.unit,
                "kernel": kernel_distance(features, view.held_out),
                "precision": covered.precision,
                "recall": covered.recall,
            }
        return found

    def quick(self, images: Tensor) -> float:
        """The ratio of a few samples in the first space, to choose by."""
        view = next(iter(self.views.values()))
        return view.distance(view.looks(from_bytes(to_bytes(images)))) / view.unit

    @torch.no_grad()
    def _view(self, looks: FeatureExtractor) -> View:
        """Features that take seconds are kept."""
        path = CACHE / f"panel-{looks.name}-{self.held_out.fingerprint[:12]}.safetensors"
        if not path.exists():
            count = min(COUNT, len(self.train) // FOLDS)
            order = spread(self.train)
            parts = {f"fold {k}": order[k * count : (k + 1) * count] for k in range(FOLDS)}
            kept = {name: looks(self.train.batch(rows).x) for name, rows in parts.items()}
            kept["held out"] = looks(self.held_out.batch(range(len(self.held_out))).x)
            CACHE.mkdir(parents=True, exist_ok=True)
            write_tensors(path, kept, {"what": "panel"})
        kept = load_file(path)
        held_out = kept.pop("held out")
        axes = torch.linalg.svd(held_out - held_out.mean(0), full_matrices=False)[2][:AXES].T
        view = View(looks, held_out, axes, 1.0)
        return view._replace(unit=sum(view.distance(fold) for fold in kept.values()) / len(kept))


def spread(data: ImageSet) -> Tensor:
    """Rows in an order of which any stretch has the classes in the proportions of the whole."""
    if data.labels is None:
        return torch.arange(len(data))
    place = torch.empty(len(data), dtype=torch.float64)
    for label in data.labels.unique():
        rows = (data.labels == label).nonzero()[:, 0]
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return place.argsort(stable=True)
