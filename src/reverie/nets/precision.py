"""What does not survive half precision, in modules whose weights do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


class KeepsPrecision:
    """A module whose own buffers stay at least float32 when it is cast: ``class M(KeepsPrecision, nn.Module)``.

    For numbers that are differences of large ones, or that large ones are multiplied with: frequencies, covariances, scales.
    """

    _buffers: dict[str, Tensor | None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in before.items():
            now = self._buffers[name]
            if value is not None and now is not None and now.is_floating_point():
                exact = torch.promote_types(now.dtype, torch.float32)
                self._buffers[name] = now if now.dtype == exact else value.to(now.device, exact)
        return self
