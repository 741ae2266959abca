"""From the settings of unCLIP's models to what they describe: vectors of a run, networks, the objective."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie import nets
from reverie.core import files
from reverie.core.batch import Dataset, DataSpec
from reverie.core.condition import Cond, Entry
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.core.task import Given
from reverie.data import TensorSet
from reverie.data.captions import of
from reverie.data.codes import of_codes
from reverie.diffusion.building import coded, schedule_of, space_of, times, unseen
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.rdm import CHUNK, Database
from reverie.diffusion.retrieving import FILE, HELD_OUT, UNKNOWN, model_of
from reverie.diffusion.unclip import Looked, told
from reverie.nets.causal import CausalPrior
from reverie.nets.config import CONFIGS

if TYPE_CHECKING:
    from reverie.diffusion.unclip_config import DecoderConfig, Embedding, PriorConfig

PAIRS = "pairs-{}.safetensors"
"""In a prior's run, the vectors of pictures and of their captions, of a split."""


def decoder(config: DecoderConfig, spec: DataSpec, seed: int, folder: Path | None) -> NetDenoiser:
    """The decoder, freshly initialised, for vectors as its folder has them.

    Raises:
        InputError: when the network takes no vector, or cannot take the size of the data.
    """
    if not hasattr(config.net, "vector"):
        able = ", ".join(name for name, kind in CONFIGS.items() if hasattr(kind, "vector"))
        raise InputError(f"a decoder is told a vector: use --net {able}")
    there = folder is not None and (folder / FILE).is_file()
    dim = Database.load(folder / FILE).dim if there else UNKNOWN  # pyright: ignore[reportOptionalOperand]
    space = space_of(config.space, spec, folder)
    shape = space.code_shape(spec.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nets.build(replace(config.net, vector=dim), channels=shape[0], size=shape[1:])  # pyright: ignore[reportCallIssue]
    return NetDenoiser(net, schedule_of(config), config.kind, shape=shape, time=config.time, space=space)


def decoded(
    config: DecoderConfig, data: Dataset, held_out: Dataset, folder: Path, codes: Path
) -> tuple[Looked, Dataset]:
    """The pictures or their codes, told by their vectors."""
    pixels = config.space.name == "pixels"
    seen, held = (data, held_out) if pixels else (coded(each, folder, codes) for each in (data, held_out))
    train = Looked(seen, told(Database.load(folder / FILE).vectors))
    return train, Looked(held, told(Database.load(folder / HELD_OUT).vectors)) if len(held) else held


def prior(config: PriorConfig, seed: int, folder: Path | None) -> NetDenoiser:
    """The prior, freshly initialised, for vectors as its folder has them."""
    path = None if folder is None else folder / PAIRS.format("train")
    found = {} if path is None or not path.is_file() else files.read_tensors(path)
    dim = found["pictures"].shape[1] if found else UNKNOWN
    context = found["tokens"].shape[2] if found else UNKNOWN
    length = files.read_about(path)["length"] if path is not None and found else UNKNOWN
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
        net = CausalPrior(dim, context=context, length=length, **sizes)
    return NetDenoiser(net, schedule_of(config), "x0", shape=(dim,), time=config.time)


@torch.no_grad()
def prepare_texts(embed: str, given: Given) -> None:
    """Leave the vectors of pictures, and of their captions vectors and tokens, in the run's folder, each caption in its plain way.

    Raises:
        InputError: for data without captions, or a model that reads no texts.
    """
    if (given.folder / PAIRS.format("train")).exists():
        return
    model: Any = model_of(embed, given.load)
    if not hasattr(model, "texts"):
        raise InputError(f"{embed} reads no texts: a prior takes a run of the task towers, or the folder of a CLIP")
    for split, data in (("held_out", given.held_out), ("train", given.data)):
        captions = of(data)
        said = [] if captions is None else [(i, captions.say(i)) for i in range(len(data)) if captions.say(i)]
        if not said and split == "train":
            raise InputError(
                f"{data.name} has no captions, which a prior is told: use pictures with captions, and --data.captions"
            )
        parts = [said[i : i + CHUNK] for i in range(0, len(said), CHUNK)]
        tensors = {
            "pictures": [model.pictures(data.batch([i for i, _ in part]).x).cpu() for part in parts],
            "texts": [model.texts([text for _, text in part]).cpu() for part in parts],
        }
        vectors = {name: torch.cat(found) if found else torch.zeros(0, UNKNOWN) for name, found in tensors.items()}
        if said:
            read = reduce(
                Cond.cat, (Cond(text=model.read([text for _, text in part]).map(Tensor.cpu)) for part in parts)
            )
            assert read["text"].mask is not None
            vectors |= {"tokens": read["text"].value, "real": read["text"].mask}
        about = {"what": "pairs", "name": data.name, "by": model.name, "length": model.length}
        files.write_tensors(inside(given.folder, PAIRS.format(split)), vectors, about)


def pairs(folder: Path, split: str) -> Looked:
    """Vectors of pictures, told those of their captions and the captions' tokens."""
    found = files.read_tensors(folder / PAIRS.format(split))
    pictures, texts = (told(F.normalize(found[name].float(), dim=1)) for name in ("pictures", "texts"))
    read = Entry.of(found["tokens"], found["real"]) if "tokens" in found else None
    return Looked(TensorSet(pictures, name=split), texts, read)


def task(config: Embedding, model: NetDenoiser, data: Looked, held_out: Dataset) -> Denoising:
    """The ordinary objective, told vectors."""
    density = times(config, model.schedule)
    return Denoising(model, density, drop=config.drop, coded=of_codes(data.data), held_out=unseen(held_out))
