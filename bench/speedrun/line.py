"""The line that a record of the ladder has to reach, and what must not reach it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from panel import Panel

ACCURACY, RATIO, RECALL, COPIES = 0.98, 5.0, 0.6, 0.01
"""Least accuracy, largest Fréchet ratio, least recall, and how many more samples than held-out pictures may be copies."""


def lacks(found: Mapping[str, Any], view: str) -> list[str]:
    """What keeps samples from the line, by their figures and the judge's features ``view``; nothing if they reach it."""
    reached = {
        "accuracy": found["accuracy"] >= ACCURACY,
        "ratio": found[view]["ratio"] <= RATIO,
        "recall": found[view]["recall"] >= RECALL,
        "copies": found["copies"] <= found["held_out_copies"] + COPIES,
    }
    return [name for name, is_reached in reached.items() if not is_reached]


def class_means(panel: Panel, labels: Tensor) -> Tensor:
    """A model of no variety: the mean picture of each class."""
    own, pictures = panel.train.labels, panel.train.batch(range(len(panel.train))).x
    assert own is not None
    return torch.stack([pictures[own == label].mean(0) for label in range(len(panel.train.classes))])[labels]


def copier(panel: Panel, labels: Tensor) -> Tensor:
    """A model that has learned its training pictures by heart: as many of each class as are asked for."""
    own = panel.train.labels
    assert own is not None
    rows = torch.empty_like(labels)
    for label in labels.unique():
        asked = labels == label
        rows[asked] = (own == label).nonzero()[: int(asked.sum()), 0]
    return panel.train.batch(rows).x
