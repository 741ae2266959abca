"""Models of a picture as a sequence: what each number is computed from, and that all ways to its probability agree."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, logistic
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.data.tensors import TensorSet
from reverie.families import mixture
from reverie.families.autoregressive import Autoregressive, side_by_side, walk
from reverie.families.causal import CausalConv, Memory
from reverie.families.config import (
    AutoregressiveConfig,
    ChoiceConfig,
    PixelCNNConfig,
    PixelCNNppConfig,
    PixelRNNConfig,
    SubPixelConfig,
    TileConfig,
)
from reverie.families.layout import Layout
from reverie.families.pixelrnn import RowLSTM
from reverie.families.tile import fit_codebook
from reverie.families.transformer import Cache
from reverie.solve.likelihood import dequantise

CLASSES = 4
MODELS: dict[str, Callable[..., AutoregressiveConfig]] = {
    "pixelcnn": lambda **kw: PixelCNNConfig(width=20, depth=3, **kw),
    "pixelcnnpp": lambda **kw: PixelCNNppConfig(width=8, depth=2, components=3, **kw),
    "pixelrnn row": lambda **kw: PixelRNNConfig(width=16, depth=2, **kw),
    "pixelrnn diagonal": lambda **kw: PixelRNNConfig(kind="diagonal", width=12, depth=2, **kw),
    "subpixel": lambda **kw: SubPixelConfig(width=16, depth=2, heads=2, **kw),
    "tile mixture": lambda **kw: TileConfig(head="mixture", patch=2, components=3, width=16, depth=2, heads=2, **kw),
    "tile codebook": lambda **kw: TileConfig(patch=2, codes=9, width=16, depth=2, heads=2, **kw),
}
EXACT = [name for name in MODELS if name != "tile codebook"]
SHAPES = [(1, 6, 8), (3, 4, 6)]


def of(name: str, shape: tuple[int, ...] = (1, 6, 8), levels: int = 7, classes: int = CLASSES) -> Autoregressive:
    """A model, none of whose weights is small, in double precision."""
    conditions = {"label": Label(classes)} if classes else {}
    spec = DataSpec(shape, conditions, tuple(map(str, range(classes))), "made")
    model = MODELS[name](levels=levels).build(spec, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.net.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
        if name == "tile codebook":
            model.net.codebook.uniform_(-1, 1, generator=generator)
    model.net.eval().requires_grad_(False)
    return model.to(dtype=torch.float64)


def some(model: Autoregressive, n: int = 4) -> Tensor:
    return torch.randint(0, model.net.choices, (n, model.net.length), generator=torch.Generator().manual_seed(2))


LABELS = Cond(label=[0, 1, 2, 3])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_at_a_time_is_the_pass_over_all(name: str, shape: tuple[int, ...]):
    model, said = of(name, shape), []
    tokens = some(model)

    def follow(i: int, log_p: Tensor) -> Tensor:
        assert log_p.exp().sum(1).sub(1.0).abs().max() < 1e-9
        said.append(log_p.gather(1, tokens[:, i : i + 1])[:, 0])
        return tokens[:, i]

    with torch.no_grad():
        walk(model.net, 4, LABELS, follow)
    summed = torch.stack(said).sum(0)
    assert torch.allclose(model.nats(tokens, LABELS), summed, rtol=0, atol=1e-9)
    other = model.nats(tokens, Cond(label=[1, 2, 3, 0]))
    assert (other - summed).abs().min() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_what_is_drawn_costs_what_its_steps_said(name: str, monkeypatch: pytest.MonkeyPatch):
    model, steps = of(name), []

    def spied(n: int, cond: Cond | None):
        chain = type(model.net).chain(model.net, n, cond)
        log_p = next(chain)
        while True:
            token = yield log_p
            steps.append(log_p.gather(1, token[:, None])[:, 0])
            drawn.append(token)
            log_p = chain.send(token)

    drawn: list[Tensor] = []
    monkeypatch.setattr(model.net, "chain", spied)
    last: list[Tensor] = []
    kept = model.net.picture
    monkeypatch.setattr(model.net, "picture", lambda tokens: last.append(tokens) or kept(tokens))
    model.sample(4, LABELS, seed=3)
    monkeypatch.undo()
    tokens = last[0]
    with torch.no_grad():
        chain = model.net.chain(4, LABELS)
        log_p = next(chain)
        for i in range(model.net.length - 1):
            log_p = chain.send(tokens[:, i])
    total = torch.stack(steps).sum(0) + log_p.gather(1, tokens[:, -1:])[:, 0]
    assert torch.equal(torch.stack(drawn, 1), tokens[:, :-1])
    assert torch.allclose(model.nats(tokens, LABELS), total, rtol=0, atol=1e-9)


def order(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Sub-pixels in raster order, as (colour, row, column)."""
    colours, height, width = shape
    return [(c, y, x) for y in range(height) for x in range(width) for c in range(colours)]


