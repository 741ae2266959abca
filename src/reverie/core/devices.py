"""Where tensors lie: devices by name, and what is asked of any kind of accelerator."""

import torch

from reverie.core.errors import InputError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What networks may compute in, by name."""


def choose(name: str = "auto") -> torch.device:
    """A device by name; ``auto`` is the accelerator if there is one.

    Raises:
        InputError: for a device that this machine does not have.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {name!r} cannot be used here: {str(error).splitlines()[0]} Use cpu or auto."
        ) from error


def dtype(name: str | None) -> torch.dtype | None:
    """A dtype by name, None for none.

    Raises:
        InputError: for one that networks do not compute in.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given, so that the time it takes can be told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def available(device: torch.device) -> int:
    """Bytes on a device that a process could still take."""
    if device.type == "cpu":
        import psutil

        return psutil.virtual_memory().available
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return torch.accelerator.get_memory_info(device)[0]
