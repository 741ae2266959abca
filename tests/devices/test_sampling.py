"""Sampling on another device: the same pictures, nothing in double precision there, and no step that waits."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.core import brownian, exact
from reverie.core.batch import DataSpec
from reverie.core.condition import Label, Text
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.paths import Custom, Table
from reverie.core.schedules import VP, Flow
from reverie.diffusion import building
from reverie.diffusion.config import DenoisingConfig
from reverie.families import PixelCNNConfig, PixelCNNppConfig, PixelRNNConfig, SubPixelConfig, TileConfig
from reverie.nets.config import DiTConfig, TextConfig
from reverie.solve import grids, langevin, walks
from reverie.solve.auto import CHOICES

from .emulated import DEVICE, NAME, waiting
from .models import CLASSES, MODELS, condition, of, pictures, shaken

SOLVERS: dict[str, Any] = {
    **{name: name for name in CHOICES},
    "rk45": rv.solve.RK45(rtol=1e-2, atol=1e-2),
    "genie": rv.solve.GENIE(),
    "langevin": langevin.Langevin(),
}
START = {"eulermaruyama": grids.time(start=-8.0)}
X = pictures()


@pytest.fixture(scope="module")
def dit() -> NetDenoiser:
    return MODELS["dit"]()


@pytest.fixture(scope="module")
def there(dit: NetDenoiser) -> NetDenoiser:
    return copy.deepcopy(dit).to(DEVICE)


def same(there: torch.Tensor, here: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert there.device.type == NAME and there.dtype == here.dtype
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=tolerance * float(here.abs().max()))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("gradients", [True, False])
def test_every_solver_draws_the_same(dit, there, name, gradients):
    def draw(denoise: NetDenoiser) -> torch.Tensor:
        with torch.set_grad_enabled(gradients):
            cond = rv.Cond(label=[1, 2])
            return rv.sample(denoise, cond=cond, solver=SOLVERS[name], steps=4, grid=START.get(name), seed=3)

    same(draw(there), draw(dit))


def test_texts_are_read_the_same():
    config = DenoisingConfig(net=DiTConfig(width=16, depth=1, heads=2), text=TextConfig(width=16, depth=1, heads=2))
    here = building.denoiser(config, DataSpec((3, 8, 8), {"text": Text(20)}), 0, None)
    for module in config.modules(here).values():
        shaken(module)
    there = copy.deepcopy(here).to(DEVICE)
    said = {"text": ["a red heart", "dog"], "negative": "blurry", "steps": 2, "solver": "euler", "seed": 3}
    with torch.no_grad():
        same(rv.sample(there, **said), rv.sample(here, **said))


SEQUENCES = [
    PixelCNNConfig(levels=4, width=6, depth=2),
    PixelCNNppConfig(levels=4, width=6, depth=1, components=2),
    PixelRNNConfig(levels=4, width=6, depth=1, kind="diagonal"),
    SubPixelConfig(levels=4, width=16, depth=1, heads=2),
    TileConfig(levels=4, patch=2, codes=5, width=16, depth=1, heads=2),
]


@pytest.mark.parametrize("config", SEQUENCES, ids=lambda config: config.name)
def test_every_sequence_is_drawn_the_same(config):
    spec = DataSpec((3, 4, 4), {"label": Label(CLASSES)}, tuple("abcd"), "made")
    here = config.build(spec, 0)
    shaken(here.net)
    there = copy.deepcopy(here).to(DEVICE)
    cond = rv.Cond(label=[1, 2])
    same(rv.sample(there, cond=cond, seed=3), x := rv.sample(here, cond=cond, seed=3))
    if config.name != "tile":
        same(there.log_prob(x.to(DEVICE), cond), here.log_prob(x, cond))


@pytest.mark.parametrize("name", MODELS)
def test_every_network_draws_the_same(name):
    denoise = MODELS[name]()
    cond = condition(denoise)
    with torch.no_grad():
        here = rv.sample(denoise, 2, cond, steps=3)
        same(rv.sample(denoise.to(DEVICE), 2, cond, steps=3), here)


@pytest.mark.parametrize(
    "schedule", [Table.linear(), Table.linear(20).zero_terminal(), Custom(lambda t: 1 - t, lambda t: t)]
)
def test_a_path_of_tensors_is_that_of_floats(schedule):
    t = torch.tensor([0.2035, 0.5512, 0.9044])
    for name in ("alpha", "sigma", "d_alpha", "d_sigma", "lam"):
        f = getattr(schedule, name)
        same(f(t.to(DEVICE)), torch.tensor([f(float(v)) for v in t]), 2e-5)
    same(schedule.t_of_lam(schedule.lam(t).to(DEVICE)), t, 1e-4)


def test_noise_pictures_and_walks_come_along(dit, there):
    for arguments in (
        {"x": X, "start": 0.5, "steps": 3},
        {"x": torch.randn(2, 3, 8, 8), "steps": 3},
        {"n": 2, "steps": 3, "tape": brownian.BrownianTape, "solver": "stochastic"},
        {"n": 2, "walk": walks.repaint(grids.logistic()(Flow(), 6), 2, 2), "solver": "ddpm"},
    ):
        same(rv.sample(there, **arguments), rv.sample(dit, **arguments))
    same(rv.sample(there.under(VP()), 2, steps=3), rv.sample(dit.under(VP()), 2, steps=3))


@pytest.mark.parametrize("solver", [None, rv.solve.DDIM()])
def test_inversion_and_round_trips(dit, there, solver):
    same(rv.invert(there, X, steps=3, solver=solver), rv.invert(dit, X, steps=3, solver=solver))
    trips = [rv.solve.round_trip(model, X, steps=3, solver=solver) for model in (there, dit)]
    same(trips[0].reconstruction, trips[1].reconstruction)


@pytest.mark.parametrize("solver", [rv.solve.RK45(rtol=1e-2, atol=1e-2), rv.solve.Heun("straight")])
@pytest.mark.parametrize("trace", ["hutchinson", "exact"])
def test_likelihoods(solver, trace):
    denoise = MODELS["codes"]()
    x = torch.randn(2, 6)
    here = rv.log_prob(denoise, x, solver=solver, steps=3, trace=trace)
    same(rv.log_prob(denoise.to(DEVICE), x, solver=solver, steps=3, trace=trace), here, 1e-3)


def test_the_variational_bound_and_codes(dit, there):
    bounds = [rv.solve.variational_bound(model, X, steps=4).total for model in (there, dit)]
    same(bounds[0], bounds[1])
    same(rv.solve.dequantise(X.to(DEVICE)), rv.solve.dequantise(X))
    same(rv.solve.slerp(X[:1].to(DEVICE), X[1:].to(DEVICE), 0.3), rv.solve.slerp(X[:1], X[1:], 0.3))
    same(rv.solve.initial(there, 2), rv.solve.initial(dit, 2))


def test_calibration():
    here = MODELS["vectors"]()
    models = (copy.deepcopy(here).to(DEVICE), here)
    plans = [rv.solve.calibrate(m, 3, budget=2_500, trajectories=16, progress=None) for m in models]
    assert plans[0].nodes == pytest.approx(plans[1].nodes, abs=1e-3) and plans[0].ratio == pytest.approx(
        plans[1].ratio, abs=1e-2
    )


def test_a_closed_form_moves_too():
    mean, spread = torch.zeros(2, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    mean[1] = 1.0
    mixture = exact.GaussianMixture(torch.ones(2), mean, spread, labels=[0, 1])
    for denoise in (mixture.denoiser(Flow()), exact.Empirical(mean, Flow(), labels=[0, 1])):
        here = rv.sample(denoise, 2, rv.Cond(label=1), steps=3).float()
        same(rv.sample(denoise.to(DEVICE), 2, rv.Cond(label=1), steps=3), here)


WITHOUT_WAITING: dict[str, Callable[[NetDenoiser], Denoiser]] = {
    "plain": lambda d: d,
    "cfg": lambda d: rv.guide.cfg(d, 3.0),
    "cfg by sample": lambda d: rv.guide.cfg(d, torch.tensor([1.5, 3.0])),
    "interval": lambda d: rv.guide.cfg(d, 3.0, (-2.0, 4.0)),
    "rescaled": lambda d: rv.guide.rescaled(d, 3.0),
    "apg": lambda d: rv.guide.apg(d, 3.0, radius=2.0),
    "threshold": lambda d: rv.guide.threshold(rv.guide.cfg(d, 3.0)),
    "auto": lambda d: rv.guide.auto(d, rv.guide.without(d, ["blocks.1"]), 2.0),
    "windows": lambda d: rv.guide.windows(d, (8, 12), 4),
    "under": lambda d: d.under(VP()),
}


@pytest.mark.parametrize("guide", WITHOUT_WAITING)
@pytest.mark.parametrize("solver", ["auto", "stochastic", "heun"])
def test_no_step_waits_for_the_device(there, guide, solver):
    """As many reads for 9 steps as for 4."""

    def waits(steps: int) -> int:
        denoise = WITHOUT_WAITING[guide](there)
        with torch.no_grad(), waiting() as device:
            rv.sample(denoise, cond=rv.Cond(label=[1, 2]), solver=solver, steps=steps)
            return device.waits

    waits(4)  # in which the network is probed, once
    assert waits(9) == waits(4)


def test_what_a_denoiser_holds_moves_with_it(dit):
    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

    denoise = copy.deepcopy(dit)
    denoise.space, denoise.conditioner.text = rv.spaces.PatchPCA(3, 4, 6), Reader()
    weak = copy.deepcopy(dit)
    guided = rv.guide.threshold(rv.guide.auto(rv.guide.cfg(denoise, 2.0), weak, 2.0))
    assert guided.to(DEVICE, torch.bfloat16) is guided
    assert guided.device.type == NAME and weak.device.type == NAME and weak.weight.dtype == torch.bfloat16
    assert denoise.space.scale.device.type == NAME and denoise.conditioner.text.weight.dtype == torch.bfloat16
    assert guided.to("cpu") is guided and denoise.device.type == "cpu" and denoise.weight.dtype == torch.bfloat16
    assert of(rv.nets.UNetConfig(width=8), CLASSES).to(dtype=torch.float64).weight.dtype == torch.float64
