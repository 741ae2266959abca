"""DiffusionCLIP: tuned, the model moves pictures along the direction of two texts; untuned it is the base."""

import pytest
import torch
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import VP
from reverie.edit import diffusion_clip, restyle
from reverie.edit.diffusion_clip import direction_loss
from reverie.nets import UNetConfig, build

from .made import F64, images

TEXTS = {"left": (1.0, 0.0, 0.0, 0.0), "right": (0.0, 1.0, 0.0, 0.0), "links": (1.0, 0.0, 0.0, 0.0)}


class Sides:
    """A picture-text model that knows where a picture is bright: left, right, above, below."""

    name = data = seen = "sides"

    def pictures(self, images: Tensor) -> Tensor:
        halves = (half.flatten(1).mean(1) for side in (-1, -2) for half in images.chunk(2, side))
        return torch.nn.functional.normalize(torch.stack([*halves], 1) + 2.0, dim=1)

    def texts(self, texts) -> Tensor:
        return torch.tensor([TEXTS[text] for text in texts], dtype=F64)


def turned(before: Tensor, after: Tensor) -> float:
    """The cosine between how pictures have moved, in their embedding, and the way from left to right."""
    left, right = Sides().texts(["left", "right"])
    return 1.0 - float(direction_loss(Sides().pictures(before), Sides().pictures(after), right - left).mean())


def small() -> NetDenoiser:
    torch.manual_seed(0)
    net = build(UNetConfig(width=4, multipliers=(1,), blocks=1, attention=(), heads=1, groups=2), channels=1, size=8)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter[0].numel() ** -0.5)
    return NetDenoiser(net.double().eval().requires_grad_(False), VP(), "v", shape=(1, 8, 8))


def test_a_tuned_model_moves_pictures_the_way_the_texts_lie():
    denoise, given = small(), images(1)
    there, back, kept, nothing = (
        restyle(denoise, diffusion_clip(denoise, given, Sides(), texts, iterations=n, rate=1e-2, keep=keep), given)
        for texts, n, keep in (
            (("left", "right"), 5, 0.0),
            (("right", "left"), 5, 0.0),
            (("left", "right"), 5, 100.0),
            (("left", "right"), 0, 0.0),
        )
    )
    for other in (nothing, back):
        assert turned(given, there) > turned(given, other) + 0.1
    assert (kept - given).abs().mean() < (there - given).abs().mean() - 0.02


def test_without_a_pass_the_adapter_is_zero():
    denoise = small()
    adapter = diffusion_clip(denoise, images(1), Sides(), ("left", "right"), iterations=0)
    assert all(not value.any() for value in adapter.state_dict().values()) and adapter.method == "diffusion_clip"


def test_the_loss_is_of_the_angle_between_the_move_and_the_texts():
    before, towards = torch.zeros(2, 3, dtype=F64), torch.tensor([0.0, 2.0, 0.0], dtype=F64)
    for after, loss in (((0.0, 5.0, 0.0), 0.0), ((0.0, -1.0, 0.0), 2.0), ((3.0, 3.0, 0.0), 1.0 - 0.5**0.5)):
        found = direction_loss(before, torch.tensor([after] * 2, dtype=F64), towards)
        assert torch.allclose(found, torch.full((2,), loss, dtype=F64))


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(InputError, match="the same text"):
        diffusion_clip(small(), images(), Sides(), ("left", "links"))
    with pytest.raises(InputError, match="a time in"):
        diffusion_clip(small(), images(), Sides(), ("left", "right"), start=1.0)
    with torch.no_grad(), pytest.raises(InputError, match="gradients"):
        diffusion_clip(small(), images(), Sides(), ("left", "right"))
