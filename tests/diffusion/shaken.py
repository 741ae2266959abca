"""Networks whose layers that begin at zero do something."""

import torch


def shaken(module: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The module, its parameters a little off."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return module
