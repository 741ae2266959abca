"""InstructPix2Pix's guidance (Brooks et al. 2023, "InstructPix2Pix: Learning to follow image editing instructions", equation 3).

Two things are told, a picture I and an instruction T, each with a scale of its own:
``e(∅, ∅) + s_I·(e(I, ∅) − e(∅, ∅)) + s_T·(e(I, T) − e(I, ∅))``, the score of P(x)·P(I|x)^s_I·P(T|I, x)^s_T. More s_I keeps more of the
picture, more s_T follows the instruction further; both 1 is the model as it is, and both s is classifier-free guidance at s.
"""

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, combine
from reverie.guide.contrast import checked

PICTURE = "image"


class Instructed(Wrapper):
    """See :func:`instruct`."""

    def __init__(self, base: Denoiser, scale: float, image_scale: float) -> None:
        super().__init__(base)
        if PICTURE not in base.conditions or len(base.conditions) < 2:
            told = ", ".join(base.conditions) or "nothing"
            raise InputError(
                f"this guidance is of a model that is shown a picture and told what to do with it, this one is told {told}: train one by "
                "`reverie train instruct`, or use guide.cfg"
            )
        self.scale, self.image_scale = checked(scale), checked(image_scale, "image_scale")

    @property
    def guidance(self) -> float:
        return self.base.guidance * max(1.0, abs(self.scale), abs(self.image_scale))

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        if cond is None or PICTURE not in cond:
            raise InputError(f"the picture is the condition {PICTURE!r}: pass cond= with it and the instruction")
        conds = {"null": cond.null(), "picture": picture_alone(cond), "both": cond}
        found = self.base.branches(x, self.point(t, x), conds, call)
        weights = (1.0 - self.image_scale, self.image_scale - self.scale, self.scale)
        return found["both"].replace(combine(weights, [found[name].out for name in conds]))


def picture_alone(cond: Cond) -> Cond:
    """The condition with the picture present and all else absent."""
    absent = cond.null()
    return Cond(**{name: (cond if name == PICTURE else absent)[name] for name in cond})


def instruct(denoise: Denoiser, scale: float = 7.5, image_scale: float = 1.5) -> Denoiser:
    """Guide a model that edits a picture by an instruction, in three evaluations of one batch.

    Args:
        denoise: told "image" and something else, each dropped in training: a run of the task "instruct".
        scale: s_T, how far the instruction is followed; 1 is the model as it is.
        image_scale: s_I, how much of the picture is kept.

    Raises:
        InputError: for a model that is told anything else, or a scale that is not finite.
    """
    return Instructed(denoise, scale, image_scale)
