"""Weights that lie in parts on the processes: PyTorch's FSDP2 (``fully_shard``) around the loss of a turn.

A process keeps its part of weights, averages and optimizer. The weights are whole from the beginning of a pass
to its way back, and while something looks at them. Checkpoints are written in parts, by ``torch.distributed.checkpoint`` in safetensors,
and are read on any number of processes.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import InputError, RunError


def share_out(turn: nn.Module, device: torch.device, world: int) -> nn.Module:
    """The module with its weights in parts.

    Raises:
        InputError: for a weight that is one number without an axis, which cannot be shared out.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, p in turn.named_parameters():
        if p.ndim == 0:
            raise InputError(f"train.shard shares out weights along their first axis: {name} has none, leave it out")
    fully_shard(turn, mesh=init_device_mesh(device.type, (world,)))
    return turn


def parted(of: nn.Module | Tensor | None) -> bool:
    """Whether a module's weights, or a tensor, lie in parts."""
    return hasattr(of, "unshard" if isinstance(of, nn.Module) else "full_tensor")


@contextmanager
def whole(turn: Any) -> Iterator[None]:
    """The weights of a module whole in every process; all of them enter this together."""
    if not parted(turn):
        yield
        return
    turn.unshard()
    try:
        yield
    finally:
        turn.reshard()


def full(value: Any) -> Tensor:
    """A tensor of all its parts; all processes ask together."""
    return value.full_tensor() if parted(value) else value


def part(value: Tensor, like: Any) -> Tensor:
    """A whole tensor, shared out as ``like`` is: what every process has of it is taken from its own copy."""
    if not parted(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, each process its parts; what all have whole is written once.

    Raises:
        RunError: when a process could not.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        why, _ = next(iter(error.failures.values()))
        raise RunError(f"{folder.name} could not be written in parts: {why}") from error


def read(folder: Path) -> dict[str, Tensor]:
    """What :func:`write` wrote, whole, on the CPU, whoever asks."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    found = reader.read_metadata().state_dict_metadata
    tensors = {key: torch.empty(about.size, dtype=about.properties.dtype) for key, about in found.items()}  # pyright: ignore
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def count(folder: Path) -> int:
    """How many numbers :func:`write` wrote, from the headers alone."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return sum(math.prod(about.size) for about in found.values())  # pyright: ignore[reportAttributeAccessIssue]
