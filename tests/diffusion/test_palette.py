"""Palette: what is left of pictures, JPEG against Pillow, the hole that is learned, what is known kept, and what the network listens to."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion import palette
from reverie.diffusion.conditioned import PaletteConfig
from reverie.diffusion.jpeg import jpeg
from reverie.diffusion.palette import Palette, Shown, damage
from reverie.nets import DiTConfig

NET = DiTConfig(patch=4, width=16, depth=1, heads=2)
OPS = ("inpaint", "uncrop", "colourise", "jpeg", "superres")


def pictures(count: int, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(5)) * 2 - 1


def made(op: str = "inpaint", **others) -> NetDenoiser:
    config = PaletteConfig(op=op, net=NET, **others)
    model = palette.build(config, rv.data.TensorSet(pictures(4)).spec, 0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 30, 90])
def test_jpeg_is_pillows(channels: int, quality: int):
    """Smooth pictures, of a size that no block divides; the control is another quality."""
    x = torch.nn.functional.interpolate(pictures(1, channels, 5), (21, 27), mode="bicubic").clamp(-1, 1)
    levels = (x * 127.5 + 127.5).round()
    array = levels[0].permute(1, 2, 0).squeeze(-1).numpy().astype(np.uint8)
    file = BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = torch.tensor(np.array(Image.open(file), dtype=float)).reshape(21, 27, channels).permute(2, 0, 1)

    def far(q: int) -> float:
        return float((jpeg(levels / 127.5 - 1, torch.tensor([q]))[0] * 127.5 + 127.5 - theirs).abs().mean())

    assert far(quality) < 0.7  # fixed-point arithmetic there
    assert far({5: 30, 30: 5, 90: 30}[quality]) > 1.5


def test_jpeg_says_what_it_cannot_take():
    with pytest.raises(InputError, match="quality of JPEG is 1 to 100"):
        jpeg(pictures(1), torch.tensor([0]))
    with pytest.raises(InputError, match="grey or coloured"):
        jpeg(pictures(1, 2), torch.tensor([10]))


@pytest.mark.parametrize("op", OPS)
def test_what_is_left_is_the_images_own(op: str):
    """Each picture has its own damage, whatever batch it is in; and what is left comes from it alone."""
    x = pictures(6)
    left, alone = damage(op)(x, Draws(3, 0, 6)), damage(op)(x[4:5], Draws(3, 4, 1))
    assert torch.allclose(left.picture[4:5], alone.picture) and left.picture.shape == x.shape
    assert not torch.allclose(left.picture, x)
    if op in palette.HOLES:
        share = left.known.mean((1, 2, 3))
        assert left.known.shape == (6, 1, 16, 16) and share.min() > 0.2 and share.max() < 0.95
        assert len(share.unique()) > 1
        assert torch.equal(left.picture, x * left.known)
    else:
        assert left.known is None


def test_holes_are_of_the_sizes_they_are_said_to_be():
    x = torch.zeros(500, 1, 28, 28)
    unknown = 1 - palette.holes(x, Draws(0, 0, 500)).mean((1, 2, 3))
    assert 0.05 < unknown.min() < 0.15 and 0.6 < unknown.max() < 0.7
    frames = 1 - palette.inside(x, Draws(0, 0, 500)).mean((1, 2, 3))
    assert frames.min() > 0.2 and frames.max() < 0.8


def test_the_error_is_taken_in_the_hole():
    """Moving the target where the picture is known changes no loss; in the hole it does."""
    model = made()
    x, known = pictures(2), torch.ones(2, 1, 16, 16)
    known[..., 4:8, 4:8] = 0

    def loss(moved: torch.Tensor) -> torch.Tensor:
        task = Palette(model, Uniform(), lambda y, rng: Shown(x * known, known))
        task.estimate = lambda x0, noise, t, cond: Palette.estimate(task, x, noise, t, cond)  # the same input
        return task.loss("denoiser", Batch(moved), Draws(0, 0, 2), Moment(0, 0, 1))["mse"]

    assert torch.equal(loss(x), loss(x + known))
    assert (loss(x) - loss(x + 1 - known)).abs().min() > 0.01


def test_the_level_of_noise():
    """Level 0 is clean, level 1 noise alone, in between their mixture; a hole stays empty."""
    y, noise = pictures(3), torch.randn(3, 3, 16, 16)
    left = palette.holed(y, torch.ones(1, 1, 16, 16).index_fill(2, torch.tensor([0]), 0))
    clean = left.cond(torch.zeros(3), noise)
    assert torch.equal(clean["image"].value, left.cond()["image"].value) and "level" not in left.cond()
    mixed = left.cond(torch.tensor([0.25, 0.5, 1.0]), noise)
    assert torch.allclose(mixed["level"].value[:, 0], torch.tensor([0.25, 0.5, 1.0]))
    assert torch.allclose(mixed["image"].value[2, :3], left.known[0] * noise[2])
    assert torch.allclose(mixed["image"].value[0, :3], left.known[0] * (0.75 * y[0] + 0.25 * noise[0]))
    assert torch.equal(mixed["image"].value[:, 3:], left.known)


def test_the_network_hears_picture_level_and_reference():
    model = made("superres", augment=True, reference=True)
    assert set(model.conditions) == {"image", "level"} and model.conditions["image"].channels == 6
    x, y, other = pictures(2), pictures(2).flip(0), pictures(2).flip(-1)
    left, s = Shown(y), torch.full((2,), 0.2)
    outs = [
        model(x, 0.5, told).x0
        for told in (
            left.cond(s, 0 * x, other),
            left.cond(s, 0 * x, other.flip(0)),
            Shown(y.flip(0)).cond(s, 0 * x, other),
            left.cond(s + 0.5, -y * 0.5 / 0.7 * 0 + 0 * x, other),
        )
    ]
    assert all((outs[0] - out).abs().max() > 1e-4 for out in outs[1:])
    same = model(x, 0.5, left.cond(s, 0 * x, other)).x0
    assert torch.equal(outs[0], same)


def test_what_is_known_stays(tmp_path):
    """A restoration is the picture where it is known, bitwise, and drawn where it is not; without a hole nothing is pasted."""
    model, x = made(), pictures(1)
    known = torch.ones(1, 1, 16, 16)
    known[..., :8] = 0
    drawn = palette.restore(model, palette.holed(x, known), 3, seed=1, steps=3, solver="ddim")
    assert drawn.shape == (3, 3, 16, 16)
    assert torch.equal(drawn[..., 8:], x.expand(3, -1, -1, -1)[..., 8:])
    assert (drawn[..., :8] - x[..., :8]).abs().amax((1, 2, 3)).min() > 0.1
    assert (drawn[0] - drawn[1]).abs().max() > 0.1
    assert torch.allclose(
        palette.restore(model, palette.holed(x, known), 1, seed=1, steps=3, solver="ddim"), drawn[:1], atol=1e-5
    )
    free = palette.restore(made("jpeg"), Shown(x), seed=1, steps=3, solver="ddim")
    assert (free[..., 8:] - x[..., 8:]).abs().max() > 0.1


def test_what_does_not_fit_is_said():
    model, x = made(), pictures(1)
    with pytest.raises(InputError, match="shown 4 channels, got 3"):
        palette.restore(model, Shown(x))
    with pytest.raises(InputError, match="pictures are 16x16: it was shown 8x8"):
        palette.restore(made("jpeg"), Shown(x[..., :8, :8]))
    with pytest.raises(InputError, match="trained without augmentation"):
        palette.restore(made("jpeg"), Shown(x), level=0.1)
    with pytest.raises(InputError, match="does not divide"):
        made("superres", factor=3)
    with pytest.raises(InputError, match="at least 8 pixels a side: got 4x4"):
        palette.build(PaletteConfig(net=NET), rv.data.TensorSet(pictures(4, size=4)).spec, 0)
    with pytest.raises(InputError, match="use dit or unet"):
        palette.build(PaletteConfig(net=rv.nets.UViTConfig()), rv.data.TensorSet(pictures(4)).spec, 0)
    with pytest.raises(InputError, match="the data has none"):
        palette.Referred(rv.data.TensorSet(pictures(4)))


def test_a_reference_is_another_of_its_class():
    data = rv.data.load("mnist5k")
    referred = palette.Referred(data)
    rows = torch.arange(40)
    batch = referred.batch(rows)
    assert (
        torch.equal(data.labels[referred.next[rows]], data.labels[rows])
        and not (referred.next == torch.arange(len(data))).any()
    )
    assert torch.equal(batch.extra["reference"], data.batch(referred.next[rows]).x) and torch.equal(
        batch.x, data.batch(rows).x
    )
    assert sorted(referred.next.tolist()) == list(range(len(data)))


@pytest.mark.slow
def test_a_box_is_filled_by_what_the_picture_says(tmp_path):
    """On held-out digits the error in the hole is at most half of what filling with the mean of the pictures has (spec F1); shown other
    pictures' surroundings it is not."""
    from reverie.cli import main

    words = "train palette --data mnist5k --train.images 60000 --train.warmup 2000 --train.validate-every 60000 --train.sample-every 60000"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    model, x = rv.load(tmp_path / "run"), rv.data.load("mnist5k", "test").batch(range(64)).x
    mean = rv.data.load("mnist5k").batch(range(1000)).x.mean(0)
    known = torch.ones(1, 1, 28, 28)
    known[..., 9:19, 9:19] = 0

    def error(images: torch.Tensor) -> float:
        return float((images - x)[..., 9:19, 9:19].square().mean())

    drawn = torch.stack([palette.restore(model, palette.holed(x, known), seed=s, steps=12) for s in range(4)]).mean(0)
    other = palette.restore(model, palette.holed(x.roll(1, 0), known), steps=12)
    assert error(drawn) < 0.5 * error(mean.expand_as(x))
    assert error(other) > error(mean.expand_as(x))
