"""Adversarial models: their losses and penalties in closed form, and what they draw whatever the batch."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.families import interpolate, mix
from reverie.families.dcgan import Normalise
from reverie.families.gan import GAN, Duel, Painter, critic_loss, generator_loss
from reverie.families.gan_config import (
    AdversarialConfig,
    DCGANConfig,
    R3GANConfig,
    StyleGAN2Config,
    StyleGANConfig,
    TruncatedConfig,
)

CONFIGS = [
    DCGANConfig(dims=6, width=4),
    R3GANConfig(dims=6, width=4),
    StyleGANConfig(dims=6, width=4, mapping=2),
    StyleGAN2Config(dims=6, width=4, mapping=2),
]
SPEC = DataSpec((1, 8, 8), {"label": Label(3)}, ("a", "b", "c"))
GRID = torch.linspace(-12, 12, 4001, dtype=torch.float64)


def named(config: AdversarialConfig) -> str:
    return config.name


def shaken(config: AdversarialConfig, spec: DataSpec = SPEC) -> GAN:
    """A model in which nothing is zero, as after training."""
    model = config.build(spec, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in (*model.net.parameters(), *model.critic.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    model.net.eval(), model.critic.eval()
    return model


def density(mean: float) -> torch.Tensor:
    """A unit normal's mass at each point of the grid."""
    mass = torch.exp(-0.5 * (GRID - mean).square())
    return mass / mass.sum()


def best(p: torch.Tensor, q: torch.Tensor) -> tuple[float, float, float]:
    """The logistic critic a + b·x of least loss on real pictures of density p and drawn ones of density q, and that loss."""
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        rating = weights[0] + weights[1] * GRID
        parts = critic_loss("non-saturating", rating, rating)
        return (p * parts["real"] + q * parts["fake"]).sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        (value := loss()).backward()
        return value

    optimizer.step(closure)
    return weights[0].item(), weights[1].item(), loss().item()


def test_the_optimal_critic_of_two_densities_is_p_over_p_plus_q():
    p, q = density(0.5), density(-1.0)
    a, b, loss = best(p, q)
    share = p / (p + q)
    torch.testing.assert_close(torch.sigmoid(a + b * GRID), share, atol=1e-5, rtol=0)
    middle = (p + q) / 2
    divergence = 0.5 * ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum())
    assert -loss == pytest.approx(float(2 * divergence) - math.log(4), abs=1e-9)  # Goodfellow et al. 2014, theorem 1
    assert -best(p, p)[2] == pytest.approx(-math.log(4), abs=1e-12)
    twice, *_ = best(2 * p, q)
    assert twice == pytest.approx(a + math.log(2), abs=1e-4)  # a critic that sees more real pictures is another one


def test_losses_by_hand():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    log = [math.log(1 + math.exp(v)) for v in (-1.5, 4.0, 1.5, -4.0, -2.0, 1.0, 0.5, 3.0, -0.5, -3.0)]
    expected = torch.tensor(log).reshape(5, 2)  # of: D(G)−D, D−D(G), −D, D(G), −D(G)
    torch.testing.assert_close(critic_loss("relativistic", real, fake)["real_over_fake"], expected[0])
    torch.testing.assert_close(generator_loss("relativistic", fake, real), expected[1])
    for loss in ("minimax", "non-saturating"):
        parts = critic_loss(loss, real, fake)
        torch.testing.assert_close(parts["real"], expected[2])
        torch.testing.assert_close(parts["fake"], expected[3])
    torch.testing.assert_close(generator_loss("non-saturating", fake), expected[4])
    torch.testing.assert_close(generator_loss("minimax", fake), -expected[3])


