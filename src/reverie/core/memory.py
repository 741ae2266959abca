"""What memory there is, and what is done with it.

Memory that is freed stays with the process: PyTorch on a CPU allocates the same large tensors at every step.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reverie.core.errors import InputError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 1 << 30


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


def afford(size: int, what: str, instead: str) -> None:
    """Raise an :class:`InputError` when ``what`` takes more bytes than this machine has; ``instead`` says what to do."""
    total = physical()
    if total is not None and size > total:
        raise InputError(
            f"{what} takes {_gigabytes(size)} of memory or more, this machine has {_gigabytes(total)}: {instead}"
        )


@contextmanager
def affordable(what: str, instead: str) -> Iterator[None]:
    """:func:`afford` for the parameters of modules that are made in the block, before they take the memory.

    Raises:
        InputError: as :func:`afford`.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    taken = 0

    def count(module: Any, name: str, parameter: Any) -> None:
        nonlocal taken
        taken += 0 if parameter is None else parameter.nbytes
        afford(taken, what, instead)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise InputError(f"{what} takes more memory than this machine has: {instead}") from error
    finally:
        hook.remove()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
