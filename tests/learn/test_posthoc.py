"""Averages made after training against those that were kept during it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reverie.core.errors import InputError
from reverie.learn import Checkpoints, posthoc
from reverie.learn.ema import Ema, exponent, power

from .conftest import CONFIG, pictures
from .test_loop import interrupt_at, same

END = 4000


def path(k: int) -> torch.Tensor:
    """Weights that wander: a decay, a drift, waves."""
    t = k / END
    return torch.tensor([np.exp(-8 * t), t, np.sin(20 * t), np.cos(3 * t)], dtype=torch.float64)


def averages(stds, every: int):
    """Of each width the average at the end, and its snapshots on the way: {std: {images: weights}}."""
    module = nn.ParameterDict({"w": nn.Parameter(path(0))})
    kept = {std: (Ema(module, power(std)), {}) for std in stds}
    for k in range(END):
        with torch.no_grad():
            module["w"].copy_(path(k))
        for ema, found in kept.values():
            ema.update(k, k + 1)
            if (k + 1) % every == 0:
                found[k + 1] = ema.average["w"].clone()
    return {std: found for std, (_, found) in kept.items()}


@pytest.mark.parametrize(("std", "within"), [(0.03, 0.03), (0.07, 1e-3), (0.15, 3e-3), (0.25, 0.02)])
def test_an_average_made_of_snapshots_is_the_one_that_was_not_kept(std, within):
    kept = averages([0.05, 0.1, std], every=250)
    wanted = kept.pop(std)[END]
    snapshots = [(images, width, value) for width, found in kept.items() for images, value in found.items()]
    c, error = posthoc.combination([s[0] for s in snapshots], [s[1] for s in snapshots], std, END)
    made = sum(weight * value for weight, (_, _, value) in zip(c, snapshots, strict=True))
    worst = max(float((value - wanted).abs().max()) for images, _, value in snapshots if images == END)
    assert float((made - wanted).abs().max()) < within < worst
    assert error < 0.25
    _, fewer = posthoc.combination([END, END], [0.05, 0.1], std, END)
    assert fewer > 1.3 * error


def test_a_kept_width_is_its_own_snapshot():
    c, error = posthoc.combination([1000, END, END], [0.1, 0.05, 0.1], 0.1, END)
    assert np.allclose(c, [0, 0, 1], atol=1e-9) and error < 1e-6


def test_the_inner_product_is_the_integral():
    tau = (np.arange(200_000) + 0.5) / 200_000
    profiles = []
    for std, end in ((0.1, 0.6), (0.2, 1.0)):
        gamma = exponent(std)
        profiles.append(np.where(tau < end, (gamma + 1) * tau**gamma / end ** (gamma + 1), 0.0))
    expected = float((profiles[0] * profiles[1]).mean())
    assert posthoc.product(exponent(0.1), 0.6, exponent(0.2), 1.0) / 0.6 == pytest.approx(expected, rel=1e-4)
    assert posthoc.product(exponent(0.2), 1.0, exponent(0.1), 0.6) == pytest.approx(expected, rel=1e-4)


def test_profiles_are_kept_and_go_on_bitwise_after_an_interrupt(run, tmp_path):
    config = replace(CONFIG, ema_half_life=None, ema_std=0.1)
    run("b", config, feed=interrupt_at(200))
    run("a", config)
    run("b", config)
    whole, resumed = (Checkpoints(tmp_path / name / "checkpoints").latest().tensors("profiles") for name in "ab")  # pyright: ignore[reportOptionalMemberAccess]
    assert same(whole, resumed)
    made, error = posthoc.average(tmp_path / "a", 0.1, 400)
    ema = Checkpoints(tmp_path / "a" / "checkpoints").latest().tensors("ema")  # pyright: ignore[reportOptionalMemberAccess]
    assert error < 1e-6 and all(torch.allclose(value, ema[key], atol=2e-3) for key, value in made.items())
    other, _ = posthoc.average(tmp_path / "a", 0.02, 400)
    assert not all(torch.allclose(value, ema[key], atol=2e-3) for key, value in other.items())


def test_a_checkpoint_of_before_trains_on_without_profiles(run, tmp_path):
    off = replace(CONFIG, ema_profiles=())
    run("a", off, feed=interrupt_at(200))
    before = run("b", off)
    assert same(run("a", CONFIG), before) and not (tmp_path / "a" / posthoc.FOLDER).exists()


def test_a_snapshot_that_a_kill_left_out_is_made_up_for(run, tmp_path):
    run("a", feed=interrupt_at(200))
    lost = tmp_path / "a" / posthoc.FOLDER / "images-000000000208.safetensors"
    before = lost.read_bytes()
    lost.unlink()
    run("a")
    assert lost.read_bytes() == before


def test_what_cannot_be_averaged_says_why(tmp_path, run):
    with pytest.raises(InputError, match=r"0\.001 to 0\.28"):
        posthoc.average(tmp_path, 0.5, 100)
    with pytest.raises(InputError, match="no snapshots of averages: train it with"):
        posthoc.average(tmp_path, 0.1, 100)
    run("a", feed=pictures)
    assert [s.images for s in posthoc.snapshots(tmp_path / "a", 300)] == [96, 192, 288]
