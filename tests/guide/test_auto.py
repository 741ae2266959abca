"""Autoguidance against closed forms."""

import pytest
import torch

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.schedules import VE, Cosine, Flow
from reverie.solve import DDIM, sample

from .closed_form import classes, line, normal


def test_errors_in_proportion_cancel_exactly():
    """Data N(0, c²); a model that believes c·k guided by one that believes c·k² at scale 2 draws c: (ck)²·(ck²)⁻¹."""
    c, k = 0.5, 1.3

    def run(denoise):
        from .closed_form import Switch

        return line(Switch(denoise, denoise), 128)[1]

    strong, weak = normal(0.0, c * k), normal(0.0, c * k * k)
    assert run(guide.auto(strong, weak, 2.0)) == pytest.approx(c, rel=0.01)
    assert run(strong) == pytest.approx(c * k, rel=0.01)
    assert run(guide.auto(strong, weak, 3.0)) == pytest.approx(c * k * (c * k / (c * k * k)) ** 2, rel=0.01)


def test_the_weaker_model_may_live_on_another_path():
    data = classes()
    strong, weak = data.denoiser(Cosine()), data.denoiser(Flow())
    x = torch.randn(4, 2, dtype=torch.float64)
    same = strong(x, 0.5, Cond(label=0)).x0
    assert torch.allclose(guide.auto(strong, weak, 3.0)(x, 0.5, Cond(label=0)).x0, same, atol=1e-9)


def test_interval_and_scale_one_skip_the_weaker_model():
    strong, weak = normal(0.0, 0.5), normal(0.0, 1.0)
    run = {"n": 2, "solver": DDIM(), "steps": 10, "report": True}
    assert sample(guide.auto(strong, weak, 1.0), **run)[1].evaluations == 10
    assert sample(guide.auto(strong, weak, 2.0), **run)[1].evaluations == 20
    assert 10 < sample(guide.auto(strong, weak, 2.0, (-2.0, 2.0)), **run)[1].evaluations < 20
    assert guide.auto(strong, weak, 2.0).guidance == 2.0


def test_models_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"shape \(2,\), the model \(1,\)"):
        guide.auto(normal(0.0, 1.0), normal(0.0, 1.0, VE(), (2,)), 2.0)
    with pytest.raises(InputError, match=r"conditions"):
        guide.auto(classes().denoiser(Cosine()), normal(0.0, 1.0, Cosine(), (2,)), 2.0)