def influence(f: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """(length, length): how much output i, f's (C, N, H, W), depends on number j, both in raster order, by the Jacobian at four points."""
    total = 0.0
    for seed in range(4):  # a rectifier may be off at one
        x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
        total = total + torch.func.jacrev(f)(x).abs().sum(1)  # (C, H, W, C, H, W)
    places = order(shape)
    rows = [[float(total[(*i, *j)]) for j in places] for i in places]
    return torch.tensor(rows)


def outputs(model: Autoregressive, label: int = 1) -> Callable[[Tensor], Tensor]:
    cond, colours = Cond(label=label), model.shape[0]

    def f(x: Tensor) -> Tensor:
        out = model.net(x[None], cond)[0]  # pyright: ignore[reportCallIssue]
        return out.expand(colours, *out.shape) if out.ndim == 3 else out

    return f


def strictly_causal(seen: Tensor, group: int = 1) -> bool:
    """Nothing depends on itself or what comes later; within a group of numbers, on none of it."""
    i = torch.arange(len(seen)) // group
    return bool((seen[i[:, None] <= i[None] if group > 1 else torch.triu(torch.ones_like(seen)).bool()] == 0.0).all())


def sees_all(seen: Tensor, group: int = 1) -> bool:
    i = torch.arange(len(seen)) // group
    return bool((seen[i[:, None] > i[None]] > 0.0).all())


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 4)])
@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnnpp", "pixelrnn row", "pixelrnn diagonal"])
def test_strict_causality_and_no_blind_spot(name: str, shape: tuple[int, ...]):
    seen = influence(outputs(of(name, shape)), shape)
    group = shape[0] if name == "pixelcnnpp" else 1  # the mixture orders the colours of a pixel
    assert strictly_causal(seen, group)
    if not name.startswith("pixelrnn"):
        assert sees_all(seen, group)


def test_the_row_lstm_sees_a_triangle():
    """Figure 4, left: in each row above one pixel more to either side, and one left of these by the input."""
    torch.manual_seed(0)
    layer = RowLSTM(4, 1).double()
    x = torch.randn(1, 4, 5, 13, dtype=torch.float64)
    seen = torch.func.jacrev(lambda x: layer(x)[0, :, 4, 6])(x).abs().sum((0, 1, 2))
    row, column = torch.meshgrid(torch.arange(5), torch.arange(13), indexing="ij")
    triangle = (column >= 6 - (4 - row) - 1) & (column <= 6 + (4 - row))
    assert torch.equal(seen > 0.0, triangle)


def test_the_diagonal_lstm_misses_the_last_pixel_of_the_row_before():
    """Mask A hides it at its own place, and there is none to the right of it; what lies within the first convolution sees it."""
    seen = influence(outputs(of("pixelrnn diagonal", (1, 5, 6))), (1, 5, 6))
    blind = [(1 + y, x, y, 5) for y in range(4) for x in (0, 1)]
    seen = seen.reshape(5, 6, 5, 6)
    for place in blind:
        assert seen[place] == 0.0
        seen[place] = 1.0
    assert sees_all(seen.reshape(30, 30))


