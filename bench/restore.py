"""Restoration of held-out pictures by every posterior method, beside baselines that have learned nothing. See ``bench/README.md``.

python bench/restore.py patches FOLDER                                   # cuts scikit-image's photographs into patches to train on
python bench/restore.py run digits=RUN emoji=RUN photographs=RUN         # measures; writes results/restore.json
python bench/restore.py table                                            # prints the tables of docs/guides/restoration.md
python bench/restore.py figure digits=RUN emoji=RUN photographs=RUN      # draws its figures
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

import reverie as rv
from reverie.core.denoiser import Denoiser
from reverie.inverse import Restored
from reverie.inverse.operators import Blur, Colourise, Inpaint, Operator, SuperResolution

RESULTS = Path(__file__).parent / "results" / "restore.json"
FIGURES = Path(__file__).parents[1] / "docs" / "_static"
TRAIN, HELD_OUT = ("astronaut", "chelsea", "rocket", "motorcycle"), "coffee"
SIZE = 32
COUNT = {"digits": 16, "emoji": 6, "photographs": 6}
STEPS = 50
FORWARD = ("reddiff", "repaint")
"""Methods that never go back through the network get three times the evaluations: a pass back costs about two forward."""


def photograph(name: str) -> Image.Image:
    """One of scikit-image's photographs at half its size."""
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    image = Image.fromarray(pixels)
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def cut(name: str, stride: int) -> np.ndarray:
    """All patches on a lattice, (N, SIZE, SIZE, 3) uint8."""
    pixels = np.asarray(photograph(name))
    rows, columns = (range(0, n - SIZE + 1, stride) for n in pixels.shape[:2])
    return np.stack([pixels[i : i + SIZE, j : j + SIZE] for i in rows for j in columns])


def patches(folder: str) -> None:
    """The training patches as a folder of pictures."""
    for name in TRAIN:
        for i, patch in enumerate(cut(name, 6)):
            path = Path(folder) / f"{name}-{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(patch).save(path)


def held_out(data: str, count: int | None = None) -> Tensor:
    """Pictures that training has not seen, spread over what there is, (n, C, H, W) in [−1, 1]; as many as ``COUNT`` says without."""
    if data == "photographs":
        every = torch.from_numpy(cut(HELD_OUT, SIZE)).movedim(-1, 1).float() / 127.5 - 1.0
    else:
        every = rv.data.load({"digits": "mnist5k"}.get(data, data), "test").images.float() / 127.5 - 1.0
    return every[torch.linspace(0, len(every) - 1, COUNT[data] if count is None else count).long()]


def tasks(data: str) -> dict[str, Operator]:
    side = 28 if data == "digits" else SIZE
    mask = torch.ones(side, side)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 0
    every: dict[str, Operator] = {
        "4x super-resolution": SuperResolution(4),
        "box inpainting": Inpaint(mask),
        "deblur": Blur.gaussian(1.5),
    }
    return every if data == "digits" else {**every, "colourise": Colourise()}


NOISE = {"deblur": 0.02}
"""Standard deviation of the measurement's noise; 0 elsewhere."""


