"""What memory there is, and what is done with it.

Memory that is freed stays with the process: PyTorch on a CPU allocates the same large tensors at every step.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from reverie.core.errors import InputError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 1 << 30
LARGE = 10**9

if TYPE_CHECKING:
    import torch
    from torch import nn

M = TypeVar("M", bound="nn.Module")


def keep_freed_memory() -> None:
    """Ask glibc's ``malloc`` not to return freed blocks below a gigabyte to the system, which would clear their pages anew at each use.

    A process that only computes has no better use for them. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(MMAP_THRESHOLD, LARGEST)
    mallopt(TRIM_THRESHOLD, LARGEST)


def physical() -> int | None:
    """Bytes of memory of this machine, if it says so."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def peak(device: "torch.device") -> int | None:
    """The most bytes that this process has taken where ``device`` has its memory; None where the system does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def afford(size: int, what: str, instead: str) -> None:
    """Raise an :class:`InputError` when ``what`` takes more bytes than this machine has; ``instead`` says what to do."""
    total = physical()
    if total is not None and size > total:
        raise InputError(
            f"{what} takes {_gigabytes(size)} of memory or more, this machine has {_gigabytes(total)}: {instead}"
        )


def built(make: Callable[[], M], what: str, instead: str) -> M:
    """The module that ``make`` makes. What has more than :data:`LARGE` bytes of parameters is first made without any, and counted.

    Raises:
        InputError: as :func:`afford`, before memory is taken.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    if torch.get_default_device().type == "meta":  # it takes no memory
        return make()
    taken = 0

    def count(module: Any, name: str, parameter: Any) -> None:
        nonlocal taken
        taken += 0 if parameter is None else parameter.nbytes
        if taken > LARGE:
            raise _Large

    state = torch.get_rng_state()
    hook = register_module_parameter_registration_hook(count)
    try:
        return make()
    except _Large:
        pass
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
    finally:
        hook.remove()
    with torch.device("meta"):
        afford(sum(parameter.nbytes for parameter in make().parameters()), what, instead)
    torch.set_rng_state(state)
    return make()


class _Large(Exception):
    pass


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
