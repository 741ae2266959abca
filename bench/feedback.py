"""DifFeed against one pass on small digits of random sign and contrast (tests/read/polar.py): one block, 2x2 places, 300 labels.

python bench/feedback.py       # writes results/feedback.json, the table of docs/guide/reading.md; two minutes on one core
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.denoiser import NetDenoiser
from reverie.learn.descend import descend
from reverie.read import untrained
from reverie.read.maps import maps, noisy
from reverie.read.probes import heads, probe
from reverie.read.probes.diffeed import DifFeed

sys.path.append(str(Path(__file__).parents[1] / "tests" / "read"))
import polar

RESULTS = Path(__file__).parent / "results" / "feedback.json"
SITE, T, POOL, LABELS, SEEDS, STEPS, BATCH, RATE = "up.0.0", 0.05, 2, 300, 2, 300, 50, 3e-3


def accuracy(model: NetDenoiser, way: str, seed: int) -> float:
    """Share of 500 test pictures named right, by ``one pass``, the same with a perceptron as head, or ``feedback``."""
    train, test = polar.bed()
    rows, point, rng = (
        probe.few(train.labels, LABELS, seed=seed),
        model.schedule.point(T),
        torch.Generator().manual_seed(seed),
    )
    torch.manual_seed(seed)
    width = maps(model, torch.zeros(1, 1, 8, 8), point, [SITE])[SITE].shape[1]
    kind = "mlp" if way == "one pass, perceptron" else "linear"
    head = nn.Sequential(nn.AdaptiveAvgPool2d(POOL), heads.build(kind, width, POOL, 10))
    fed = DifFeed(model, point, SITE, head)
    trained = fed if way == "feedback" else head

    def logits(images: Tensor) -> Tensor:
        x_t = noisy(model.space.encode(images), point, torch.randn(images.shape, generator=rng))
        return fed(x_t) if way == "feedback" else head(maps(model, x_t, point, [SITE])[SITE])

    def loss(step: int) -> Tensor:
        some = rows[torch.randint(LABELS, (BATCH,), generator=rng)]
        return F.cross_entropy(logits(train.images[some]), train.labels[some])

    descend(torch.optim.AdamW(trained.parameters(), RATE), loss, STEPS, label="training")
    fed.eval()
    with torch.no_grad():
        return probe.accuracy(logits(test.images), test.labels)


def main() -> None:
    torch.set_num_threads(1)
    model, found = polar.load(), {}
    for way in ("one pass", "one pass, perceptron", "feedback"):
        for name, each in (("trained", model), ("untrained", untrained(model))):
            values = [accuracy(each, way, seed) for seed in range(SEEDS)]
            found[f"{way}, {name}"] = sum(values) / SEEDS
            print(f"{way}, {name}:", *(f"{v:.3f}" for v in values), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
