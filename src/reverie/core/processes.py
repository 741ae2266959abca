"""The processes that share each batch of a training: what one knows, told to all."""

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, k) of all processes, in the processes' order; each may have another n."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    parts = [rows.new_empty(most, *rows.shape[1:]) for _ in counts]
    dist.all_gather(parts, torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])]))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
