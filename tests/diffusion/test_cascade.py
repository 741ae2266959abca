"""Cascades: the stage draws what it is shown, the noise in it is told, its estimate stays in range, and what does not fit is said."""

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser, Wrapper
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion import palette
from reverie.diffusion.cascade import USUAL, enlarge
from reverie.diffusion.conditioned import PaletteConfig
from reverie.guide.contrast import shifted
from reverie.inverse.operators import SuperResolution
from reverie.nets import DiTConfig

HOW = {"steps": 3, "solver": "ddim"}


def stage(augment: bool = True) -> NetDenoiser:
    config = PaletteConfig(op="superres", factor=2, augment=augment, net=DiTConfig(patch=4, width=16, depth=1, heads=2))
    model = palette.build(config, rv.data.TensorSet(torch.zeros(2, 3, 16, 16)).spec, 0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_the_small_picture_and_the_level_matter():
    model, small = stage(), pictures()
    drawn = enlarge(model, small, level=0.0, **HOW)
    assert drawn.shape == (3, 3, 16, 16)
    assert (drawn - enlarge(model, small.flip(0), level=0.0, **HOW)).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-2
    assert torch.equal(enlarge(model, small, **HOW), enlarge(model, small, level=USUAL, **HOW))
    assert (drawn - enlarge(model, small, level=0.5, **HOW)).abs().max() > 1e-2
    assert torch.equal(drawn, enlarge(model, small, level=0.0, **HOW))
    assert (drawn - enlarge(model, small, level=0.0, seed=1, **HOW)).abs().max() > 1e-2
    alone = enlarge(model, small[:1], level=0.3, **HOW)
    assert torch.allclose(alone, enlarge(model, small, level=0.3, **HOW)[:1], atol=1e-5)


def test_level_zero_is_what_restoring_is():
    """But for static thresholding, which keeps the estimate in range: the last step's estimate is the picture."""
    model, small = stage(), pictures()
    plain = palette.restore(model, palette.small(small, 2), **HOW)
    drawn = enlarge(model, small, level=0.0, **HOW)
    assert drawn.abs().max() <= 1.0 + 1e-5 < plain.abs().max()
    by_hand = palette.restore(rv.guide.threshold(model, 0.0), palette.small(small, 2), **HOW)
    assert torch.equal(drawn, by_hand)
    assert torch.equal(palette.small(small, 2).picture, small.repeat_interleave(2, -1).repeat_interleave(2, -2))


class Listening(Wrapper):
    """Keeps what it is told."""

    def __call__(self, x, t, cond=None, call=None):
        self.told = cond
        return self.base(x, t, cond, call)


def noise_in(told: rv.Cond, picture: torch.Tensor) -> torch.Tensor:
    """Without (1 - s) of the picture."""
    s = told["level"].value[:, :, None, None]
    assert s.min() > 0
    return (told["image"].value - (1 - s) * picture) / s


def in_training(op: str, x: torch.Tensor, first: int = 0) -> torch.Tensor:
    task, seen = palette.Palette(stage(), Uniform(), palette.damage(op, 2), augment=True), []
    own = task.estimate
    task.estimate = lambda x0, noise, t, cond: seen.append((x0, cond)) or own(x0, noise, t, cond)
    rng = Draws(0, first, len(x))
    task.loss("denoiser", Batch(x), rng, Moment(0, 0, 1))
    learned, told = seen[0]
    assert torch.equal(learned, x)
    return noise_in(told, palette.damage(op, 2)(x, rng).picture)


def test_noise_is_of_the_small_picture():
    """What is shown, but for its share of the picture, is repeated as the pixels are, in training and in drawing; it is the sample's own,
    and of another operation it is of the full size. What is learned are the pictures as they are."""
    x, op = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1, SuperResolution(2)
    model, left = Listening(stage()), palette.small(op(x), 2)

    def drawing(shown: palette.Shown, n: int) -> torch.Tensor:
        palette.restore(model, shown, n, level=0.4, **HOW)
        return noise_in(model.told, shown.picture)

    one = palette.small(op(x[:1]), 2)
    for noise in (in_training("superres", x), drawing(left, 3), drawing(one, 3)):
        assert torch.allclose(op.pinv(op(noise)), noise, atol=1e-4)
        assert noise.std() > 0.8 and (noise[0] - noise[1]).abs().max() > 1
    assert torch.allclose(in_training("superres", x)[1:], in_training("superres", x[1:], first=1), atol=1e-4)
    assert torch.allclose(drawing(left, 3)[:1], drawing(one, 1), atol=1e-4)
    for noise in (in_training("jpeg", x), drawing(palette.Shown(x), 3)):
        assert op(noise).std() < 0.7 * noise.std()


class White(Wrapper):
    """A stage that draws white, and misses it in a sixteenth of the pixels."""

    def __call__(self, x, t, cond=None, call=None):
        estimate = self.base(x, t, cond, call)
        white = torch.ones_like(x)
        white[..., 0, :] = 1.5
        return shifted(estimate, white - estimate.x0, "x0")


def test_white_stays_white():
    """Dynamic thresholding divides all pixels by what a few of them miss."""
    white, small = White(stage()), pictures()
    assert torch.allclose(enlarge(white, small, **HOW), torch.ones(3, 3, 16, 16), atol=1e-5)
    grey = palette.restore(rv.guide.threshold(white), palette.small(small, 2), **HOW)
    assert grey[..., 1:, :].max() < 0.7


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="draws 16x16: it does not enlarge 6x8"):
        enlarge(stage(), pictures()[..., :6, :])
    with pytest.raises(InputError, match="trained without augmentation"):
        enlarge(stage(augment=False), pictures(), level=0.2)
    with pytest.raises(InputError, match="level of noise is 0 to 1"):
        enlarge(stage(), pictures(), level=1.5)
    assert enlarge(stage(augment=False), pictures(), **HOW).shape == (3, 3, 16, 16)