@pytest.mark.parametrize(("cycle", "rows"), [(1, 11), (3, 19)])
def test_dilated_layers_see_further(cycle: int, rows: int):
    spec = DataSpec((1, 24, 3), {"label": Label(2)}, ("a", "b"), "made")
    net = PixelCNNConfig(width=4, cycle=cycle, levels=4).build(spec, 0).net.double()
    x = (
        torch.rand(1, 1, 24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ).requires_grad_()
    net(x, Cond(label=1))[..., 23, 1].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 1, 3)) > 0.0).nonzero()[:, 0].tolist() == list(range(23 - rows, 24))


class Naive(nn.Module):
    """One stack of masked convolutions of 3x3, as the first PixelCNN had."""

    def __init__(self, first: str = "A") -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 if i == 0 else 8, 8, 3, padding=1) for i in range(8)).double()
        for i, conv in enumerate(self.convs):
            mask = torch.zeros(3, 3, dtype=torch.float64)
            mask[0], mask[1, 0], mask[1, 1] = 1.0, 1.0, float(i > 0 or first == "B")
            conv.weight.data = conv.weight * mask  # pyright: ignore[reportOperatorIssue]

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.tanh(3.0 * conv(x))
        return x


def test_a_naive_masked_stack_has_a_blind_spot_and_mask_b_leaks():
    naive, leaking = Naive(), Naive("B")
    seen = influence(lambda x: naive(x[None]), (1, 5, 6))
    assert strictly_causal(seen) and not sees_all(seen)
    assert not strictly_causal(influence(lambda x: leaking(x[None]), (1, 5, 6)))


