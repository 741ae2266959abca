"""Does β make each number of a VAE's code say one thing? The mutual information gap on discs of known factors, by β.

python bench/disentangling.py            # trains what results/disentangling.json lacks, about 5 s of a core for each line
python bench/disentangling.py figure     # the figure of docs/families/autoencoders.md
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from reverie.core.batch import Batch, DataSpec
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.families.token_config import VAEConfig
from reverie.families.vae import VAE, Bounding
from reverie.measure.disentangling import discs, mutual_information_gap
from reverie.spaces import PatchPCA

RESULTS = Path(__file__).parent / "results" / "disentangling.json"
FIGURE = Path(__file__).parent.parent / "docs" / "_static" / "disentangling.png"
BETAS, SEEDS = (1.0, 2.0, 4.0, 8.0, 16.0), (0, 1)
TRAIN, HELD_OUT, SIZE, DIMS, STEPS, BATCH = 4_000, 2_000, 16, 6, 500, 32
FACTORS = ("column", "row", "radius", "brightness")


def trained(beta: float, seed: int, x: Tensor, steps: int = STEPS) -> VAE:
    """A VAE after ``steps`` of Adam whose rate falls to zero."""
    model = VAEConfig(dims=DIMS, beta=beta, width=4).build(DataSpec((1, SIZE, SIZE)), seed)
    task = Bounding(model, [], beta)  # pyright: ignore[reportArgumentType]
    optimizer = Adam(model.net.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = Batch(x[torch.randint(len(x), (BATCH,), generator=order)])
        parts = task.loss("vae", batch, Draws(seed, BATCH * step, BATCH), Moment(step, BATCH * step, BATCH * steps))
        optimizer.zero_grad()
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
        optimizer.step()
        rate.step()
    model.net.eval().requires_grad_(False)
    return model


def measured(model: VAE, x: Tensor, factors: Tensor) -> dict[str, object]:
    """The gap of each factor on held-out discs, how many nats a code says, and the squared error of what is restored from its mean."""
    mean, log_variance = model.net.encode(x, None)  # pyright: ignore[reportCallIssue]
    _, divergent = model.terms(x, None, torch.zeros_like(mean))
    restored = model.net.decode(mean, None)  # pyright: ignore[reportCallIssue]
    numbers = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean(0)
    return {
        "gap": mutual_information_gap(mean, factors).tolist(),
        "nats": divergent.mean().item(),
        "used": int((numbers > 0.1).sum()),
        "mse": (restored - x).square().mean().item(),
    }


def run() -> None:
    (x, _), (unseen, factors) = discs(TRAIN, SIZE, seed=0), discs(HELD_OUT, SIZE, seed=1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "pca" not in rows:
        codes = PatchPCA.fit(x, SIZE, DIMS).encode(unseen).flatten(1)
        rows["pca"] = {"gap": mutual_information_gap(codes, factors).tolist()}
    todo = [(f"untrained seed {seed}", 1.0, seed, 0) for seed in SEEDS]
    todo += [(f"beta {beta:g} seed {seed}", beta, seed, STEPS) for seed in SEEDS for beta in BETAS]
    for name, beta, seed, steps in todo:
        if name in rows:
            continue
        rows[name] = {"steps": steps, **measured(trained(beta, seed, x, steps), unseen, factors)}
        print(name, rows[name], flush=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def figure() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = json.loads(RESULTS.read_text())

    def column(kind: str, key: str) -> list[float]:
        found = [row[key] for name, row in rows.items() if name.startswith(kind + " seed")]
        return [sum(value) / len(value) if isinstance(value, list) else value for value in found]

    layout, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for axis, key, title in (
        (left, "gap", "mutual information gap, mean of 4 factors"),
        (right, "mse", "squared error"),
    ):
        for beta in BETAS:
            values = column(f"beta {beta:g}", key)
            axis.scatter([beta] * len(values), values, s=18, color="tab:blue")
        axis.plot(BETAS, [sum(v) / len(v) for b in BETAS if (v := column(f"beta {b:g}", key))], color="tab:blue")
        axis.set(xscale="log", xticks=BETAS, xlabel="β", title=title, ylim=(0, None))
        axis.set_xticklabels([f"{beta:g}" for beta in BETAS])
    pca = sum(rows["pca"]["gap"]) / len(FACTORS)
    left.axhline(pca, linestyle="--", color="tab:orange", label="principal components")
    untrained = column("untrained", "gap")
    left.axhline(sum(untrained) / len(untrained), linestyle=":", color="tab:red", label="untrained encoder")
    left.legend(fontsize=8)
    for k, name in enumerate(FACTORS):
        means = []
        for beta in BETAS:
            found = [row["gap"][k] for key, row in rows.items() if key.startswith(f"beta {beta:g} seed")]
            means.append(sum(found) / len(found))
        middle.plot(BETAS, means, marker="o", markersize=3, label=name)
    middle.set(xscale="log", xticks=BETAS, xlabel="β", title="the same by factor", ylim=(0, None))
    middle.set_xticklabels([f"{beta:g}" for beta in BETAS])
    middle.legend(fontsize=8)
    layout.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    figure() if sys.argv[1:] == ["figure"] else run()
