"""Self-guidance on mnist5k: clusters as conditions, against none, random ones and the true labels. See ``bench/README.md``.

python bench/self_guided.py codes                              # perceptrons on principal components, every arm, three seeds
python bench/self_guided.py annotate NONE FOLDER               # clusters of the features of a run without labels, as folders of pictures
python bench/self_guided.py pictures none=RUN clusters=RUN …   # the same chain with U-Nets
python bench/self_guided.py table

Everything is measured in the judge's features against the held-out digits, at the training histogram of the conditions. Results are kept
in results/self_guided.json.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

import reverie as rv
from reverie import data, guide
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.data.split import held_out
from reverie.diffusion import Denoising
from reverie.learn import grid
from reverie.measure import frechet_distance, judge, precision_recall
from reverie.nets.vectors import VectorNet
from reverie.recipes.runs import Run

RESULTS = Path(__file__).parent / "results" / "self_guided.json"
COMPONENTS, WIDTH, BATCH, STEPS = 48, 256, 128, 2000
N, SEEDS = 2000, 2
SCALES = (1.0, 1.5, 2.0)
K = 50


def annotate(arm: str, images: data.ImageSet, features: Tensor, seed: int = 0) -> Tensor | None:
    """A condition for each training picture: "none", "labels", "clusters-K", or "random-K", the same clusters dealt out at random."""
    kind, _, k = arm.partition("-")
    if kind in ("none", "labels"):
        return images.labels if kind == "labels" else None
    found = guide.clusters(images, features, int(k or K), seed).labels
    assert found is not None
    shuffled = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return found[shuffled] if kind == "random" else found


def score(x: Tensor, extractor: judge.Judge, reference: Tensor) -> dict[str, float]:
    features = extractor(x.clamp(-1.0, 1.0))
    covered = precision_recall(reference, features[: len(reference)])
    return {
        "frechet": frechet_distance(features, reference),
        "precision": covered.precision,
        "recall": covered.recall,
    }


def codes(arms: list[str]) -> None:
    """Every arm on the principal components, the same perceptron and training for all; only the condition differs."""
    extractor, train, test = judge.load("mnist5k"), data.load("mnist5k"), data.load("mnist5k", "test")
    pixels, unseen = train.batch(range(len(train))).x, test.batch(range(len(test))).x
    mean = pixels.flatten(1).mean(0)
    axes = torch.linalg.svd(pixels.flatten(1) - mean, full_matrices=False).Vh[:COMPONENTS]
    x = (pixels.flatten(1) - mean) @ axes.T
    unit = x.std()

    def decode(z: Tensor) -> Tensor:
        return (z * unit @ axes + mean).unflatten(1, (1, 28, 28)).clamp(-1.0, 1.0)

    reference = extractor(decode((unseen.flatten(1) - mean) @ axes.T / unit))
    keep("codes", "real", 1.0, 0, score(decode(x / unit), extractor, reference))
    known = [(r["arm"], r["seed"]) for r in read() if r["model"] == "codes" and r["scale"] in (SCALES[-1], 1.0)]
    for arm in arms:
        for seed in range(SEEDS):
            if known.count((arm, seed)) == (1 if arm == "none" else 2):
                continue
            given = annotate(arm, train, x, seed)
            denoise = perceptron(x / unit, given, seed)
            for scale in SCALES if given is not None else (1.0,):
                cond = None if given is None else Cond(label=given[guide.draw(len(x), N, seed)])
                with torch.no_grad():
                    drawn = rv.sample(guide.cfg(denoise, scale), N, cond, steps=16, seed=seed)
                keep("codes", arm, scale, seed, score(decode(drawn), extractor, reference))


def perceptron(x: Tensor, given: Tensor | None, seed: int) -> NetDenoiser:
    torch.manual_seed(seed)
    net = VectorNet(COMPONENTS, WIDTH, 3, classes=None if given is None else int(given.max()) + 1)
    denoise = NetDenoiser(net, Flow(), "flow", shape=(COMPONENTS,))
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    task, optimizer = Denoising(denoise, LogitNormal(), drop=0.1), Adam(net.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        batch = Batch(x[rows], None if given is None else Cond(label=given[rows]))
        loss = task.loss("denoiser", batch, Draws(seed, BATCH * step, BATCH), Moment(0, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        average.update_parameters(net)
    net.load_state_dict(average.module.state_dict())
    return denoise


def folders(run: str, out: str) -> None:
    """The training digits in a folder a cluster, by the features of a model that saw no label; and dealt out at random."""
    train = data.load("mnist5k")
    features = rv.read.features(rv.load(run), train, "middle.1", logsnr=2.0)
    for arm in ("clusters", "random"):
        labels = annotate(arm, train, features)
        assert labels is not None
        for i, (pixels, label) in enumerate(zip(train.images, labels.tolist(), strict=True)):
            name = f"{label:03d}/{i:04d}.png"
            while held_out(name):  # a name that the folder's split leaves in training: all arms see the same digits
                name = name.replace(".png", "-.png")
            path = Path(out) / arm / name
            path.parent.mkdir(parents=True, exist_ok=True)
            grid.save(grid.to_picture(pixels), path)


def pictures(runs: dict[str, str], n: int = 1000, steps: int = 12) -> None:
    """The U-Nets of ``bench/recipes/self_guided.yaml``, conditions drawn from the training histogram."""
    extractor, test = judge.load("mnist5k"), data.load("mnist5k", "test")
    reference = extractor(test.batch(range(len(test))).x)
    for arm, folder in runs.items():
        run = Run(folder)
        labels = data.load(run.recipe.data.name).labels if run.recipe.data.classes else None
        denoise: Denoiser = run.denoiser()
        for scale in (1.0,) if labels is None else (1.0, 2.0):
            if any((r["model"], r["arm"], r["scale"]) == ("pictures", arm, scale) for r in read()):
                continue
            cond = None if labels is None else Cond(label=labels[guide.draw(len(labels), n)])
            with torch.no_grad():
                x = rv.sample(guide.cfg(denoise, scale), n, cond, "dpmpp2", steps, batch_size=250)
            keep("pictures", arm, scale, 0, score(x, extractor, reference))


def read() -> list[dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def keep(model: str, arm: str, scale: float, seed: int, found: dict[str, float]) -> None:
    rows = read()
    key = {"model": model, "arm": arm, "scale": scale, "seed": seed}
    rows = [row for row in rows if {k: row[k] for k in key} != key] + [{**key, **found}]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(key, {k: round(v, 3) for k, v in found.items()}, flush=True)


def table() -> None:
    """Means over seeds, and the Fréchet distance as a share of the unconditional model's."""
    rows = read()
    for model in ("codes", "pictures"):
        mean = {}
        for row in rows:
            if row["model"] == model:
                mean.setdefault((row["arm"], row["scale"]), []).append(
                    [row["frechet"], row["precision"], row["recall"]]
                )
        if ("none", 1.0) not in mean:
            continue
        none = torch.tensor(mean["none", 1.0]).mean(0)[0]
        print(
            f"\n| {model} | scale | Fréchet | ± | of unconditional | precision | recall |\n|---|---|---|---|---|---|---|"
        )
        for (arm, scale), found in mean.items():
            f, p, r = torch.tensor(found).mean(0)
            spread = f"{torch.tensor(found).std(0)[0]:.2f}" if len(found) > 1 else "–"
            print(f"| {arm} | {scale:g} | {f:.2f} | {spread} | {f / none:.2f} | {p:.3f} | {r:.3f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["codes", *arms]:
            codes(arms or ["none", "labels", "clusters-10", "random-10", "clusters-50", "random-50", "clusters-200"])
        case ["annotate", run, out]:
            folders(run, out)
        case ["pictures", *runs]:
            pictures(dict(item.split("=", 1) for item in runs))
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
