"""Codes of a data set in a space, made once and read from the disk as they are needed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core import files
from reverie.core.batch import Dataset
from reverie.core.errors import RunError
from reverie.core.progress import track
from reverie.core.space import Space
from reverie.data.captions import Captioned
from reverie.data.images import ImageSet
from reverie.data.tensors import Mirrored, TensorSet

CHUNK = 256
WHERE = "codes"
"""The folder of a run in which its codes are kept."""
KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
"""What safetensors calls them."""


class CodeSet(TensorSet):
    """Codes of a data set, in place of the samples that they are codes of."""


def of_codes(data: Dataset) -> bool:
    """Whether the samples are codes, perhaps told captions."""
    return isinstance(data, CodeSet) or (isinstance(data, Captioned) and of_codes(data.data))


@torch.no_grad()
def encoded(
    data: ImageSet | TensorSet | Mirrored, space: Space, folder: Path, device: torch.device | str = "cpu"
) -> CodeSet:
    """The codes of a data set, with its labels, memory-mapped from a file in ``folder``; made on ``device`` if it is not there.

    The file is named after the data and the weights of the space: other data or another space make another file, so one folder serves all.

    Raises:
        RunError: when the codes cannot be written, or the file is damaged.
    """
    key = hashlib.sha256(f"{data.fingerprint} {_weights(space)}".encode()).hexdigest()
    path = Path(folder) / f"codes-{key[:32]}.safetensors"
    if not path.exists():
        _write(path, data, space, device)
    try:
        with files.opened(path) as file:
            codes = file.get_tensor("codes")
            labels = file.get_tensor("labels") if "labels" in file.keys() else None  # noqa: SIM118 - not a dict
    except RunError as error:
        raise RunError(f"{error}. Remove it, and the codes are made again.") from error
    return CodeSet(codes, labels, classes=data.spec.classes, name=data.name, range=(-torch.inf, torch.inf))


def _write(path: Path, data: Dataset, space: Space, device: torch.device | str) -> None:
    """The codes as they come, without holding them all: a safetensors file is its header and then the bytes of its tensors."""
    first = space.encode(data.batch([0]).x.to(device))
    labelled = "label" in data.spec.conditions
    shape, size = (len(data), *first.shape[1:]), len(data) * first.numel() * first.element_size()
    header: dict[str, Any] = {"__metadata__": files.header({"what": "codes", "data": data.name})}
    header["codes"] = {"dtype": KINDS[first.dtype], "shape": shape, "data_offsets": [0, size]}
    if labelled:
        header["labels"] = {"dtype": "I64", "shape": [len(data)], "data_offsets": [size, size + 8 * len(data)]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with files.appearing(path) as partial, partial.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        labels = []
        for start in track(range(0, len(data), CHUNK), "encoding the data", -(-len(data) // CHUNK), "batches"):
            batch = data.batch(range(start, min(start + CHUNK, len(data))))
            file.write(_bytes(space.encode(batch.x.to(device))))
            if labelled:
                assert batch.cond is not None
                labels.append(batch.cond["label"].value)
        if labelled:
            file.write(_bytes(torch.cat(labels)))


def _bytes(x: Tensor) -> memoryview:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _weights(space: Space) -> str:
    """A hash of the weights and the plain settings of a space."""
    said = hashlib.sha256(type(space).__qualname__.encode())
    parts = vars(space)
    modules = (
        {"": space} if isinstance(space, nn.Module) else {k: v for k, v in parts.items() if isinstance(v, nn.Module)}
    )
    settings = {k: v for k, v in parts.items() if isinstance(v, int | float | str | tuple) and k != "training"}
    said.update(repr(sorted(settings.items())).encode())
    for part, module in modules.items():
        for name, value in module.state_dict().items():
            said.update(f"{part}.{name} {value.dtype} {tuple(value.shape)}".encode())
            said.update(_bytes(value))
    return said.hexdigest()
