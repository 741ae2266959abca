"""Self-guided digits: clusters as conditions, against none, random ones, and the true labels. See ``bench/README.md``.

    python bench/self_guided.py NAME STEPS   # none, random, clusters or labels; 600 or 1500: trains, measures; under a minute on one core
    python bench/self_guided.py table        # prints results/self_guided.json

The 8x8 digits in their first 24 principal components, a conditional perceptron, the same training for all, short or long;
only the labels differ. The true labels are seen by the last one alone. Everything is measured in the 24 components, against
digits held out.
"""

import json
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.optim import Adam

import reverie as rv
from reverie import data, guide
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.learn import Denoising
from reverie.learn.draws import Draws
from reverie.learn.task import Batch, Moment
from reverie.learn.times import LogitNormal
from reverie.measure import frechet_distance, precision_recall
from reverie.nets.vectors import VectorNet

K, COMPONENTS, TRAIN, BATCH, N = 50, 24, 1297, 128, 1000
STEPS = (600, 1500)
RESULTS = Path(__file__).parent / "results" / "self_guided.json"
SCALES = (1.0, 1.5, 2.0)


def components() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(training, held out) in components of unit variance in all, and the training labels."""
    digits = load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))  # pyright: ignore[reportAttributeAccessIssue]
    x = torch.tensor(digits.images).float().flatten(1)[order]  # pyright: ignore[reportAttributeAccessIssue]
    labels = torch.tensor(digits.target)[order]  # pyright: ignore[reportAttributeAccessIssue]
    centred = x - x[:TRAIN].mean(0)
    axes = torch.linalg.svd(centred[:TRAIN], full_matrices=False).Vh[:COMPONENTS]
    codes = centred @ axes.T
    codes = codes / codes[:TRAIN].std()
    return codes[:TRAIN], codes[TRAIN:], labels[:TRAIN]


def annotate(name: str, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
    """A condition for each training digit."""
    if name in ("none", "labels"):
        return labels if name == "labels" else None
    images = data.ImageSet("codes", "train", torch.zeros(len(codes), 1, 1, 1).byte(), torch.arange(len(codes)))
    found = guide.clusters(images, codes, K).labels
    assert found is not None
    return found[torch.randperm(len(found))] if name == "random" else found


def run(name: str, steps: int) -> list[dict[str, float | str]]:
    torch.manual_seed(0)
    codes, held_out, labels = components()
    given = annotate(name, codes, labels)
    net = VectorNet(COMPONENTS, 192, 3, classes=None if given is None else int(given.max()) + 1)
    denoise = NetDenoiser(net, Flow(), "flow", shape=(COMPONENTS,))
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    task, optimizer = Denoising(denoise, None, LogitNormal(), drop=0.1), Adam(net.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = torch.randint(TRAIN, (BATCH,))
        batch = Batch(codes[rows], None if given is None else Cond(label=given[rows]))
        loss = task.loss("denoiser", batch, Draws(0, BATCH * step, BATCH), Moment(0, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        average.update_parameters(net)
    net.load_state_dict(average.module.state_dict())
    rows = []
    for scale in SCALES if given is not None else (1.0,):
        each = []
        for seed in range(3):
            cond = None if given is None else Cond(label=given[guide.draw(TRAIN, N, seed)])
            with torch.no_grad():
                x = rv.sample(guide.cfg(denoise, scale), N, cond, steps=16, seed=seed)
            covered = precision_recall(held_out, x)
            each.append([frechet_distance(x, held_out), covered.precision, covered.recall])
        frechet, precision, recall = torch.tensor(each).mean(0).tolist()
        rows.append(
            {
                "labels": name,
                "steps": steps,
                "scale": scale,
                "frechet": frechet,
                "precision": precision,
                "recall": recall,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    names, lengths = ("none", "random", "clusters", "labels"), [str(steps) for steps in STEPS]
    if sys.argv[1:] == ["table"]:
        print(*(json.dumps(row) for row in json.loads(RESULTS.read_text())), sep="\n")
    elif len(sys.argv) == 3 and sys.argv[1] in names and sys.argv[2] in lengths:
        found = run(sys.argv[1], int(sys.argv[2]))
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        kept = [row for row in known if (row["labels"], row["steps"]) != (found[0]["labels"], found[0]["steps"])]
        RESULTS.write_text(json.dumps(kept + found, indent=1) + "\n")
    else:
        sys.exit(__doc__)
