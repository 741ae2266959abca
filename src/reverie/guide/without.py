"""A network without some of its blocks: a weaker version of itself for autoguidance, at no training (Chen et al. 2025, S²-Guidance)."""

from collections.abc import Sequence

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.nets import taps


class Without(Wrapper):
    """See :func:`without`."""

    def __init__(self, base: Denoiser, blocks: Sequence[str]) -> None:
        super().__init__(base)
        known = taps.sites(base)
        missing = [name for block in blocks for name in (block, f"{block}.in") if name not in known]
        if missing or not blocks:
            able = ", ".join(site for site in known if f"{site}.in" in known)
            raise InputError(f"blocks to leave out are some of {able}: got {', '.join(blocks) or 'none'}")
        self.places = taps.find(base, [name for block in blocks for name in (f"{block}.in", block)])

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        inputs: dict[str, Tensor] = {}

        def keep(value: Tensor, at: taps.At) -> None:
            inputs[at.site.removesuffix(".in")] = value

        def skip(value: Tensor, at: taps.At) -> Tensor:
            if inputs[at.site].shape != value.shape:
                raise InputError(
                    f"{at.site} changes its input of {tuple(inputs[at.site].shape)} to {tuple(value.shape)}: choose another block"
                )
            return inputs[at.site]

        functions = {site: keep if site.endswith(".in") else skip for site in self.places}
        return self.base(x, t, cond, (call or Call()).changed(taps.Edit(self.places, functions)))


def without(denoise: Denoiser, blocks: Sequence[str]) -> Denoiser:
    """The denoiser with these blocks replaced by the identity; the network itself stays as it is, and may be called whole in between.

    Args:
        denoise: a network's denoiser.
        blocks: names of :func:`reverie.nets.taps.sites`, such as "blocks.2"; each must keep its input's shape.

    Raises:
        InputError: for a name that is no block.
    """
    return Without(denoise, blocks)
