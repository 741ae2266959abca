"""What a proposal costs: each true segment is matched to one query (Carion et al. 2020, DETR), which pays for its name and its mask."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Segments(NamedTuple):
    """What is in a picture: categories (S,) and masks (S, H, W) bool."""

    labels: Tensor
    masks: Tensor


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest assignment of each row to a column of its own (Kuhn 1955; shortest augmenting paths, Jonker & Volgenant 1987).

    Args:
        cost: (rows, columns), rows ≤ columns, finite.

    Returns:
        Rows in order, and the column of each.
    """
    n, m = cost.shape
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, dtype=int)  # of a column; 0 is none, rows count from 1
    for row in range(1, n + 1):
        owner[0], column = row, 0
        least, before, used = np.full(m + 1, np.inf), np.zeros(m + 1, dtype=int), np.zeros(m + 1, dtype=bool)
        while owner[column]:
            used[column] = True
            slack = cost[owner[column] - 1] - u[owner[column]] - v[1:]
            better = ~used[1:] & (slack < least[1:])
            least[1:][better], before[1:][better] = slack[better], column
            following = int(np.argmin(np.where(used, np.inf, least)))
            delta = least[following]
            u[owner[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = following
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    rows = owner[1:] - 1
    columns = np.flatnonzero(rows >= 0)
    order = np.argsort(rows[columns])
    return np.arange(n), columns[order]


class Criterion(nn.Module):
    """Cross-entropy of the names, and binary cross-entropy and dice of the masks; the same weights price the matching.

    Args:
        weights: of name, binary cross-entropy and dice.
        nothing: weight of the queries that show nothing.
        points: of a mask that are compared, drawn anew each time; all without.
    """

    def __init__(
        self, weights: tuple[float, float, float] = (2.0, 5.0, 5.0), nothing: float = 0.1, points: int | None = 12_544
    ) -> None:
        super().__init__()
        self.weights, self.nothing, self.points = weights, nothing, points

    def forward(self, logits: Tensor, masks: Tensor, truth: list[Segments]) -> dict[str, Tensor]:
        """Losses ``name``, ``bce`` and ``dice``, each ().

        Args:
            logits: (B, Q, K + 1).
            masks: (B, Q, h, w) logits.
            truth: of each picture; its masks are resized to the proposals'.
        """
        target = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        bces, dices = [logits.new_zeros(())], [logits.new_zeros(())]
        total = max(1, sum(len(s.labels) for s in truth))
        for i, segments in enumerate(truth):
            if not len(segments.labels):
                continue
            true = F.interpolate(segments.masks[None].to(masks), masks.shape[2:], mode="bilinear", antialias=True)[
                0
            ].flatten(1)
            mine = masks[i].flatten(1)
            if self.points is not None:
                chosen = torch.randint(mine.shape[1], (self.points,), device=mine.device)
                true, mine = true[:, chosen], mine[:, chosen]
            rows, columns = self.match(logits[i], mine, segments.labels, true)
            target[i, columns] = segments.labels[rows]
            picked = mine[columns]
            bces.append(F.binary_cross_entropy_with_logits(picked, true[rows], reduction="none").mean(1).sum())
            dices.append(dice(picked, true[rows]).diagonal().sum())
        weight = torch.ones(logits.shape[2], device=logits.device)
        weight[-1] = self.nothing
        name = F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight)
        a, b, c = self.weights
        return {
            "name": a * name,
            "bce": b * torch.stack(bces).sum() / total,
            "dice": c * torch.stack(dices).sum() / total,
        }

    @torch.no_grad()
    def match(self, logits: Tensor, masks: Tensor, labels: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """True segments and the query of each, (S,) and (S,), from (Q, K + 1), (Q, N), (S,) and (S, N)."""
        a, b, c = self.weights
        name = -logits.softmax(-1)[:, labels].T
        positive, negative = F.softplus(-masks), F.softplus(masks)
        bce = (true @ positive.T + (1.0 - true) @ negative.T) / masks.shape[1]
        cost = a * name + b * bce + c * dice(masks, true).T
        rows, columns = assign(cost.cpu().double().numpy())
        return torch.as_tensor(rows, device=masks.device), torch.as_tensor(columns, device=masks.device)


def dice(logits: Tensor, true: Tensor) -> Tensor:
    """``1 − (2·overlap + 1)/(sizes + 1)`` of every pair, (Q, N) and (S, N) -> (Q, S) (Milletari et al. 2016)."""
    p = logits.sigmoid()
    return 1.0 - (2.0 * p @ true.T + 1.0) / (p.sum(1)[:, None] + true.sum(1)[None] + 1.0)
