"""The diffusion task against closed forms."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.exact import Gaussian
from reverie.core.predictions import KINDS
from reverie.core.schedules import VP, Cosine, Flow
from reverie.core.times import Uniform
from reverie.diffusion import Denoising
from reverie.learn import Batch, Draws, Moment

from .conftest import CONFIG, Net, denoising, pictures

NOW = Moment(0, 0, 100)


class Zero(nn.Module):
    conditions: ClassVar = {}

    def forward(self, x, time, cond=None):
        return torch.zeros_like(x)


@pytest.mark.parametrize("schedule", [Flow(), VP(), Cosine()])
@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow", "straight"])
def test_a_network_that_says_zero_pays_the_power_of_the_target(schedule, kind):
    """E‖p·x0 + q·ε‖² = p²·E x0² + q² at each time."""
    task = Denoising(NetDenoiser(Zero(), schedule, kind, shape=(1, 32, 32)), Uniform(), drop=0.0)
    images = torch.full((64, 1, 32, 32), 0.5)
    loss = task.loss("denoiser", Batch(images), rng := Draws(0, 0, 64), NOW)["mse"].double()
    p, q = (torch.as_tensor(v, dtype=torch.float64) for v in KINDS[kind](schedule.point(rng.even("time"))))
    scale = q.abs() * (2 * p.abs() * 0.5 + q.abs() * 2**0.5)
    assert ((loss - (0.25 * p**2 + q**2)).abs() < 5 * scale / 32 + 1e-5).all()


class Optimal(nn.Module):
    """The exact flow prediction for N(m, s²) data, computed from x and t alone."""

    conditions: ClassVar = {}

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x, time, cond=None):
        t = time.view(-1, 1, 1, 1)
        mean, variance = 0.3, 0.25
        gain = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
        return gain * (x - (1 - t) * mean) - mean + self.offset


def test_the_exact_denoiser_reaches_the_lowest_loss_and_nothing_else_does():
    """The lowest loss of ε − x0 for N(m, s²) is s²/(α²s² + σ²): the posterior variance; an offset adds its square."""
    x0 = 0.3 + 0.5 * Draws(9, 0, 256).normal("data", (1, 16, 16))
    rng = Draws(0, 0, 256)
    t = Uniform()(rng.even("time"))
    floor = (0.25 / ((1 - t) ** 2 * 0.25 + t**2)).mean()

    def loss(offset: float) -> float:
        task = Denoising(NetDenoiser(Optimal(offset), Flow(), shape=(1, 16, 16)), Uniform(), drop=0.0)
        return task.loss("denoiser", Batch(x0), rng, NOW)["mse"].mean().item()

    assert loss(0.0) == pytest.approx(floor.item(), rel=0.02)
    assert loss(0.2) == pytest.approx(floor.item() + 0.04, rel=0.02)
    exact = Gaussian(torch.tensor([0.3]), torch.tensor([[0.25]])).denoiser(Flow())
    x = torch.randn(5, 1, 1, 1)
    ours = NetDenoiser(Optimal(), Flow(), shape=(1, 1, 1))(x, 0.4).velocity
    torch.testing.assert_close(ours.flatten(1), exact(x.flatten(1), 0.4).velocity)


def test_the_loss_in_another_kind_is_the_error_converted():
    """An error e of ε is an error e·σ/α of x0."""
    noise = Draws(0, 0, 4).normal("noise", (1, 4, 4))
    images, t = torch.rand(4, 1, 4, 4), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)

    class Off(nn.Module):
        conditions: ClassVar = {}

        def forward(self, x, time, cond=None):
            return noise + 0.1

    denoise = NetDenoiser(Off(), Flow(), "eps", shape=(1, 4, 4))
    errors = {
        kind: Denoising(denoise, Uniform(), loss_kind=kind).errors(images, t, Draws(0, 0, 4), None)
        for kind in ("eps", "x0")
    }
    torch.testing.assert_close(errors["eps"], torch.full((4,), 0.01))
    torch.testing.assert_close(errors["x0"], (0.01 * (t / (1 - t)) ** 2).float(), rtol=1e-3, atol=1e-5)


def test_the_weight_multiplies_the_error_of_each_sample():
    batch, rng = Batch(torch.rand(6, 1, 4, 4)), Draws(0, 0, 6)
    denoise = NetDenoiser(Zero(), Flow(), shape=(1, 4, 4))
    plain = Denoising(denoise, Uniform()).loss("denoiser", batch, rng, NOW)["mse"]
    weighted = Denoising(denoise, Uniform(), weight=lambda lam: lam**2).loss("denoiser", batch, rng, NOW)["mse"]
    lam = Flow().lam(rng.even("time"))
    torch.testing.assert_close(weighted, plain * lam.float() ** 2)


def test_labels_are_dropped_as_often_as_asked_and_for_the_same_images_in_any_batch():
    seen = []

    class Spy(Net):
        def forward(self, x, time, cond=None):
            assert cond is not None
            seen.append(cond["label"].present)
            return super().forward(x, time, cond)

    task = Denoising(NetDenoiser(Spy(), Flow(), shape=(1, 4, 4)), Uniform(), drop=0.2)
    for start, count in ((0, 2000), (0, 700), (700, 1300)):
        task.loss("denoiser", pictures(start, count), Draws(0, start, count), NOW)
    assert (~seen[0]).double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(seen[0], torch.cat(seen[1:]))


def test_validation_is_fixed_and_its_bins_average_to_the_loss(run):
    task = denoising(CONFIG)
    with torch.no_grad():
        first, again = task.validate(), task.validate()
    assert first == again
    bins, logsnr = first["bins"], first["logsnr"]
    assert isinstance(bins, list) and isinstance(logsnr, list)
    assert sum(bins) / 8 == pytest.approx(first["loss"]) and logsnr == sorted(logsnr, reverse=True)


def test_training_helps_on_held_out_images_and_labels_help_more(run):
    task, untrained = denoising(CONFIG), denoising(CONFIG)
    run("a", task=task)
    with torch.no_grad():
        trained = task.validate()["loss"]
        assert trained < 0.6 * untrained.validate()["loss"]
        task.held_out = Batch(task.held_out.x, Cond(label=(task.held_out.cond["label"].value + 1) % 3))
        assert task.validate()["loss"] > 1.2 * trained


def test_a_set_without_held_out_images_is_not_validated():
    task = denoising(CONFIG)
    task.held_out = None
    assert task.validate() == {}
