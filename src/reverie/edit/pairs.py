"""Pictures before and after an edit, drawn by a text-to-image model, for one that learns to edit (Brooks et al. 2023, section 3.1).

Both captions are drawn from one noise by Prompt-to-Prompt, so that what the instruction does not speak of stays. How much has to stay
depends on the edit, and no one share of the steps suits all: the paper draws the share p ~ U(0.1, 0.9) in which the maps are given.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.files import appearing_folder
from reverie.core.noise import Tape, sample_seeds
from reverie.core.progress import track
from reverie.data.captions import METADATA
from reverie.edit.inversion.drawn import drawn
from reverie.edit.prompt_to_prompt import prompt_to_prompt
from reverie.edit.words import aligned
from reverie.learn.grid import to_bytes, to_picture

SHARES = (0.1, 0.9)
"""Between which p is drawn."""


@dataclass(frozen=True)
class Instruction:
    """What a picture is, what it becomes, and how one asks for that."""

    before: str
    after: str
    words: str


@torch.no_grad()
def pair(
    denoise: NetDenoiser, instruction: Instruction, seeds: Sequence[int], *, steps: int = 20, scale: float = 7.5
) -> tuple[Tensor, Tensor]:
    """Pictures before and after, (n, C, H, W) each, one a seed.

    Args:
        denoise: the model, unguided; it is told texts and attends to them.
        instruction: what becomes of them.
        seeds: of the noise.
        steps: of the solver.
        scale: of classifier-free guidance.

    Raises:
        InputError: for a model that reads no texts.
    """
    said = denoise.conditioner
    if said.text is None:
        raise InputError("pairs are drawn by a model that reads texts: train one on pictures with captions")
    conds = [said(text) for text in (instruction.before, instruction.after)]
    n = len(seeds)
    code = drawn(denoise, n, conds[0], steps, scale=scale, seed=seeds)
    alignment = aligned(instruction.before, instruction.after, said)
    u = 0.5 * (1.0 + torch.erf(Tape(sample_seeds(seeds, n), torch.float64).draw("share", 0, ())[0] / 2**0.5))
    share = SHARES[0] + (SHARES[1] - SHARES[0]) * float(u)
    until = 2.0 * code.points[round(share * (len(code.points) - 1))].lam
    return code.images, prompt_to_prompt(denoise, code, conds[1], alignment, cross=until, own=until)


def pairs(
    denoise: NetDenoiser,
    instructions: Sequence[Instruction],
    folder: str | Path,
    each: int = 4,
    *,
    keep: Callable[[Tensor, Tensor, Instruction], Tensor] | None = None,
    steps: int = 20,
    scale: float = 7.5,
    seed: int = 0,
) -> Path:
    """Write a data set of edits: pictures side by side, with the instructions as captions in ``metadata.jsonl``.

        rv.edit.pairs(denoise, [rv.edit.Instruction("a red heart", "a blue heart", "make it blue")], "pairs")
        # reverie train instruct --data pairs --data.captions --data.size 32 64

    Args:
        denoise: as of :func:`pair`.
        instructions: what becomes of pictures.
        folder: to be made.
        each: pairs drawn for each instruction.
        keep: (before, after, instruction) -> (n,) bool, which pairs are good enough to learn from; all without.
        steps, scale: as of :func:`pair`.
        seed: of all noise.

    Returns:
        The folder.

    Raises:
        InputError: for no instructions, a folder that is there already, or when no pair was kept; as :func:`pair`.
    """
    folder = Path(folder)
    if not instructions or each < 1:
        raise InputError(f"pairs takes at least one instruction and one pair of each: got {len(instructions)}, {each}")
    if folder.exists():
        raise InputError(f"{folder} is there already: give another folder, or remove it")
    lines: list[str] = []
    with appearing_folder(folder) as new:
        for i, told in track(enumerate(instructions), "drawing pairs", len(instructions), "instructions"):
            seeds = [seed * len(instructions) * each + i * each + k for k in range(each)]
            before, after = pair(denoise, told, seeds, steps=steps, scale=scale)
            good = torch.ones(each, dtype=torch.bool) if keep is None else keep(before, after, told)
            for one in to_bytes(torch.cat([before, after], dim=-1)[good.to(before.device)]).cpu():
                name = f"{len(lines):06}.png"
                to_picture(one).save(new / name)
                lines.append(json.dumps({"file_name": name, "text": told.words}))
        if not lines:
            raise InputError(
                "no pair was kept: the model does not draw what the instructions ask for, or keep is too strict"
            )
        (new / METADATA[0]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