@pytest.mark.parametrize("name", ["subpixel", "tile mixture"])
def test_tokens_are_strictly_causal(name: str):
    """By the Jacobian with respect to what stands for each token, and by changing one number of a picture."""
    model = of(name)
    net, step = model.net, 1 if name == "subpixel" else model.net.layout.values
    count = net.length // step
    x = torch.randn(1, count, 16, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        seen = torch.func.jacrev(net.transformer)(x)[0, :, :, 0].abs().sum((1, 3))
    assert (seen.triu(1) == 0.0).all() and (seen.tril() > 0.0).sum() == count * (count + 1) // 2

    tokens = some(model)
    before = net.log_prob(tokens, LABELS)
    for at in (0, net.length // 2, net.length - 1):
        other = tokens.clone()
        other[:, at] = (other[:, at] + 1) % net.choices
        changed = (net.log_prob(other, LABELS) - before).abs().amax(0) > 1e-9
        assert not changed[: at // step].any() and changed[at // step :].all()


@pytest.mark.parametrize("name", EXACT)
def test_all_binary_pictures_together_have_probability_one(name: str):
    """And the chain, a number at a time, is the joint with all later ones summed out."""
    shape = (1, 2, 4)
    model = of(name, shape, levels=2)
    pictures = torch.tensor(list(itertools.product((0, 1), repeat=8)))
    joint = model.nats(pictures, Cond(label=2)).exp()
    assert abs(float(joint.sum()) - 1.0) < 1e-12
    with torch.no_grad():
        chain = model.net.chain(1, Cond(label=2))
        log_p = next(chain)
        for i, bit in enumerate((1, 0, 1, 1, 0, 0, 1, 0)):
            fits = (pictures[:, :i] == torch.tensor((1, 0, 1, 1, 0, 0, 1, 0)[:i])).all(1)
            conditional = torch.stack([joint[fits & (pictures[:, i] == k)].sum() for k in (0, 1)]) / joint[fits].sum()
            assert torch.allclose(log_p[0].exp(), conditional, atol=1e-10)
            if i < 7:
                log_p = chain.send(torch.tensor([bit]))


def conditionals(model: Autoregressive, cond: Cond, bits: Tensor) -> Tensor:
    """log p(each value of number i | those of ``bits`` before it), (length, 2), by enumerating all pictures."""
    pictures = torch.tensor(list(itertools.product((0, 1), repeat=len(bits))))
    joint, rows = model.nats(pictures, cond).exp(), []
    for i in range(len(bits)):
        fits = (pictures[:, :i] == bits[:i]).all(1)
        rows.append(torch.stack([joint[fits & (pictures[:, i] == k)].sum() for k in (0, 1)]) / joint[fits].sum())
    return torch.stack(rows).log()


@pytest.mark.parametrize("name", EXACT)
def test_guidance_leads_every_number_from_the_null_past_the_label(name: str):
    model, bits, cond = of(name, (1, 2, 4), levels=2), torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]), Cond(label=2)
    told, null = conditionals(model, cond, bits), conditionals(model, cond.null(), bits)
    expected = (null + 2.5 * (told - null)).log_softmax(-1)
    said = []

    def follow(i: int, log_p: Tensor) -> Tensor:
        said.append(log_p)
        return bits[i].expand(len(log_p))

    with torch.no_grad():
        walk(model.net, 3, cond.expand(3), follow, scale=2.5)
    said = torch.stack(said, 1)
    assert said.shape == (3, 8, 2) and torch.allclose(said, expected.expand_as(said), atol=1e-9)
    assert (said - told).abs().max() > 1e-2


def test_labels_are_dropped_for_guidance_and_only_then_are_they_optional():
    spec = DataSpec((1, 4, 4), {"label": Label(CLASSES)}, tuple(map(str, range(CLASSES))), "made")
    batch = Batch(torch.rand(64, 1, 4, 4) * 2 - 1, Cond(label=[1] * 64))
    held_out = TensorSet(batch.x, torch.ones(64, dtype=torch.long))

    def same_as_null(drop: float) -> int:
        config = SubPixelConfig(width=16, depth=1, heads=2, levels=4, drop=drop)
        model = config.build(spec, 0)
        task = config.task(model, held_out, held_out, ChoiceConfig(), 0)
        loss = task.loss("net", batch, Draws(0, 0, 64), Moment(0, 0, 1))["bits"]
        model.unlabelled = True  # also of one that has never dropped any
        return int(
            (model.nats(model.net.tokens(batch.x), batch.cond.null()) * task.per_bit - loss).abs().lt(1e-6).sum()
        )

    assert same_as_null(0.0) == 0 and same_as_null(1.0) == 64 and 8 <= same_as_null(0.25) <= 26
    SubPixelConfig(width=16, depth=1, heads=2, drop=0.1).build(spec, 0).sample(1)
    with pytest.raises(InputError, match="cannot draw without a label"):
        SubPixelConfig(width=16, depth=1, heads=2, drop=0.0).build(spec, 0).sample(1)
    config = SubPixelConfig(width=16, depth=1, heads=2, drop=0.0)
    with pytest.raises(InputError, match="drop 0"):
        config.generator(config.build(spec, 0), ChoiceConfig(scale=2.0))


def test_a_tile_that_sees_itself_is_no_distribution(monkeypatch: pytest.MonkeyPatch):
    model = of("tile mixture", (1, 2, 4), levels=2)
    net = model.net
    monkeypatch.setattr(
        net, "features", lambda tiles, cond: net.transformer(net.embed(tiles) + net.conditioning(cond, len(tiles)))
    )
    pictures = torch.tensor(list(itertools.product((0, 1), repeat=8)))
    assert abs(float(model.nats(pictures, Cond(label=2)).exp().sum()) - 1.0) > 0.05


@pytest.mark.parametrize("name", ["pixelcnn", "tile mixture"])
def test_pictures_come_as_often_as_they_are_likely(name: str):
    model, n = of(name, (1, 2, 2), levels=2), 4000
    pictures = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    expected = model.nats(pictures, Cond(label=1)).exp().numpy()

    def p_value(temperature: float) -> float:
        drawing = model.drawing(ChoiceConfig(temperature=temperature))
        tokens = model.net.tokens(drawing.sample(n, Cond(label=1), seed=5))
        seen = np.bincount((tokens * torch.tensor([8, 4, 2, 1])).sum(1).numpy(), minlength=16)
        rare = expected * n < 5
        pooled = [np.append(v[~rare], v[rare].sum()) for v in (seen.astype(float), expected * n)]
        return float(chisquare(*[p[pooled[1] > 0] for p in pooled]).pvalue)

    assert p_value(1.0) > 1e-3
    assert p_value(0.6) < 1e-6


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_probabilities_of_all_bins_sum_to_one(levels: int):
    mean = torch.tensor([-40.0, -1.0, -0.3, 0.0, 0.99, 3.0, 200.0], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([-7.0, -4.0, -1.0, 0.0, 4.0], dtype=torch.float64)[:, None]
    every = torch.arange(levels)
    log_p = mixture.log_bin(every, mean, scale, levels)
    assert log_p.exp().sum(-1).sub(1.0).abs().max() < 1e-12
    edges = (2 * np.arange(1, levels) - 1) / (levels - 1) - 1
    cdf = logistic.cdf(edges, mean.numpy(), np.exp(scale.numpy()))
    theirs = np.diff(np.concatenate([np.zeros((7, 5, 1)), cdf, np.ones((7, 5, 1))], -1))
    assert np.allclose(log_p.exp(), theirs, atol=1e-12)

    inner = torch.sigmoid((every / (levels - 1) * 2 - 1 + 1 / (levels - 1) - mean) * (-scale).exp()) - torch.sigmoid(
        (every / (levels - 1) * 2 - 1 - 1 / (levels - 1) - mean) * (-scale).exp()
    )
    assert inner.sum(-1).sub(1.0).abs().max() > 0.1  # outer bins that end are no distribution


def test_a_bin_far_from_the_mean_has_a_finite_price_and_gradient():
    mean = torch.tensor([30.0, -30.0, 0.0], requires_grad=True)
    scale = torch.full((3,), -6.0, requires_grad=True)
    log_p = mixture.log_bin(torch.tensor([0, 255, 77]), mean, scale, 256)
    log_p.sum().backward()
    assert log_p.isfinite().all() and mean.grad.isfinite().all() and scale.grad.isfinite().all()
    assert mean.grad[0] < 0.0 < mean.grad[1] and float(log_p[0].detach()) < -1e3
    naive = (torch.sigmoid((-1 + 1 / 255 - mean) * (-scale).exp())).log()
    assert not naive[0].isfinite()  # what the difference of sigmoids says


def test_the_mixture_over_colours_is_that_of_its_components():
    """Two values, two components, against a sum by hand."""
    torch.manual_seed(0)
    head = mixture.LogisticMixture(3, 2, 2, 16).double()
    features, level = torch.randn(5, 3, dtype=torch.float64), torch.tensor([[3, 9]] * 5)
    weight, mean, log_scale, shift = head(features)
    x = level * (2 / 15) - 1

    def mass(k: int, i: int, centre: Tensor) -> np.ndarray:
        ends = [x[:, i] + side / 15 for side in (-1, 1)]
        return np.diff([logistic.cdf(e, centre.detach(), log_scale[:, k, i].exp().detach()) for e in ends], axis=0)[0]

    by_hand = sum(
        weight[:, k].exp().detach().numpy()
        * mass(k, 0, mean[:, k, 0])
        * mass(k, 1, mean[:, k, 1] + shift[:, k, 1, 0] * x[:, 0])
        for k in range(2)
    )
    assert np.allclose(head.log_prob(features, level).exp().detach(), by_hand, rtol=1e-10)


def test_a_cache_decodes_as_the_whole_prefix_does():
    model = of("subpixel")
    net, tokens = model.net, some(model)
    logits = net(tokens, LABELS)
    for length in (1, 7, net.length):
        whole = net(tokens, LABELS)[:, length - 1]
        assert torch.allclose(whole, logits[:, length - 1])
    cached, forgetful = [], []
    for keep, out in ((True, cached), (False, forgetful)):
        cache, before = Cache(net.length), torch.full((4,), net.choices)
        told = net.conditioning(LABELS, 4)
        for i in range(net.length):
            hidden = net.transformer((net.embed(before) + told[:, i])[:, None], cache)[:, 0]
            out.append(net.out(hidden))
            before = tokens[:, i]
            if not keep:
                cache = Cache(net.length)
    assert torch.allclose(torch.stack(cached, 1), logits, atol=1e-10)
    assert (torch.stack(forgetful, 1)[:, 1:] - logits[:, 1:]).abs().amax((1, 2)).min() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_does_not_depend_on_its_companions(name: str):
    model = of(name)
    label = [0, 1, 2, 3, 0, 1]
    six = model.sample(6, Cond(label=label), seed=4)
    assert torch.equal(six[:2], model.sample(2, Cond(label=label[:2]), seed=4))
    assert torch.equal(six, model.sample(6, Cond(label=label), seed=4, batch_size=4))
    assert torch.equal(six[[5, 3]], model.sample(cond=Cond(label=[1, 3]), seed=[(4, 5), (4, 3)]))
    assert (six[0] - six[4]).abs().max() > 0.1 and not torch.equal(six, model.sample(6, Cond(label=label), seed=5))
    assert torch.equal(six, rv.sample(model, 6, Cond(label=label), seed=4, progress=""))


def test_long_sequences_are_drawn_in_parts_that_fit():
    spec = DataSpec((3, 32, 32), {}, (), "made")
    net = SubPixelConfig().build(spec, 0).net
    cache = Cache(net.length)
    with torch.no_grad():
        net.transformer(torch.zeros(1, 1, 64), cache)
    assert sum(kept.numel() for _, *both in cache.seen.values() for kept in both) == net.kept
    assert 1 <= side_by_side(net) < 250 == side_by_side(of("pixelcnn").net)


def test_steps_are_told_with_the_picture_so_far():
    model, frames = of("pixelcnn"), []
    x = model.sample(2, Cond(label=[0, 1]), seed=1, on_step=lambda f: frames.append((f.done, f.total, f.state())))
    assert [done for done, *_ in frames] == list(range(1, 49)) and frames[0][1] == 48
    assert torch.equal(frames[-1][2], x)
    assert torch.equal(frames[20][2].flatten(1)[:, :21], x.flatten(1)[:, :21])
    assert (frames[20][2].flatten(1)[:, 21:] == -1.0).all()


@pytest.mark.parametrize("name", EXACT)
def test_the_density_is_the_mass_spread_over_bins(name: str):
    """The same for a picture and for what is drawn evenly from its bins; no model without exact levels has one."""
    model = of(name, levels=7)
    x = model.net.picture(some(model)).double()
    nats = model.log_prob(x, LABELS)
    assert torch.allclose(nats, model.nats(some(model), LABELS) + 48 * math.log(7 / 2))
    assert torch.allclose(nats, model.log_prob(dequantise(x, levels=7), LABELS))
    assert of("tile codebook").log_prob is None


def test_a_layout_gives_all_levels_back():
    every = torch.arange(256, dtype=torch.float32)
    x = (every / 127.5 - 1).expand(1, 1, 1, 256)
    assert torch.equal(Layout((1, 1, 256), 256).tokens(x)[0], torch.arange(256))
    tokens = torch.randint(0, 9, (5, 3 * 6 * 4))
    for patch in (1, 2):
        layout = Layout((3, 6, 4), 9, patch)
        assert torch.equal(layout.tokens(layout.picture(tokens)), tokens)
    first = Layout((3, 6, 4), 9, 2).levels_of(torch.arange(72)[None])[0, :, :2, :2]
    assert sorted(first.flatten().tolist()) == list(range(12))  # the first tile comes first
    digits = rv.data.load("digits8").batch(range(50)).x
    layout = Layout((1, 8, 8), 17)
    assert torch.equal(
        layout.picture(layout.tokens(digits)).add(1).mul(127.5).round(), digits.add(1).mul(127.5).round()
    )


def test_a_memory_gives_rows_and_pixels_as_the_picture_does():
    conv = CausalConv(2, 3, 1, 2, 1)
    x = torch.randn(4, 2, 5, 6)
    memory, rows = Memory(6), []
    for memory.row in range(5):
        memory.column = None
        rows.append(conv(x[:, :, memory.row : memory.row + 1], memory))
    assert torch.allclose(torch.cat(rows, 2), conv(x), atol=1e-6)
    conv, memory = CausalConv(2, 3, 1, 2), Memory(6)
    out = torch.zeros(4, 3, 5, 6)
    for memory.row, memory.column in itertools.product(range(5), range(6)):
        at = (slice(None), slice(None), slice(memory.row, memory.row + 1), slice(memory.column, memory.column + 1))
        out[at] = conv(x[at], memory)
    assert torch.allclose(out, conv(x), atol=1e-6)


def test_the_codebook_is_of_typical_tiles():
    data, layout = rv.data.load("digits8"), Layout((1, 8, 8), 256, 2)

    def error(codebook: Tensor) -> float:
        from reverie.families.tile import nearest, tiles_of

        tiles = tiles_of(data.batch(range(300)).x, layout)
        return float((codebook[nearest(tiles, codebook)] - tiles).square().mean())

    few, many = (error(fit_codebook(data, layout, size, 0)) for size in (4, 64))
    assert many < 0.25 * few
    random = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert error(random) > 1.5 * many
    with pytest.raises(InputError, match=r"codebook of 2,000,000 tiles is larger than the data, which has [\d,]+ diff"):
        fit_codebook(data, layout, 2_000_000, 0)


def test_what_does_not_fit_is_said():
    spec = DataSpec((3, 6, 8), {"label": Label(4)}, tuple("abcd"), "made")
    with pytest.raises(InputError, match="tiles of 5x5 pixels do not fill pictures of 6x8"):
        TileConfig(patch=5).build(spec, 0)
    with pytest.raises(InputError, match="5 attention heads do not divide 64"):
        SubPixelConfig(heads=5).build(spec, 0)
    with pytest.raises(InputError, match="pictures"):
        PixelCNNConfig().build(DataSpec((6,), {}, (), "vectors"), 0)
    model = of("pixelcnn")
    model.unlabelled = False
    for cond in (None, Cond(label=1).null()):
        with pytest.raises(InputError, match="cannot draw without a label: give one of 4 classes"):
            model.sample(2, cond)
    with pytest.raises(InputError, match="label 4 is out of range"):
        model.sample(2, Cond(label=4))
    assert of("pixelcnn", classes=0).sample(2).shape == (2, 1, 6, 8)


def test_training_lowers_the_bits_of_held_out_pictures():
    """Each for a second or two on 8x8 digits; an untrained model pays 8 bits."""
    from reverie.core.draws import Draws
    from reverie.core.task import Moment

    data, held_out = rv.data.load("digits8"), rv.data.load("digits8", "test")
    config = PixelCNNConfig(width=24, depth=3, levels=17)
    model = config.build(data.spec, 0)
    task = config.task(model, data, held_out, config.Sample(), 0)
    before = task.validate()["bits"]
    optimizer = torch.optim.Adam(model.net.parameters(), 3e-3)
    for step in range(60):
        batch = data.batch(torch.arange(step * 32, step * 32 + 32) % len(data))
        loss = task.loss("net", batch, Draws(0, step * 32, 32), Moment(step, step * 32, 1920))["bits"]
        assert loss.shape == (32,)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    after = task.validate()["bits"]
    frequency = np.bincount(model.net.tokens(data.batch(range(len(data))).x).flatten().numpy(), minlength=17)
    entropy = -sum(p * math.log2(p) for p in frequency / frequency.sum() if p)
    assert isinstance(after, float) and isinstance(before, float)
    assert before > 4.0 and after < entropy - 0.3  # better than any that looks at no neighbour
    columns = task.preview()
    assert columns is not None and columns.images.shape == (20, 1, 8, 8)


def test_cross_entropy_is_what_a_softmax_says():
    model = of("pixelcnn")
    tokens = some(model)
    levels = model.net.layout.levels_of(tokens)
    x = model.net.picture(tokens).double()
    log_p = F.log_softmax(model.net(x, LABELS), 2)
    assert torch.allclose(model.net.log_prob(tokens, LABELS), log_p.gather(2, levels[:, :, None])[:, :, 0])
