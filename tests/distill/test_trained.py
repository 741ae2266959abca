"""Small networks that learn the flow map of a Gaussian, of which everything is known, and of a mixture in the plane."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.exact import GaussianMixture
from reverie.core.task import Moment
from reverie.distill import flow_config as settings
from reverie.distill.consistency import CD, CT, ECT, ICT
from reverie.distill.imm import IMM
from reverie.distill.meanflow import MeanFlow
from reverie.distill.scm import SCM
from reverie.distill.shortcut import Shortcut
from reverie.distill.student import Student
from reverie.distill.tvm import TVM

from .maps import MEAN, STD, gaussian, mixture, sliced_w2, student

MeanFlowConfig, SCMConfig = settings.MeanFlowConfig, settings.SCMConfig
ShortcutConfig, TVMConfig = settings.ShortcutConfig, settings.TVMConfig
ConsistencyConfig = settings.ConsistencyConfig
METHODS = {
    "shortcut": (Shortcut, ShortcutConfig(decay=0.95, bootstrapped=0.5)),
    "imm": (IMM, settings.IMMConfig(halvings=8, group=16)),
    "tvm": (TVM, TVMConfig(gap_mean=0.0)),
    "cd": (CD, ConsistencyConfig(scales=8)),
    "ect": (ECT, ConsistencyConfig(variant="ect")),
}
SLOW = {
    "meanflow": (MeanFlow, MeanFlowConfig(power=0.0)),
    "scd": (SCM, SCMConfig()),
    "imm": (IMM, settings.IMMConfig(halvings=11, group=16)),
}
FROM_DATA = {
    "meanflow": (MeanFlow, MeanFlowConfig(scratch=True)),
    "shortcut": (Shortcut, ShortcutConfig(decay=0.95, bootstrapped=0.5, scratch=True)),
    "tvm": (TVM, TVMConfig(gap_mean=0.0, decay=0.95, scratch=True)),
    "ict": (ICT, ConsistencyConfig(variant="ict", scales=80)),
    "sct": (SCM, SCMConfig(variant="sct")),
}
SLOWLY = {
    "imf": ((MeanFlow, MeanFlowConfig(scratch=True, improved=True, power=0.0)), 2000, 1e-2),
    "imm": ((IMM, settings.IMMConfig(halvings=11, group=32, scratch=True)), 3000, 5e-3),
}


def fit(kind, config, data: GaussianMixture, steps: int, size: int = 128, lr: float = 1e-2, width: int = 48) -> Student:
    """A student of ``data`` after so many steps of Adam, its rate falling to 0."""
    model = student(data, config.second_time, width=width)
    task = kind(model, config)
    weights = [p for player in task.players.values() if player.optim is not None for p in player.module.parameters()]
    optim = torch.optim.Adam(weights, lr, (0.9, 0.99))
    known = data.sample(20_000, torch.Generator().manual_seed(0)).float()
    for i in range(steps):
        optim.param_groups[0]["lr"] = lr * (1.0 - i / steps)
        start, total = i * size, steps * size
        batch = Batch(known[torch.arange(start, start + size) % len(known)], None, {})
        optim.zero_grad()
        sum(
            v.mean() for v in task.loss("student", batch, Draws(0, start, size), Moment(i, start, total)).values()
        ).backward()
        optim.step()
        task.after_step(Moment(i + 1, start + size, total))
    model.denoise.net.requires_grad_(False)
    return model


def drawn(model: Student, n: int = 4000) -> Tensor:
    return rv.sample(model, n, steps=1, seed=1)


def is_the_gaussian(x: Tensor, within: float = 0.05) -> bool:
    return bool(((x.std(0) / STD - 1.0).abs() < within).all() and ((x.mean(0) - MEAN).abs() < 0.05).all())


@pytest.mark.parametrize("name", METHODS)
def test_one_step_draws_the_gaussian(name):
    steps, within = (700, 0.1) if name == "imm" else (500, 0.05)
    assert is_the_gaussian(drawn(fit(*METHODS[name], gaussian(), steps)), within)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("meanflow", 1200), ("scd", 1200), ("imm", 2500)])
def test_one_step_draws_the_gaussian_after_longer(name, steps):
    """IMM's map is made of 2ᵏ leaps of which each learns from the one before: a fine k takes time, a coarse one draws too narrowly."""
    assert is_the_gaussian(drawn(fit(*SLOW[name], gaussian(), steps, 256)))


@pytest.mark.slow
def test_scm_that_hardly_sees_the_data_draws_too_narrowly():
    """Its errors at little noise travel to all of it."""
    assert not is_the_gaussian(drawn(fit(SCM, SCMConfig(times_mean=0.0), gaussian(), 1200, 256)))


def test_a_network_that_only_knows_the_velocity_does_not():
    x = drawn(fit(Shortcut, ShortcutConfig(bootstrapped=0.0), gaussian(), 300))
    assert not is_the_gaussian(x) and (x.std(0) < 0.3 * STD).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_DATA)
def test_one_step_draws_the_gaussian_that_only_its_samples_show(name):
    assert is_the_gaussian(drawn(fit(*FROM_DATA[name], gaussian(), 2000)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOWLY)
def test_one_step_from_samples_comes_near_the_gaussian(name):
    """Both still draw too narrowly, by 7 to 9 %, and less the longer they train."""
    method, steps, lr = SLOWLY[name]
    assert is_the_gaussian(drawn(fit(*method, gaussian(), steps, 256, lr)), 0.1)


@pytest.mark.slow
def test_consistency_training_is_off_where_an_average_says_the_target():
    """What Song & Dhariwal (2024, section 3.2) found, and why ict has none."""
    assert not is_the_gaussian(drawn(fit(CT, ConsistencyConfig(variant="ct", scales=40), gaussian(), 2000)), 0.2)


def test_imm_without_repulsion_collapses():
    kind, config = METHODS["imm"]
    x = drawn(fit(kind, replace(config, group=1), gaussian(), 300))
    assert not is_the_gaussian(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "shortcut", "tvm", "scd"])
def test_one_step_draws_the_mixture(name):
    """Sliced W2 to fresh samples, against that of other fresh samples and of one step of the denoiser itself."""
    data = mixture()
    fresh = data.sample(4000, torch.Generator().manual_seed(2))
    euler = rv.sample(rv.solve.DDIMStep(data.denoiser(rv.core.schedules.Flow())), 4000, steps=1, seed=1)
    found = sliced_w2(drawn(fit(*{**METHODS, **SLOW}[name], data, 2000, 256, 3e-3, 96)), fresh)
    print(name, found, sliced_w2(data.sample(4000, torch.Generator().manual_seed(3)), fresh), sliced_w2(euler, fresh))
    assert found < 0.12 < 0.4 < sliced_w2(euler, fresh)