def bicubic(operator: Operator, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What an image program would do: bicubic enlargement, holes filled by diffusion from their border, the rest as it is."""
    if isinstance(operator, SuperResolution):
        small = [[Image.fromarray(channel.numpy(), "F") for channel in image] for image in y]
        size = (shape[-1], shape[-2])
        return torch.stack([
            torch.stack([torch.from_numpy(np.asarray(c.resize(size, Image.Resampling.BICUBIC)).copy()) for c in image]) for image in small
        ])  # fmt: skip
    if isinstance(operator, Inpaint):
        x, known = y.clone(), operator.mask.expand_as(y)
        for _ in range(400):
            around = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
            mean = (around[..., 1:-1, 2:] + around[..., 1:-1, :-2] + around[..., 2:, 1:-1] + around[..., :-2, 1:-1]) / 4
            x = known * y + (1 - known) * mean
        return x
    return y.expand(-1, shape[0], -1, -1)


def total_variation(operator: Operator, y: Tensor, shape: tuple[int, ...], weight: float) -> Tensor:
    """``argmin ½‖A(x) − y‖² + weight·TV(x)`` (Rudin, Osher & Fatemi 1992) by Adam on the isotropic total variation, smoothed at 1e-3."""
    x = bicubic(operator, y, shape).clone().requires_grad_()
    adam = torch.optim.Adam([x], 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 400)
    for _ in range(400):
        right = torch.nn.functional.pad(x, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
        down = torch.nn.functional.pad(x, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
        variation = (right.square() + down.square()).sum(1).add(1e-6).sqrt().sum()
        loss = 0.5 * (operator(x) - y).square().sum() + weight * variation
        (x.grad,) = torch.autograd.grad(loss, x)
        adam.step()
        schedule.step()
    return x.detach()


def best_variation(operator: Operator, y: Tensor, truth: Tensor) -> Tensor:
    """Total variation at the best weight of five, chosen with the truth at hand: an upper bound on what it can do."""
    runs = [total_variation(operator, y, tuple(truth.shape[1:]), w) for w in (0.001, 0.003, 0.01, 0.03, 0.1)]
    return min(runs, key=lambda x: float((x - truth).square().mean()))


def score(operator: Operator, y: Tensor, images: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR (of each picture, then the mean), SSIM, and consistency as the root mean square over all; pictures clipped to [−1, 1]."""
    images = images.clamp(-1.0, 1.0)
    error = (images - truth).flatten(1).square().mean(1).clamp(min=1e-10)
    return {
        "psnr": float((10.0 * torch.log10(4.0 / error)).mean()),
        "ssim": float(ssim(images, truth, data_range=(-1.0, 1.0))),  # pyright: ignore[reportArgumentType]
        "consistency": float(rv.inverse.consistency(operator, y, images).square().mean().sqrt()),
    }


def measure(operator: Operator, truth: Tensor, noise: float) -> Tensor:
    y = operator(truth)
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


def methods(operator: Operator, noise: float) -> list[str]:
    """The posterior methods that apply, the cheapest first; D-Flow, which optimises pictures one at a time, is left out."""
    return [
        m for m in ("pigdm", "repaint", "reddiff", "dps") if m != "repaint" or not noise or operator.gram is not None
    ]


def restored(denoise: Denoiser, method: str, operator: Operator, y: Tensor, truth: Tensor, noise: float) -> Restored:
    """What a method or a baseline makes of measurements."""
    if method == "bicubic":
        return Restored(bicubic(operator, y, tuple(truth.shape[1:])), torch.zeros(len(y)), 0.0, 0.0)
    if method == "total variation":
        return Restored(best_variation(operator, y, truth), torch.zeros(len(y)), 0.0, 0.0)
    steps = 3 * STEPS if method in FORWARD else STEPS
    return rv.inverse.restore(denoise, operator, y, method, noise=noise, steps=steps)


def run(runs: dict[str, str]) -> None:
    """Every method on every task; results are kept as they come, pictures in the run, and what is there is not measured again."""
    for data, folder in runs.items():
        denoise, truth = rv.load(folder), held_out(data)
        for task, operator in tasks(data).items():
            noise = NOISE.get(task, 0.0)
            y = measure(operator, truth, noise)
            for method in ("bicubic", "total variation", *methods(operator, noise)):
                key = f"{data}|{task}|{method}"
                if key in read():
                    continue
                start = time.perf_counter()
                result = restored(denoise, method, operator, y, truth, noise)
                seconds = (time.perf_counter() - start) / len(truth)
                cost = {"evaluations": result.evaluations, "backwards": result.backwards, "seconds": seconds}
                scores = {**score(operator, y, result.images, truth), **cost}
                RESULTS.write_text(json.dumps({**read(), key: scores}, indent=1) + "\n")
                drawn(folder, task, method).parent.mkdir(exist_ok=True)
                save_file({"images": result.images.detach().contiguous()}, drawn(folder, task, method))
                print(key, {k: round(v, 3) for k, v in scores.items()}, flush=True)


def read() -> dict[str, dict[str, float]]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def drawn(folder: str, task: str, method: str) -> Path:
    """Where a run keeps what a method made of a task."""
    return Path(folder) / "restored" / f"{task}, {method}.safetensors"


def table() -> None:
    found = read()
    order = ("bicubic", "total variation", "pigdm", "dps", "reddiff", "repaint")
    for data in COUNT:
        print(
            f"\n### {data}\n\n| task | method | PSNR | SSIM | consistency | evaluations | backward |\n|---|---|---|---|---|---|---|---|"
        )
        for task in tasks(data):
            for method in order:
                if (r := found.get(f"{data}|{task}|{method}")) is not None:
                    print(
                        f"| {task} | {method} | {r['psnr']:.1f} | {r['ssim']:.2f} | {r['consistency']:.4f} "
                        f"| {r['evaluations']:.0f} | {r['backwards']:.0f} |"
                    )


def figure(runs: dict[str, str], count: int = 6) -> None:
    """For each data set and task: the truth, what is left of it, and what every method made of it when ``run`` measured it."""
    import matplotlib.pyplot as plt

    for data, folder in runs.items():
        some = slice(None, None, COUNT[data] // count)
        truth = held_out(data)
        shape = tuple(truth.shape[1:])
        rows: list[tuple[str, str, Tensor]] = []
        for task, operator in tasks(data).items():
            noise = NOISE.get(task, 0.0)
            y = measure(operator, truth, noise)
            shown = y.repeat_interleave(4, -1).repeat_interleave(4, -2) if isinstance(operator, SuperResolution) else y
            rows += [(task, "truth", truth), (task, "given", shown.expand(-1, shape[0], -1, -1))]
            for method in ("total variation", *methods(operator, noise)):
                if drawn(folder, task, method).is_file():
                    rows.append((task, method, load_file(drawn(folder, task, method))["images"]))
        names = list(dict.fromkeys(name for _, name, _ in rows))
        every = list(tasks(data))
        fig, axes = plt.subplots(len(every), len(names), figsize=(1.6 * len(names), 1.15 * len(every)), squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for task, name, images in rows:
            axis = axes[every.index(task), names.index(name)]
            axis.imshow(tile(images[some][:count]).squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if every.index(task) == 0:
                axis.set_title(name, fontsize=8)
            if name == "truth":
                axis.text(-0.05, 0.5, task, transform=axis.transAxes, rotation=90, ha="right", va="center", fontsize=7)
        fig.tight_layout(pad=0.3)
        fig.savefig(FIGURES / f"restore_{data}.png", dpi=140)


def tile(images: Tensor, columns: int = 3) -> Tensor:
    """(n, C, H, W) in [−1, 1] to (rows·H, columns·W, C) in [0, 1]."""
    n, c, h, w = images.shape
    grid = images.clamp(-1, 1).reshape(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)
    return grid.reshape(n // columns * h, columns * w, c) * 0.5 + 0.5


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    if verb == "patches":
        patches(*rest)
    elif verb == "table":
        table()
    else:
        {"run": run, "figure": figure}[verb](dict(item.split("=", 1) for item in rest))
