"""InstructPix2Pix: a model that edits a picture as it is told, learned from pictures before and after.

Brooks et al., "InstructPix2Pix: Learning to Follow Image Editing Instructions", CVPR 2023. The network reads [x_t; I] along the channels
and attends to the instruction T; the instruction is dropped for 5 % of the examples, the picture for 5 %, both for 5 % (section 3.2), so
that :func:`reverie.guide.instruct` has its three estimates. Here the channels of I begin as those of any layer, where the paper adds
them, zero, to a model that is trained.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reverie import nets
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Image
from reverie.core.conditioner import Conditioner
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Preview
from reverie.diffusion.building import HELD_OUT, schedule_of, solving, times
from reverie.diffusion.conditioned import InstructConfig
from reverie.diffusion.config import RestoreConfig
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.showing import COLUMNS, drawn
from reverie.diffusion.texts import reading, texts_of
from reverie.guide.instruct import instruct
from reverie.solve import Sampler


class Sides(Dataset):
    """Pictures side by side, before and after, as what is drawn, after, and told, "image": before.

    Args:
        data: pictures (C, H, 2·W) with instructions.

    Raises:
        InputError: for squares, a width that is odd, or data without instructions.
    """

    def __init__(self, data: Dataset) -> None:
        self.data, self.name, self.half = data, data.name, _half(data.spec)

    @property
    def spec(self) -> DataSpec:
        spec = self.data.spec
        told = {**spec.conditions, "image": Image(self.half[0])}
        return DataSpec(self.half, told, spec.classes, spec.name, spec.range)

    @property
    def fingerprint(self) -> str:
        """That of the data, which it is made of alone."""
        return self.data.fingerprint  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        batch = self.data.batch(positions)
        before, after = batch.x.chunk(2, dim=-1)
        assert batch.cond is not None
        told = {name: batch.cond[name] for name in batch.cond}
        return replace(batch, x=after.contiguous(), cond=Cond(**told, image=before.contiguous()))


class Instructing(Denoising):
    """The diffusion task on edits.

    Args:
        denoise: told "image" and a text.
        times: the density of t.
        drop: share of the examples without the instruction, without the picture, and without both, each.
        others: as of :class:`~reverie.diffusion.denoising.Denoising`.
    """

    def condition(self, batch: Batch, rng: Draws) -> Cond | None:
        """What is told, a part of it dropped."""
        assert batch.cond is not None
        u, d = rng.uniform("drop"), self.drop
        # in [0, d) the instruction is missing, in [d, 2d) both are, in [2d, 3d) the picture
        kept = {"image": (u < d) | (u >= 3 * d), "text": u >= 2 * d}
        kept = {name: keep.to(batch.x.device) for name, keep in kept.items()}
        each = {name: batch.cond[name] for name in batch.cond}
        return Cond(**{n: e._replace(present=e.present & kept.get(n, kept["text"])) for n, e in each.items()})


def build(config: InstructConfig, spec: DataSpec, seed: int, folder: Path | None) -> NetDenoiser:
    """The model, its network freshly initialised.

    Raises:
        InputError: when the settings do not fit the data.
    """
    if config.space.name != "pixels":
        raise InputError("instruct is shown pixels and draws pixels: leave --space out")
    shape, texts = _half(spec), texts_of(config.text, spec, seed, hasattr(config.net, "vector"), folder)
    assert texts is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nets.build(reading(config.net, texts), channels=shape[0], size=shape[1:], image=shape[0])
    denoise = NetDenoiser(net, schedule_of(config), config.kind, shape=shape, time=config.time)
    denoise.told, denoise.conditioner = texts.told, Conditioner(denoise.conditions, spec.classes, texts)
    return denoise


def task(
    config: InstructConfig, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: RestoreConfig, seed: int
) -> Instructing:
    """What trains it, and shows pictures that it has not seen, what became of them, and what it makes of them."""
    unseen = held_out if len(held_out) else data
    examples = unseen.batch(range(min(COLUMNS, len(unseen))))
    assert examples.cond is not None

    def show(denoise: NetDenoiser) -> Preview:
        assert examples.cond is not None and denoise.told is not None
        draw, told = Sampler(instruct(denoise), **solving(sample)), examples.cond.to(denoise.device)
        with torch.no_grad():
            made = drawn(lambda n: draw, len(examples), denoise.told(told), seed).cpu()
        parts = [examples.cond["image"].value, examples.x, made]
        return Preview(torch.cat([part[: len(made)] for part in parts]), len(made))

    return Instructing(
        model,
        times(config, model.schedule),
        drop=config.drop,
        held_out=held_out.batch(range(min(HELD_OUT, len(held_out)))) if len(held_out) else None,
        show=show,
    )


def _half(spec: DataSpec) -> tuple[int, ...]:
    """The shape of one side."""
    *rest, width = spec.shape
    if "text" not in spec.conditions:
        raise InputError(
            "instruct learns from pictures side by side, before and after, with instructions as captions: add --data.captions, to data as "
            "reverie.edit.pairs makes it"
        )
    if width % 2 or rest[-1] == width:
        raise InputError(
            f"pictures side by side are wider than high, and of an even width: got {rest[-1]}x{width}. A folder's size is taken for a "
            "square where none is given: add --data.size with height and width, such as 32 64"
        )
    return (*rest, width // 2)
