"""InstructPix2Pix's guidance: at the data's end it is the score of P(x)·P(I|x)^s_I·P(T|I, x)^s_T, which of Gaussians is known."""

from typing import ClassVar

import pytest
import torch

from reverie.core.condition import Cond, Image, Tokens, entry_of
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.core.schedules import VP
from reverie.core.space import Identity
from reverie.guide import cfg, instruct

F64 = torch.float64
WIDTHS = {"image": 0.8, "text": 0.5}
"""Of what is told: x0 with noise, the prior of x0 being N(0, 1)."""


class Told(Denoiser):
    """The exact denoiser of x0 ~ N(0, 1), (B, 1, 1, 1), told x0 + a·n and x0 + b·n, each where it is present."""

    schedule, space, shape, dtype = VP(), Identity(), (1, 1, 1), F64
    conditions: ClassVar = {"image": Image(1), "text": Tokens(1, 1)}

    def __call__(self, x, t, cond=None, call=None) -> Estimate:
        point, precision, pull = self.point(t, x), torch.ones(len(x), dtype=F64), torch.zeros(len(x), dtype=F64)
        for name, width in WIDTHS.items():
            null = torch.zeros(1, 1, 1, dtype=F64) if name == "image" else torch.zeros(1, 1, dtype=F64)
            entry = entry_of(cond, name, null, len(x))
            precision = precision + entry.present / width**2
            pull = pull + entry.present * entry.value.flatten() / width**2
        mean, variance = ((v / precision).reshape(-1, 1, 1, 1) for v in (pull, torch.ones(1, dtype=F64)))
        eps = point.sigma * (x - point.alpha * mean) / (point.alpha**2 * variance + point.sigma**2)
        return Estimate(x, eps, KINDS["eps"](point), point)


X = torch.tensor([-1.3, 0.2, 0.9], dtype=F64).reshape(3, 1, 1, 1)
COND = Cond(
    image=torch.tensor([0.4, -0.7, 1.1], dtype=F64).reshape(3, 1, 1, 1),
    text=torch.tensor([1.0, 0.3, -0.5], dtype=F64).reshape(3, 1, 1),
)


def score(scale: float, image_scale: float) -> torch.Tensor:
    return instruct(Told(), scale, image_scale)(X, Told().schedule.at(18.0), COND).score


def known(scale: float, image_scale: float) -> torch.Tensor:
    """d/dx of −x²/2 − s_I·(I − x)²/(2a²) − s_T·(T − x)²/(2b²)."""
    image, text = COND["image"].value, COND["text"].value.reshape(3, 1, 1, 1)
    return -X + image_scale * (image - X) / WIDTHS["image"] ** 2 + scale * (text - X) / WIDTHS["text"] ** 2


@pytest.mark.parametrize("scales", [(1.0, 1.0), (7.5, 1.5), (0.0, 2.0), (3.0, 0.0)])
def test_the_guided_score_is_that_of_the_sharpened_product(scales):
    found = score(*scales)
    assert torch.allclose(found, known(*scales), rtol=1e-6)
    if scales[0] != scales[1]:
        assert (found - known(*scales[::-1])).abs().max() > 0.1


def test_both_at_one_is_the_model_and_both_at_s_is_guidance_at_s():
    model, point = Told(), Told().schedule.at(0.3)
    assert torch.allclose(instruct(model, 1.0, 1.0)(X, point, COND).x0, model(X, point, COND).x0, atol=1e-12)
    assert torch.allclose(instruct(model, 3.0, 3.0)(X, point, COND).x0, cfg(model, 3.0)(X, point, COND).x0, atol=1e-12)
    assert (instruct(model, 3.0, 1.0)(X, point, COND).x0 - cfg(model, 3.0)(X, point, COND).x0).abs().max() > 0.01
    assert instruct(model).guidance == 7.5


def test_a_model_that_edits_nothing_is_refused():
    class Deaf(Told):
        conditions: ClassVar = {"text": Tokens(1, 1)}

    with pytest.raises(InputError, match="told text: train one by"):
        instruct(Deaf())
    with pytest.raises(InputError, match="pass cond="):
        instruct(Told())(X, 0.5, None)
    with pytest.raises(InputError, match="image_scale is a finite number"):
        instruct(Told(), 1.0, float("nan"))
