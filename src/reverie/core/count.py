"""What a run costs: rows through the network, and rows back through it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Count:
    """``evaluations`` and ``backwards``: rows (samples) of all passes forward and back in the calls that carry it."""

    evaluations: int = 0
    backwards: int = 0

    def add(self, out: Tensor, forward: bool = True) -> None:
        """Note a pass that gave ``out`` (B, …), and each later pass back through it.

        Args:
            out: what the network gave.
            forward: False for a network that is no denoiser, such as a classifier: only passes back through it count.
        """
        self.evaluations += len(out) if forward else 0
        if out.requires_grad:
            out.register_hook(self._returned)

    def _returned(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