class Linear(Painter):
    """A picture (1, 2, 2) that is linear in z."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.map = 3, nn.Linear(3, 4)

    def paint(self, codes, label, noise):
        return self.map(codes).unflatten(1, (1, 2, 2))


class Slope(nn.Module):
    """``D(x) = w·x``, or ``½‖x‖²``."""

    def __init__(self, curved: bool) -> None:
        super().__init__()
        self.w, self.curved = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0])), curved

    def forward(self, x, label):
        return 0.5 * x.flatten(1).square().sum(1) if self.curved else x.flatten(1) @ self.w


def duel(curved: bool = False, **settings) -> Duel:
    torch.manual_seed(0)
    return Duel(GAN(Linear(), Slope(curved), DataSpec((1, 2, 2))), [], **settings)  # pyright: ignore[reportArgumentType]


BATCH = Batch(torch.linspace(-1, 1, 20).reshape(5, 1, 2, 2))


def parts(task: Duel, step: int = 0, player: str = "critic") -> dict[str, torch.Tensor]:
    return task.loss(player, BATCH, Draws(0, 0, 5), Moment(step, 0, 1))


def test_the_penalties_are_those_of_the_slope():
    task = duel(r1=3.0, r2=5.0)
    found, w = parts(task), task.gan.critic.w
    square = w.detach().square().sum()
    torch.testing.assert_close(found["r1"], (1.5 * square).expand(5))
    torch.testing.assert_close(found["r2"], (2.5 * square).expand(5))
    (gradient,) = torch.autograd.grad(found["r1"].mean(), w)
    torch.testing.assert_close(gradient, 3.0 * w.detach())
    task = duel(curved=True, r1=2.0, r2=2.0)
    found, (_, fake) = parts(task), task.draw(BATCH, Draws(0, 0, 5))
    torch.testing.assert_close(found["r1"], BATCH.x.flatten(1).square().sum(1))
    torch.testing.assert_close(found["r2"], fake.detach().flatten(1).square().sum(1))
    assert not torch.allclose(found["r1"], found["r2"])
    assert parts(duel()).keys() == {"real", "fake"}


def test_a_lazy_penalty_is_on_average_that_of_every_step():
    always = parts(duel(r1=3.0))["r1"].mean().item()
    lazy = [parts(duel(r1=3.0, every=4), step).get("r1", torch.zeros(1)).mean().item() for step in range(8)]
    assert sum(lazy) / 8 == pytest.approx(always) and lazy.count(0.0) == 6
    assert lazy[0] == 0.0 and max(lazy) != pytest.approx(always)


def test_the_players_do_not_move_each_other():
    task = duel(loss="relativistic", r1=1.0, r2=1.0)
    sum(v.mean() for v in parts(task).values()).backward()
    assert task.gan.net.map.weight.grad is None and task.gan.critic.w.grad is not None
    task = duel(loss="relativistic")
    task.gan.critic.requires_grad_(False)
    parts(task, player="generator")["fool"].mean().backward()
    assert task.gan.net.map.weight.grad.abs().max() > 0


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_a_sample_is_the_same_in_any_batch(config):
    model = shaken(config, DataSpec((1, 16, 16), SPEC.conditions, SPEC.classes))  # with a layer of each kind
    cond = Cond(label=[0, 1, 2, 1])
    x = rv.sample(model, cond=cond, seed=5)
    assert x.shape == (4, 1, 16, 16) and x.abs().max() <= 1 and x.std() > 0.01
    torch.testing.assert_close(rv.sample(model, cond=cond, seed=5, batch_size=3), x, atol=1e-5, rtol=0)
    alone = rv.sample(model, cond=Cond(label=2), seed=[(5, 2)])
    torch.testing.assert_close(alone, x[2:3], atol=1e-5, rtol=0)
    assert not torch.allclose(rv.sample(model, cond=Cond(label=1), seed=[(5, 2)]), alone, atol=1e-3)
    if config.name == "dcgan":
        model.net.train()  # statistics of the batch
        assert not torch.allclose(rv.sample(model, cond=cond, seed=5, batch_size=2), x, atol=1e-2)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 48), (1, 8, 8), (1, 5, 7)])
@pytest.mark.parametrize("labels", [False, True])
def test_pictures_of_many_sizes(config, shape, labels):
    if config.name == "r3gan" and shape[1] % 2:
        with pytest.raises(InputError, match="not made of squares of 2 pixels"):
            config.build(DataSpec(shape), 0)
        return
    spec = DataSpec(shape, {"label": Label(3)}, tuple("abc")) if labels else DataSpec(shape)
    model = config.build(spec, 0)
    cond = Cond(label=1) if labels else None
    x = rv.sample(model, 2, cond)
    assert x.shape == (2, *shape) and not torch.equal(x[0], x[1])
    label = torch.tensor([0, 1]) if labels else None
    assert model.critic(x, label).shape == (2,)
    if labels:
        with pytest.raises(InputError, match="cannot draw without a label"):
            rv.sample(model, 2)


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match=r"adversarial model draws pictures \(C, H, W\): got data of shape \(7,\)"):
        DCGANConfig().build(DataSpec((7,)), 0)
    with pytest.raises(InputError, match="50x50 come down to 25x25 by halving"):
        StyleGAN2Config().build(DataSpec((1, 50, 50)), 0)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_paths_end_where_the_samples_are(config):
    model = shaken(config)
    path = interpolate(model, (3, 4), 5, Cond(label=1))
    assert path.shape == (5, 1, 8, 8)
    torch.testing.assert_close(path[0], rv.sample(model, 1, Cond(label=1), seed=[3])[0], atol=1e-5, rtol=0)
    if not model.net.noise:
        torch.testing.assert_close(path[-1], rv.sample(model, 1, Cond(label=1), seed=[4])[0], atol=1e-5, rtol=0)
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert steps.max() < (path[-1] - path[0]).norm() * 1.2 and steps.min() > 0
    if model.net.straight:
        across = interpolate(model, (3, 3), 2, Cond(label=[0, 1]))
        torch.testing.assert_close(across[1], path[0], atol=1e-5, rtol=0)
        assert not torch.allclose(across[0], path[0], atol=1e-3)
    else:
        with pytest.raises(InputError, match="only styles are joined across classes"):
            interpolate(model, (3, 4), 5, Cond(label=[0, 1]))
    with pytest.raises(InputError, match="steps is at least 2"):
        interpolate(model, (3, 4), 1, Cond(label=1))


def test_a_path_in_z_keeps_its_length():
    class Code(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.dims = 400
            self.map = nn.Linear(400, 4)
            self.seen = torch.zeros(0)

        def paint(self, codes, label, noise):
            self.seen = codes
            return super().paint(codes, label, noise)

    model = GAN(Code(), Slope(False), DataSpec((1, 2, 2)))
    interpolate(model, (0, 1), 9)
    norms = model.net.seen.norm(dim=1)
    straight = (0.5 * (model.net.seen[0] + model.net.seen[-1])).norm()
    assert norms.max() / norms.min() < 1.15 and straight < 0.8 * norms.min()


@pytest.mark.parametrize("config", CONFIGS[2:], ids=named)
def test_styles_are_mixed_by_layer(config):
    model = shaken(config)
    with torch.no_grad():
        for name, p in model.net.named_parameters():
            if name.endswith("strength"):
                p.zero_()
    coarse, fine, a, b = [1, 2], [7, 8, 9], Cond(label=0), Cond(label=2)
    above = torch.cat([rv.sample(model, 1, a, seed=[s]) for s in coarse])
    below = torch.cat([rv.sample(model, 1, b, seed=[s]) for s in fine])
    grid = mix(model, coarse, fine, model.net.layers, a, b)
    assert grid.shape == (2, 3, 1, 8, 8)
    torch.testing.assert_close(grid, above[:, None].expand_as(grid), atol=1e-5, rtol=0)
    torch.testing.assert_close(mix(model, coarse, fine, 0, a, b), below[None].expand_as(grid), atol=1e-5, rtol=0)
    between = mix(model, coarse, fine, 2, a, b)
    assert not torch.allclose(between, above[:, None], atol=1e-3) and not torch.allclose(between, below, atol=1e-3)
    with pytest.raises(InputError, match="mixed from a layer 0 to 3 on: got 4"):
        mix(model, coarse, fine, 4, a, b)
    with pytest.raises(InputError, match="only a StyleGAN"):
        mix(shaken(CONFIGS[0]), coarse, fine, 1, a, b)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("config", CONFIGS[2:], ids=named)
def test_noise_and_truncation(config):
    model = config.build(SPEC, 0)
    model.net.eval()
    model.net.centre.normal_()
    z, cond, label = torch.randn(2, 6), Cond(label=[0, 1, 1]), torch.tensor([0, 1])
    two = [model.net.paint(model.net.codes(z, label), label, torch.randn(2, model.net.noise)) for _ in range(2)]
    assert torch.equal(*two)  # noise has no strength yet
    for name, p in model.net.named_parameters():
        if name.endswith("strength"):
            nn.init.constant_(p, 0.3)
    two = [model.net.paint(model.net.codes(z, label), label, torch.randn(2, model.net.noise)) for _ in range(2)]
    assert not torch.allclose(*two, atol=1e-3)
    w = model.net.codes(z, label)
    half = config.generator(model, TruncatedConfig(truncation=0.5)).codes(z, label)
    torch.testing.assert_close(half, 0.5 * (w + model.net.centre[label]))
    assert model.truncated(0.3).settings() == {"truncation": 0.3} and model.settings() == {"truncation": 1.0}
    model = config.generator(config.build(SPEC, 0), TruncatedConfig(truncation=0.0))
    model.net.centre.normal_()
    x = rv.sample(model, cond=cond)
    assert torch.allclose(x[1], x[2], atol=1e-5) and not torch.allclose(x[0], x[1], atol=1e-4)


def test_the_mean_style_follows_its_class():
    net = shaken(CONFIGS[2]).net
    w = torch.randn(4, 6)
    net.centre.fill_(1.0)
    net.follow(w, torch.tensor([0, 0, 2, 0]))
    torch.testing.assert_close(net.centre[0], 0.995 + 0.005 * w[[0, 1, 3]].mean(0))
    torch.testing.assert_close(net.centre[2], 0.995 + 0.005 * w[2])
    assert net.centre[1].eq(1.0).all()


def test_a_dcgan_is_told_the_class_as_scale_and_shift_of_what_is_normalised():
    torch.manual_seed(0)
    x, label = torch.randn(6, 4, 3, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    told = Normalise(4, 3)
    h = F.batch_norm(x, None, None, told.batch.weight, told.batch.bias, training=True)
    scale, shift = told.classes.weight[label].chunk(2, dim=1)
    expected = h + h * scale[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(told(x, label), expected)
    assert not torch.allclose(told(x, label.roll(1)), expected, atol=0.1)  # of other classes
    blind = Normalise(4, 0)
    torch.testing.assert_close(blind(x, None), h)
