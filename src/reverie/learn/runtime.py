"""Where training runs: the device and the precision of the forward passes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from reverie.core.errors import InputError
from reverie.learn.task import Batch


@dataclass(frozen=True)
class Runtime:
    """One process on one device."""

    device: torch.device
    bf16: bool = False

    @classmethod
    def choose(cls, device: str = "auto", bf16: bool = False) -> "Runtime":
        """A device by name; ``auto`` is the accelerator if there is one.

        Raises:
            InputError: for a device that this machine does not have.
        """
        if device == "auto":
            accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            return cls(accelerator or torch.device("cpu"), bf16)
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {device!r} cannot be used here: {str(error).splitlines()[0]} Use cpu or auto."
            ) from error
        return cls(torch.device(device), bf16)

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes in bfloat16 if asked for."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return Batch(batch.images.to(self.device), None if batch.cond is None else batch.cond.to(self.device))
