"""The skip connections of a U-Net, by the names of the blocks that they join."""

from torch import nn

from reverie.core.errors import InputError
from reverie.nets.unet import Stage, UNet


def pairs(net: nn.Module) -> list[tuple[str, str]]:
    """(decoder block, encoder block) of each skip connection, from the deepest out.

    The input's own convolution gives the last skip and is no block, so its decoder block has no partner.

    Raises:
        InputError: when the network is not one of our U-Nets.
    """
    if not isinstance(net, UNet):
        raise InputError(f"feedback goes along the skip connections of a U-Net: got {type(net).__name__}")
    encoder = [f"down.{i}.{j}" for i, stages in enumerate(net.down) for j in range(len(stages))]  # pyright: ignore[reportArgumentType]
    decoder = [
        f"up.{i}.{j}"
        for i, stages in enumerate(net.up)
        for j, block in enumerate(stages)  # pyright: ignore[reportArgumentType]
        if isinstance(block, Stage)
    ]
    return list(zip(decoder, reversed(encoder), strict=False))
