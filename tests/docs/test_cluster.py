"""The plan on paper of the page on clusters is that of the network."""

from pathlib import Path

import torch

import reverie as rv

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "cluster.md"


def said(name: str) -> list[str]:
    """What the page says of a network: weights, what a process and a checkpoint hold, what is sent in a step, and how long that takes."""
    with torch.device("meta"):
        net = rv.nets.build(name)
    weights = sum(p.numel() for p in net.parameters())
    gradient = 2 * 63 / 64 * 4 * weights
    return [
        f"{weights:,} weights",
        f"{28e-9 * weights:.1f} GB in each process besides activations, {24e-9 * weights:.1f} GB a checkpoint",
        f"{1e-9 * gradient:.1f} GB sent by each process a step",
        f"moves the gradient in {gradient / 25e9:.2f} s",
        f"| 4 | 23 ms | {1e3 * gradient / 25e9:.0f} ms |",
    ]


def test_the_numbers_are_those_of_the_network():
    page = PAGE.read_text()
    assert all(line in page for line in said("dit-xl/2"))
    assert not any(line in page for line in said("dit-l/2"))
