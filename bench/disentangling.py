"""Does β make each number of a VAE's code say one thing? The mutual information gap on discs of known factors, by β.

python bench/disentangling.py            # trains what results/disentangling.json lacks, about 5 s of a core for each line
python bench/disentangling.py figure     # the figure of docs/families/autoencoders.md
"""

import json
import math
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
FIGURE = Path(__file__).parent.parent / "docs" / "_static" / "disentangling.svg"
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
    """The gap of each factor by β."""
    from reverie.report.charts import Line, chart

    rows = json.loads(RESULTS.read_text())
    lines = []
    for k, name in enumerate((*FACTORS, "mean of four")):
        points = []
        for beta in BETAS:
            found = [row["gap"] for key, row in rows.items() if key.startswith(f"beta {beta:g} seed")]
            each = [sum(gap) / len(gap) if k == len(FACTORS) else gap[k] for gap in found]
            points.append(sum(each) / len(each))
        lines.append(Line(name, [math.log2(beta) for beta in BETAS], points, f"f{k}"))
    drawn = chart(lines, "log2 of beta", "", "Mutual information gap of each factor against the logarithm of beta")
    svg = drawn[drawn.index("<svg") : drawn.index("</figure>")]
    colours = ("#2a6fbb", "#c2571a", "#2f8f4e", "#8a4fb0", "#333333")
    style = "text{font:12px sans-serif;fill:#555}.rule{stroke:#ccc}.line{fill:none;stroke-width:2}"
    style += "".join(f".f{k}{{stroke:{colour}}}" for k, colour in enumerate(colours))
    names = "".join(
        f'<text x="{60 + 72 * k}" y="10" style="fill:{colours[k]}">{line.name}</text>' for k, line in enumerate(lines)
    )
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="560" ', 1)
    FIGURE.write_text(svg.replace(">", f"><style>{style}</style>{names}", 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    figure() if sys.argv[1:] == ["figure"] else run()
