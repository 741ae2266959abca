"""Editors on scenes whose edits have a known truth: does the edit succeed, how far does the rest move, what does it cost.

reverie train bench/recipes/scenes.yaml --out runs/scenes
python bench/edit.py run runs/scenes             # goes on where it stopped; rows are kept in bench/results/edit.json
python bench/edit.py table                       # the table of docs/edit/index.md
python bench/edit.py figure runs/scenes          # docs/_static/edit_scenes.png

24 scenes that no model has seen, of a seed of their own, each with one thing of another colour or shape; each editor with the
inversion of its paper, and with plain ODE inversion, at 20 steps. Whether an edit has succeeded is read by a classifier of scenes that is
trained here on scenes of another seed: both things, their colours and shapes, and how they lie. What moves elsewhere is the PSNR outside
of the changed thing. score = success · preservation, preservation 0 at 10 dB (another picture) and 1 at 30 dB (an eye sees no
difference), the mean of all edits. That scale was set before anything was measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reverie as rv
from reverie.core import files
from reverie.core.condition import Cond
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, counted
from reverie.core.progress import track
from reverie.data import scenes
from reverie.data.scenes import COLOURS, RELATIONS, SHAPES, Scene
from reverie.edit import inversion
from reverie.edit.inversion.record import Inversion, weights
from reverie.edit.methods import SKIPPED
from reverie.learn import grid

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "edit.json"
PICTURE = ROOT / "docs" / "_static" / "edit_scenes.png"
EDITS, SLOW, STEPS, SEED = 24, 6, 20, 11
"""Edits of a row, of a row that takes longest, steps of the solver, and the seed of the scenes."""
WORST, BEST = 10.0, 30.0
"""PSNR in dB at which preservation is 0 and 1."""
HEADS = (len(COLOURS), len(SHAPES)) * 2 + (len(RELATIONS),)


class Edit(NamedTuple):
    before: Scene
    after: Scene
    thing: int


class Batch(NamedTuple):
    """Edits as tensors: ``images`` and ``truth`` (n, 3, H, W), ``mask`` (n, 1, H, W) true at the changed thing and a pixel around it."""

    edits: Sequence[Edit]
    images: Tensor
    truth: Tensor
    mask: Tensor

    def index(self, rows: slice) -> "Batch":
        return Batch(self.edits[rows], self.images[rows], self.truth[rows], self.mask[rows])


def edits(n: int = EDITS) -> list[Edit]:
    """Every other one of the colour, every other one of the shape, of the first thing and of the second."""
    found = []
    for i, scene in enumerate(scenes.draw(n, SEED)):
        which, other = i // 2 % 2, scene.things[1 - i // 2 % 2]
        options = COLOURS if i % 2 == 0 else SHAPES
        kind = "colour" if i % 2 == 0 else "shape"
        own = getattr(scene.things[which], kind)
        told = next(name for name in _turned(list(options), i) if name not in (own, getattr(other, kind)))
        found.append(Edit(scene, scene.changed(which, **{kind: told}), which))
    return found


def _turned(names: list[str], by: int) -> list[str]:
    return names[by % len(names) :] + names[: by % len(names)]


def batch_of(some: Sequence[Edit], size: int) -> Batch:
    images, truth = (pictures([edit[i] for edit in some], size) for i in (0, 1))  # pyright: ignore[reportArgumentType]
    own = [torch.from_numpy(e.before.things[e.thing].mask(size) + e.after.things[e.thing].mask(size)) for e in some]
    mask = F.max_pool2d((torch.stack(own)[:, None] > 0).float(), 3, 1, 1) > 0
    return Batch(some, images, truth, mask)


def pictures(some: Sequence[Scene], size: int) -> Tensor:
    """(n, 3, H, W) in [−1, 1]."""
    return torch.stack([torch.from_numpy(scene.picture(size)) for scene in some]).float() / 127.5 - 1.0


def named(scene: Scene) -> list[int]:
    """What the classifier is to say."""
    things = [i for t in scene.things for i in (list(COLOURS).index(t.colour), list(SHAPES).index(t.shape))]
    return [*things, RELATIONS.index(scene.relation)]


class Reader(nn.Sequential):
    """The outside classifier: colour and shape of both things, and how they lie."""

    def __init__(self, size: int) -> None:
        layers: list[nn.Module] = []
        for wide, out in ((3, 32), (32, 64), (64, 96)):
            layers += [nn.Conv2d(wide, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU(), nn.MaxPool2d(2)]
        super().__init__(
            *layers, nn.Flatten(), nn.Linear(96 * (size // 8) ** 2, 128), nn.SiLU(), nn.Linear(128, sum(HEADS))
        )

    def read(self, x: Tensor) -> Tensor:
        """(n, 5) of what is seen."""
        return torch.stack([head.argmax(1) for head in self(x).split(HEADS, 1)], 1)


def reader(path: Path, size: int, count: int = 4000, epochs: int = 6) -> Reader:
    """The classifier from its file, or trained on scenes of a seed of its own, with noise and shades of its own."""
    torch.manual_seed(0)
    net = Reader(size)
    if path.exists():
        net.load_state_dict(files.read_tensors(path))
        return net.eval()
    every = scenes.draw(count + 500, seed=7)
    x, said = pictures(every, size), torch.tensor([named(scene) for scene in every])
    adam, draw = torch.optim.AdamW(net.parameters(), 2e-3), torch.Generator().manual_seed(1)
    steps = epochs * (count // 64)
    for i in track(range(steps), "training the reader", steps, "steps"):
        adam.param_groups[0]["lr"] = 2e-3 * (1 - i / steps)
        rows = torch.randint(count, (64,), generator=draw)
        noisy = x[rows] + 0.1 * torch.rand(64, 1, 1, 1, generator=draw) * torch.randn(x[rows].shape, generator=draw)
        loss = sum(F.cross_entropy(head, said[rows, k]) for k, head in enumerate(net(noisy).split(HEADS, 1)))
        adam.zero_grad()
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        adam.step()
    with torch.no_grad():
        right = (net.eval().read(x[count:]) == said[count:]).all(1).float().mean()
    print(f"the reader reads all five of {right:.1%} of held-out scenes")
    files.write_tensors(path, net.state_dict(), {"right": float(right)})
    return net


Method = Callable[[Denoiser, Batch], Tensor]


def told(denoise: Denoiser, batch: Batch, after: bool) -> Cond:
    return denoise.conditioner([edit[after].caption for edit in batch.edits])  # pyright: ignore[reportAttributeAccessIssue]


def inverted(how: str, denoise: Denoiser, batch: Batch, **others) -> Inversion:
    return inversion.METHODS[how](denoise, batch.images, told(denoise, batch, False), STEPS, **others)


def plain(how: str, denoise: Denoiser, batch: Batch) -> Tensor:
    """Inverted, and drawn again as told."""
    code = inverted(how, denoise, batch, scale=scale(denoise))
    skip = int(SKIPPED.get(how, 0.0) * STEPS)
    return rv.edit.reconstruct(denoise, code, told(denoise, batch, True), skip=skip)  # pyright: ignore[reportArgumentType]


def by(editor: Callable[..., Tensor], how: str, denoise: Denoiser, batch: Batch) -> Tensor:
    """An editor of an inversion."""
    return editor(denoise, inverted(how, denoise, batch, scale=scale(denoise)), told(denoise, batch, True))


def p2p(how: str, blend: bool, denoise: Denoiser, batch: Batch) -> Tensor:
    """One by one: each edit has words of its own."""
    edited = []
    for i, edit in enumerate(batch.edits):
        one, texts, said = batch.index(slice(i, i + 1)), (edit.before.caption, edit.after.caption), denoise.conditioner  # pyright: ignore[reportAttributeAccessIssue]
        code = inverted(how, denoise, one, scale=scale(denoise))
        words = [rv.edit.words(text, said) for text in texts]
        own = slice(1, 3) if edit.thing == 0 else slice(-2, None)  # its colour and its shape
        things = [tuple(i for word in each[own] for i in word.tokens) for each in words]
        edited.append(
            rv.edit.prompt_to_prompt(
                denoise,
                code,
                told(denoise, one, True),
                rv.edit.aligned(*texts, said),
                blend=rv.edit.LocalBlend(*things) if blend else None,
            )
        )
    return torch.cat(edited)


def scale(denoise: Denoiser) -> float:
    return denoise.sampling.scale if denoise.sampling is not None else 3.0


def whole(denoise: Denoiser, batch: Batch, method: str, **how) -> Tensor:
    """By :func:`reverie.edit.edit`, at its usual settings."""
    source, target = told(denoise, batch, False), told(denoise, batch, True)
    return rv.edit.edit(denoise, batch.images, source, target, method, steps=STEPS, **how).images


def anew(denoise: Denoiser, batch: Batch) -> Tensor:
    return rv.sample(denoise, len(batch.edits), told(denoise, batch, True), steps=STEPS, seed=3)


ROWS: dict[str, tuple[str, Method]] = {
    "return the input": ("", lambda denoise, batch: batch.images),
    "sample the target prompt": ("", anew),
    "sdedit, from 0.5": ("", partial(whole, method="sdedit", start=0.5)),
    "sdedit, from 0.7": ("", partial(whole, method="sdedit", start=0.7)),
    "ode": ("paper", partial(plain, "ode")),
    "fixed_point": ("paper", partial(plain, "fixed_point")),
    "negative_prompt": ("paper", partial(plain, "negative_prompt")),
    "edict": ("paper", partial(plain, "edict")),
    "edit_friendly": ("paper", partial(plain, "edit_friendly")),
    "cycle": ("paper", partial(plain, "cycle")),
    "null_text": ("paper", partial(plain, "null_text")),
    "p2p": ("null_text", partial(p2p, "null_text", False)),
    "p2p, ode": ("ode", partial(p2p, "ode", False)),
    "p2p, negative_prompt": ("negative_prompt", partial(p2p, "negative_prompt", False)),
    "p2p, blended, negative_prompt": ("negative_prompt", partial(p2p, "negative_prompt", True)),
    "plug_and_play": ("ode", partial(by, rv.edit.plug_and_play, "ode")),
    "masactrl": ("ode", partial(by, rv.edit.masactrl, "ode")),
    "pix2pix_zero": ("regularised", partial(by, rv.edit.pix2pix_zero, "regularised")),
    "pix2pix_zero, ode": ("ode", partial(by, rv.edit.pix2pix_zero, "ode")),
    "dds": ("", partial(whole, method="dds")),
    "imagic": ("", partial(whole, method="imagic")),
    "masked, told where": ("", lambda denoise, batch: _masked(denoise, batch)),
}
"""By name: the inversion, and what edits. Rows of null-text and Imagic are of the first :data:`SLOW` edits."""
CONTROLS = ("return the input", "sample the target prompt")


def _masked(denoise: Denoiser, batch: Batch) -> Tensor:
    return whole(denoise, batch, "masked", mask=batch.mask, start=1.0)


def slow(name: str) -> bool:
    return name in ("null_text", "p2p", "imagic")


def measured(made: Tensor, batch: Batch, read: Reader) -> dict[str, list[float]]:
    """Of each edit: whether it succeeded, and the PSNR in dB of what lies outside of the changed thing."""
    wanted = torch.tensor([named(edit.after) for edit in batch.edits])
    with torch.no_grad():
        success = (read.read(made.clamp(-1, 1)) == wanted).all(1)
    outside = (~batch.mask).expand_as(made)
    error = (torch.where(outside, made.clamp(-1, 1) - batch.images, 0.0)).square().flatten(1).sum(1) / outside.flatten(
        1
    ).sum(1)
    psnr = 10 * torch.log10(4.0 / error.clamp(min=4e-6))
    return {"success": success.float().tolist(), "psnr": psnr.tolist()}


def preservation(psnr: float) -> float:
    return min(1.0, max(0.0, (psnr - WORST) / (BEST - WORST)))


def score(row: dict) -> float:
    each = [s * preservation(p) for s, p in zip(row["success"], row["psnr"], strict=True)]
    return sum(each) / len(each)


def run(folder: Path, only: Sequence[str]) -> None:
    torch.set_num_threads(1)
    denoise = rv.load(folder)
    size, model = (
        denoise.shape[-1],
        f"{weights(denoise)} after {rv.recipes.Run(folder).checkpoint.state['images']:,} images",
    )
    read, every = reader(folder.parent / "scenes-reader.safetensors", size), batch_of(edits(), size)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (_, method) in ROWS.items():
        if (only and name not in only) or rows.get(name, {}).get("model") == model:
            continue
        batch, cost, begun = every.index(slice(SLOW if slow(name) else EDITS)), Count(), time.process_time()
        made = method(counted(denoise, cost), batch).detach()
        n = len(batch.edits)
        row = {
            "model": model,
            **measured(made, batch, read),
            "evaluations": cost.evaluations / n,
            "backwards": cost.backwards / n,
        }
        rows[name] = row | {"seconds": (time.process_time() - begun) / n}
        files.write(RESULTS, json.dumps(rows, indent=1))
        print(f"{name}: {score(rows[name]):.2f}", flush=True)


def table() -> None:
    rows = json.loads(RESULTS.read_text())
    print(
        "| editor | success | PSNR outside | score | evaluations | backward | seconds | edits |\n|---|---|---|---|---|---|---|---|"
    )
    for name in sorted(rows, key=lambda name: -score(rows[name])):
        row = rows[name]
        n = len(row["success"])
        mean = {key: sum(row[key]) / n for key in ("success", "psnr")}
        print(
            f"| {name} | {mean['success']:.2f} | {mean['psnr']:.1f} | {score(row):.2f} | {row['evaluations']:.0f} | "
            f"{row['backwards']:.0f} | {row['seconds']:.1f} | {n} |"
        )
    bar = max(score(rows[name]) for name in CONTROLS if name in rows)
    better = [name for name in rows if name not in CONTROLS and score(rows[name]) > bar]
    print(f"\n{len(better)} editors do better than returning the input and than sampling the target prompt")


def figure(folder: Path) -> None:
    torch.set_num_threads(1)
    denoise = rv.load(folder)
    batch = batch_of(edits(SLOW), denoise.shape[-1])
    shown = [
        name for name in ROWS if name not in (*CONTROLS, "imagic", "sdedit, from 0.7", "p2p, ode", "pix2pix_zero, ode")
    ]
    made = [
        batch.images,
        batch.truth,
        *(ROWS[name][1](denoise, batch).detach() for name in track(shown, "drawing", len(shown), "editors")),
    ]
    columns = [torch.stack([part[i] for part in made]) for i in range(SLOW)]
    grid.save(grid.tile(torch.cat(columns), len(made), ("before", "truth", *shown)), PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "figure"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    if given.what != "table" and given.folder is None:
        sys.exit("the folder of a run is needed: reverie train bench/recipes/scenes.yaml --out runs/scenes")
    {"run": lambda: run(given.folder, given.only), "table": table, "figure": lambda: figure(given.folder)}[given.what]()
