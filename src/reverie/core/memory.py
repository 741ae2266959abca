"""Memory that is freed stays with the process: PyTorch on a CPU allocates the same large tensors at every step."""

import ctypes
import sys

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
