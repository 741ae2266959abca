"""What the trained network of the polar digits knows, held to figures that a fake would miss: an untrained network is the control.

An untrained U-Net beats the pixels by far here, so only what exceeds it counts.
"""

import polar
import pytest
import torch
from torch.nn import functional as F

import reverie as rv
from reverie.read import correspond, probe, segment, untrained

pytestmark = pytest.mark.slow
T = (0.02, 0.1, 0.25, 0.8)
NEAR_NOISE = 0.8


@pytest.fixture(scope="module")
def models():
    trained = polar.train()
    return {"trained": trained, "untrained": untrained(trained)}


@pytest.fixture(scope="module")
def bed():
    return polar.bed()


@pytest.fixture(scope="module")
def accuracies(models, bed):
    """Linear probes on 2x2 pooled features from 300 labels, by model and cell."""
    train, test = bed
    rows = probe.few(train.labels, 300, seed=0)
    found = {}
    for name, model in models.items():
        known, asked = (
            rv.read.features(model, x, t=list(T), noise=2, pool=2, seed=s, batch_size=300)
            for s, x in enumerate((train.images[rows], test.images))
        )
        fitted = {cell: probe.linear(known[cell], train.labels[rows]) for cell in known}
        found[name] = {cell: fitted[cell].accuracy(asked[cell], test.labels) for cell in known}
    pixels = probe.linear(train.images[rows], train.labels[rows]).accuracy(test.images, test.labels)
    return found, pixels


def test_training_adds_to_what_an_untrained_network_reads_off(accuracies):
    found, pixels = accuracies
    best = {name: max(cells.values()) for name, cells in found.items()}
    assert best["trained"] >= best["untrained"] + 0.08, best
    assert best["trained"] >= pixels + 0.4, (best, pixels)
    assert best["untrained"] > pixels + 0.1  # the control is no straw man


def test_knowledge_lies_in_the_middle_at_little_noise(accuracies):
    found, _ = accuracies
    site, t = max(found["trained"], key=lambda cell: found["trained"][cell])
    assert t <= 0.25
    assert site not in ("down.0.0", "up.1.1")
    assert max(value for (_, t), value in found["trained"].items() if t == NEAR_NOISE) < 0.25


def test_pooling_less_never_costs_much(models, bed):
    train, test = bed
    rows = probe.few(train.labels, 300, seed=0)
    readings = rv.read.gdc.sweep(
        models["trained"],
        train.images[rows],
        train.labels[rows],
        test.images,
        test.labels,
        sites=["middle.0"],
        t=[0.05],
        pools=(1, 2, 4),
        heads=("linear",),
        noise=1,
    )
    one, two, four = (next(r.accuracy for r in readings if r.pool == p) for p in (1, 2, 4))
    assert two >= one - 0.02
    assert four >= two - 0.02


def test_segmentation_from_sixty_pictures(models, bed):
    train, test = bed

    def masks(part, n):
        return torch.where(part.strokes[:n], part.labels[:n, None, None] + 1, 0)

    def learn(features, asked, members=3):
        ensemble = segment.Ensemble(features.shape[1], 11, members)
        ensemble.fit(features, masks(train, 60), epochs=12)
        return ensemble(asked)

    truth, found = masks(test, 150), {}
    little, much, sites = (0.05, 0.15), (0.8, 0.9), ["middle.0", "up.0.1", "up.1.1"]
    for name, which, t in (
        ("trained", "trained", little),
        ("untrained", "untrained", little),
        ("noise", "trained", much),
    ):
        parts = (train.images[:60], test.images[:150])
        found[name] = learn(*(segment.pixels(models[which], images, sites, t) for images in parts))
    windows = [F.unfold(part.images[:n], 5, padding=2).unflatten(2, (8, 8)) for part, n in ((train, 60), (test, 150))]
    found["window"] = learn(*windows)
    score = {name: segment.miou(s.classes, truth, 11) for name, s in found.items()}
    assert score["trained"] >= score["untrained"] + 0.08, score
    assert score["trained"] >= score["window"] + 0.2, score
    assert score["trained"] >= score["noise"] + 0.2, score
    members = found["trained"].members
    assert (members != found["trained"].classes).any()
    alone = [segment.miou(member, truth, 11) for member in members]
    assert score["trained"] >= sum(alone) / len(alone) - 0.01


def test_correspondence_under_a_turn(models, bed):
    """Each digit and itself turned, scaled and with other contrast: where did its stroke pixels go."""
    _, test = bed
    rng = torch.Generator().manual_seed(0)
    n = 60
    angle, scale = (torch.rand(n, generator=rng) - 0.5) * 0.7, 1 + 0.3 * (torch.rand(n, generator=rng) - 0.5)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([cos, -sin, sin, cos], 1).reshape(n, 2, 2)
    a = test.images[:n]
    grid = F.affine_grid(torch.cat([turn, torch.zeros(n, 2, 1)], 2), [n, 1, 8, 8], align_corners=False)
    b = F.grid_sample(a, grid, padding_mode="border", align_corners=False)
    b = b * (0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=rng))
    a, b = ((x + 0.5 / polar.SCALE * torch.randn(x.shape, generator=rng)).clamp(-1, 1) for x in (a, b))

    def score(model, site, noises):
        u, v = (correspond.dift(model, x, site, t=0.1, noises=noises, seed=s) for s, x in enumerate((a, b)))
        found, truth = [], []
        for i in range(n):
            y, x = test.strokes[i].nonzero(as_tuple=True)
            points = torch.stack([x, y], 1)
            centred = (points + 0.5) / 4 - 1
            there = (centred @ torch.linalg.inv(turn[i]).T + 1) * 4 - 0.5  # the sample at p shows the source at turn·p
            inside = ((there >= 0) & (there <= 7)).all(1)
            found.append(correspond.match(u[i], v[i], points[inside], (8, 8))[0])
            truth.append(there[inside])
        return correspond.pck(found, truth, [8.0] * n, alpha=0.1).per_point

    best = {name: max(score(model, site, 8) for site in ("up.1.0", "up.1.1")) for name, model in models.items()}
    assert best["trained"] >= best["untrained"] + 0.03, best
    assert best["trained"] >= max(score(models["trained"], site, 1) for site in ("up.1.0", "up.1.1")), best
