"""Objects steered by the attention to their token: maps with known properties, and a network whose attention moves."""

import pytest
import torch

from reverie import guide, nets
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Cosine
from reverie.guide.attention import Seen, appearance, centroid, look, outline, position, shape, size
from reverie.nets import DiTConfig, UNetConfig
from reverie.solve import DDIM, sample


def painter(seed: int = 0) -> NetDenoiser:
    """A small U-Net that reads three tokens, with random weights."""
    torch.manual_seed(seed)
    config = UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=2, context=8, length=3)
    net = nets.build(config, channels=1, size=8)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.2 * parameter[0].numel() ** -0.5)
    return NetDenoiser(net.eval().requires_grad_(False), Cosine(), "v", shape=(1, 8, 8))


TEXT = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(5)) * 3.0
SITE = "up.0.0"


def blob(y: float, x: float, n: int = 32, width: float = 0.08) -> torch.Tensor:
    line = (torch.arange(n) + 0.5) / n
    return torch.exp(-((line[:, None] - y) ** 2 + (line - x) ** 2) / (2 * width**2))[None]


def test_properties_of_maps_that_are_known():
    maps = torch.stack([blob(0.3, 0.7), 1.0 - blob(0.3, 0.7)], dim=1)
    seen = Seen({"a": maps, "b": torch.nn.functional.avg_pool2d(maps, 2)}, {})
    assert torch.allclose(centroid(maps[:, 0]), torch.tensor([[0.3, 0.7]]), atol=0.01)
    assert float(position(0, (0.3, 0.7))(seen)) < 0.02
    assert float(position(0, (0.5, 0.2))(seen)) == pytest.approx(0.7, abs=0.02)
    small, large = (float(outline(blob(0.5, 0.5, width=w)).mean()) for w in (0.08, 0.2))
    half = 2 * torch.pi * 0.08**2 * torch.log(torch.tensor(2.0))  # the disc above half the height
    assert small == pytest.approx(float(half), rel=0.4)
    assert large > 3 * small
    assert float(size(0, small)(seen)) < 0.01 < float(size(0, large)(seen))
    target = outline(blob(0.3, 0.7))
    assert float(shape(0, target)(seen)) < 0.02 < float(shape(0, outline(blob(0.7, 0.3)))(seen))
    picture = torch.stack([blob(0.3, 0.7, 16)[0], torch.ones(16, 16)])[None]
    seen = Seen({"a": maps}, {"f": picture})
    value = appearance(seen, 0, "f")
    assert float(value[0, 1]) == pytest.approx(1.0)
    assert float(value[0, 0]) > 3 * float(picture[0, 0].mean())
    assert float(look(0, value, "f")(seen)) < 1e-6


def test_the_maps_are_the_attention_of_the_network():
    """Probabilities over tokens: they sum to one at every place; and the estimate is the base's own."""
    base, x = painter(), torch.randn(2, 1, 8, 8)
    guided = guide.attention(base, position(0, (0.5, 0.5)))
    estimate, seen = guided.look_at(x, base.schedule.point(0.5), Cond(text=TEXT))
    assert torch.allclose(estimate.out, base(x, 0.5, Cond(text=TEXT)).out, atol=1e-6)
    assert {tuple(a.shape[1:]) for a in seen.maps.values()} == {(3, 8, 8), (3, 4, 4)}
    for a in seen.maps.values():
        assert torch.allclose(a.sum(1), torch.ones_like(a[:, 0]), atol=1e-5)


@pytest.mark.parametrize("guided_by", ["position", "size", "look"])
def test_a_step_along_the_guidance_lowers_the_energy(guided_by):
    base, x, cond = painter(), torch.randn(3, 1, 8, 8), Cond(text=TEXT)
    goal = torch.zeros(1, 32)
    energy = {"position": position(1, (0.1, 0.9)), "size": size(1, 0.9), "look": look(1, goal, SITE)}[guided_by]
    guided = guide.attention(base, energy, 1.0, [SITE] if guided_by == "look" else [])
    point = base.schedule.point(0.5)
    direction = guided(x, point, cond).score - base(x, point, cond).score

    def at(x):
        return energy(guided.look_at(x, point, cond)[1])

    step = 0.02 * direction / direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    assert (at(x + step) < at(x)).all()
    assert (at(x - step) > at(x)).all()


def test_sampling_moves_the_object_and_only_as_told():
    base, cond = painter(), Cond(text=TEXT)
    point = base.schedule.point(0.5)

    def where(scale, to, inner=lambda d: d):
        guided = guide.attention(inner(base), position(1, to), scale)
        x = sample(guided, 6, cond, DDIM(), 12, seed=1)
        _, seen = guide.attention(base, position(1, to)).look_at(x, point, cond)
        return torch.stack([centroid(a[:, 1]) for a in seen.maps.values()]).mean((0, 1)), x

    free, untouched = where(0.0, (0.1, 0.1))
    assert torch.allclose(untouched, sample(base, 6, cond, DDIM(), 12, seed=1), atol=1e-5)
    up, _ = where(60.0, (0.0, 0.0))
    down, _ = where(60.0, (1.0, 1.0))
    assert (up < free - 0.004).all() and (down > free + 0.004).all()
    first, _ = where(60.0, (0.0, 0.0), lambda d: guide.cfg(d, 1.5))
    second, _ = where(60.0, (1.0, 1.0), lambda d: guide.cfg(d, 1.5))
    assert (first < second - 0.008).all()


def test_per_sample_and_cost():
    base, cond = painter(), Cond(text=TEXT)
    guided = guide.attention(base, position(1, (0.2, 0.2)), 5.0)
    x = torch.randn(3, 1, 8, 8)
    together = guided(x, 0.5, cond).out
    assert torch.allclose(together[1:2], guided(x[1:2], 0.5, cond).out, atol=1e-5)
    drawn, report = sample(guided, 2, cond, DDIM(), 5, report=True)
    assert report.evaluations == 5
    assert 4 <= report.backwards + 5 <= 10  # the pass back goes through attention, not through the output
    assert not drawn.requires_grad


def test_mistakes_are_named():
    net = nets.build(DiTConfig(patch=4, width=16, depth=1, heads=2), channels=1, size=8, classes=2)
    without = NetDenoiser(net, Cosine(), "v", shape=(1, 8, 8))
    with pytest.raises(InputError, match=r"cross-attention"):
        guide.attention(without, position(0, (0.5, 0.5)))(torch.zeros(1, 1, 8, 8), torch.tensor(0.5), Cond(label=1))
    with torch.no_grad(), pytest.raises(InputError, match=r"no_grad"):
        guide.attention(painter(), position(0, (0.5, 0.5)))(torch.zeros(1, 1, 8, 8), 0.5, Cond(text=TEXT))