@pytest.mark.slow
def test_a_level_of_noise_forgives_a_corrupted_picture(tmp_path):
    """Imagen's augmentation: shown a corrupted small digit, told the usual level the stage comes nearer to the truth than told
    that it is clean, digit by digit by several standard errors; shown a clean one it is the other way round. Told less or more noise than
    was added it is farther off."""
    from reverie.cli import main

    words = "train palette --data mnist5k --op superres --factor 4 --augment --train.images 60000 --train.warmup 2000"
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    model, x = rv.load(tmp_path / "run"), rv.data.load("mnist5k", "test").batch(range(128)).x
    small = torch.nn.functional.avg_pool2d(x, 4)
    corrupted = small + 0.4 * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))

    def sure(better: torch.Tensor) -> float:
        """By how many standard errors."""
        return float(better.mean() / (better.std() / len(better) ** 0.5))

    def gain(shown: torch.Tensor, level: float) -> float:
        """How much better the level is than none."""

        def errors(level: float) -> torch.Tensor:
            drawn = torch.stack([enlarge(model, shown, level=level, seed=s, steps=12) for s in range(3)])
            return (drawn - x).square().mean((0, 2, 3, 4))

        return sure(errors(0.0) - errors(level))

    assert gain(corrupted, USUAL) > 2.5
    assert gain(small, 0.5) < -10.0

    left = palette.small(small, 4)
    image = left.cond(torch.full((len(x),), 0.35), left.noise(Draws(0, 0, len(x))))["image"].value

    def told(level: float) -> torch.Tensor:
        cond = rv.Cond(image=image, level=torch.full((len(x), 1), level))
        return (rv.sample(model, cond=cond, steps=12) - x).square().mean((1, 2, 3))

    assert min(sure(told(level) - told(0.35)) for level in (0.0, 0.8)) > 5.0
