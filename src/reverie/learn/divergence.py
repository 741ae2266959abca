"""When a loss or gradient is not finite: what it came from, kept in the run for whoever looks for the cause."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import RunError
from reverie.core.files import inside
from reverie.core.task import Moment, Task

FOLDER = "diverged"
"""Where a run keeps the batches at which it diverged."""


class Diverged(RunError):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Turn:
    """What one turn of a player gave, on the device: the parts of its loss, their values by micro-batch, the norm of its gradient."""

    player: str
    number: int
    now: Moment
    rate: float
    sums: dict[str, Tensor]
    values: list[tuple[int, int, dict[str, Tensor]]]
    norm: Tensor


def explain(
    task: Task, batches: list[Batch], turn: Turn, seed: int, what: str, part: str | None, folder: Path, suffix: str = ""
) -> tuple[str, Path]:
    """What is not finite, where in the run and in which samples; these are kept in ``folder``.

    Args:
        task: what is trained.
        batches: the micro-batches of the step, on the device.
        turn: of the player whose loss or gradient it is.
        seed: of the run.
        what: is not finite.
        part: of the loss, None for the gradient.
        folder: of the run.
        suffix: of the file's name; of several processes each keeps the samples that it has seen.

    Returns:
        A sentence, and the file with the samples ``x``, their ``label``, what the task says of each (its ``logsnr``), the ``parts`` of the
        loss where there is a value a sample, and the gradient's ``norm``.
    """
    facts: dict[str, list[Tensor]] = {}
    bad = []
    for batch, (start, count, values) in zip(batches, turn.values, strict=True):
        for key, fact in task.describe(batch, Draws(seed, start, count, turn.number), turn.now).items():
            facts.setdefault(key, []).append(fact.cpu())
        for key, each in values.items():
            if each.ndim:
                facts.setdefault(f"parts.{key}", []).append(each.cpu())
        value = torch.zeros(()) if part is None else values[part]
        bad.append(~value.isfinite().cpu() if value.ndim else torch.ones(count, dtype=torch.bool))
    wrong, whole = torch.cat(bad), {key: torch.cat(each) for key, each in facts.items()}
    where = "".join(
        f", {key} {fact[wrong].min():.3g} to {fact[wrong].max():.3g}"
        for key, fact in whole.items()
        if wrong.any() and not key.startswith("parts.")
    )
    labels = [batch.label for batch in batches if batch.label is not None]
    tensors = {"x": torch.cat([batch.x for batch in batches]).cpu(), **whole, "norm": turn.norm.cpu(), "wrong": wrong}
    if labels:
        tensors["label"] = torch.cat(labels).cpu()
    path = inside(folder, FOLDER, f"step-{turn.now.step:08d}{suffix}.safetensors")
    about = {"what": what, "player": turn.player, "step": turn.now.step, "images": turn.now.images, "lr": turn.rate}
    files.write_tensors(path, tensors, about)
    sentence = (
        f"step {turn.now.step}, image {turn.now.images:,}: {what}, in {int(wrong.sum())} of {len(wrong)} samples"
        f"{' of this process' if suffix else ''}{where}; "
        f"the learning rate was {turn.rate:.3g}"
    )
    return sentence, path
