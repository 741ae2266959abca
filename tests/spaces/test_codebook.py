"""Codebooks: the straight-through gradient, running means in closed form, revival, and tokens that are the codes."""

import copy

import pytest
import torch

import reverie as rv
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.spaces import VQ, MultiScaleVQ
from reverie.spaces.codebook import DEAD, DECAY, Codebook, usage
from reverie.spaces.tokenizing import Tokenizing
from reverie.spaces.vq import COMMITMENT

NOW = Moment(0, 0, 100)


@pytest.fixture(scope="module")
def digits():
    return rv.data.load("mnist5k")


def filled(size: int, dims: int) -> Codebook:
    """A codebook whose codes have lived for long."""
    book = Codebook(size, dims).train()
    book.codes.copy_(3 * torch.randn(size, dims))
    book.counts.fill_(10.0)
    book.sums.copy_(10 * book.codes)
    return book


def test_the_nearest_code_is_that_of_a_search_by_hand():
    book, z = filled(7, 3), torch.randn(5, 3, 2, 4)
    by_hand = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 3), book.codes).argmin(1).view(5, 2, 4)
    assert torch.equal(book.nearest(z), by_hand)
    assert torch.equal(book.vectors(by_hand), book.codes[by_hand].permute(0, 3, 1, 2))


@pytest.mark.parametrize("kind", [VQ, MultiScaleVQ])
def test_the_gradient_passes_straight_through(digits, kind):
    """Of the squared error alone, the encoder's output has the gradient of the decoder's input; with the commitment it has not."""
    x = digits.batch(range(4)).x
    space = kind(1, 4, 3, codes=5, width=8).train()
    space.codebook.codes.normal_()
    inputs = {}
    space.encoder.register_forward_hook(lambda m, i, o: inputs.update(z=o) or o.retain_grad())
    space.decoder.register_forward_pre_hook(lambda m, i: inputs.update(e=i[0]) or i[0].retain_grad())
    restored, others = space.reconstruct(x, torch.zeros(()))
    (x - restored).square().mean().backward(retain_graph=True)
    assert inputs["z"].grad.abs().max() > 0
    assert torch.equal(inputs["z"].grad, inputs["e"].grad)
    torch.testing.assert_close(inputs["e"].detach(), space.replaced(inputs["z"]).detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        others["commitment"].detach(),
        COMMITMENT * sum((inputs["z"] - e).square().flatten(1).mean(1) for e in parts(space, inputs["z"])).detach(),
    )
    others["commitment"].sum().backward()
    assert (inputs["z"].grad - inputs["e"].grad).abs().max() > 1e-6
    assert not any(value.requires_grad for value in space.codebook.buffers()) and not list(space.codebook.parameters())


def parts(space, z):
    """What the commitment compares with, weighted."""
    if not isinstance(space, MultiScaleVQ):
        return [space.replaced(z)]
    layers = space.layers(z)
    mean = sum((z - e).square().flatten(1).mean(1) for e in layers) / len(layers)
    return [z - mean.sqrt()[:, None, None, None] * torch.ones_like(z)]


def test_codes_are_the_running_means_in_closed_form():
    """After batches t = 1 … T: counts γᵀ·N₀ + (1−γ)·Σ γᵀ⁻ᵗ·n_t, sums likewise, and the code is their ratio."""
    torch.manual_seed(0)
    book = filled(4, 3)
    centres = book.codes.clone()
    counts, sums = book.counts.double(), book.sums.double()
    for step in range(1, 21):
        for _ in range(2):  # two parts of a batch
            z = (centres.repeat(8, 1) + 0.1 * torch.randn(32, 3)).requires_grad_()
            numbers = book.nearest(z)
            book(z)
            onehot = torch.nn.functional.one_hot(numbers, 4).double()
            if _ == 0:
                n, m = torch.zeros(4).double(), torch.zeros(4, 3).double()
            n, m = n + onehot.sum(0), m + onehot.T @ z.detach().double()
        book.settle(step)
        counts, sums = DECAY * counts + (1 - DECAY) * n, DECAY * sums + (1 - DECAY) * m
        torch.testing.assert_close(book.codes.double(), sums / counts[:, None], atol=1e-5, rtol=1e-5)
    assert (book.codes - centres).abs().max() > 1e-3
    once = centres.double() + (1 - DECAY) * (m / n[:, None] - centres)  # a control: only the last batch
    assert (book.codes.double() - once).abs().max() > 1e-3


def test_a_dead_code_is_revived_at_a_vector_that_is_far_from_its_own():
    book = filled(3, 2)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 50.0]]))
    book.sums.copy_(10 * book.codes)
    z = torch.tensor([[0.0, 0.0]] * 20 + [[1.0, 0.0]] * 20 + [[0.0, 9.0]])
    steps = 0
    while not torch.allclose(book.codes[2], z[-1]) and steps < 2_000:
        steps += 1
        before = book.codes[2].clone()
        book(z)
        book.settle(steps)
    mean = book.counts.mean()
    assert 1 < steps < 2_000 and torch.allclose(before, torch.tensor([50.0, 50.0]))
    assert book.counts[2] >= DEAD * mean
    book(z)
    book.settle(steps + 1)
    assert usage(book.nearest(z), 3)[0] == 1.0
    lively = filled(2, 2)
    lively.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    lively.sums.copy_(10 * lively.codes)
    lively(z[:40])
    lively.settle(1)
    torch.testing.assert_close(lively.codes, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_a_fresh_codebook_begins_at_its_first_vectors():
    book, z = Codebook(8, 2).train(), torch.randn(64, 2)
    book(z)
    book.settle(1)
    near = torch.cdist(book.codes, z, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert (near[1:] < 1e-6).all()  # and the first is the mean of all
    torch.testing.assert_close(book.codes[0], z.mean(0))
    assert usage(book.nearest(z), 8)[0] > 0.5 > usage(Codebook(8, 2).nearest(z), 8)[0]


def test_in_evaluation_nothing_is_remembered():
    book = filled(4, 3)
    before = copy.deepcopy(book.state_dict())
    with torch.no_grad():
        book(torch.randn(8, 3))
    book.eval()
    book(torch.randn(8, 3))
    book.settle(1)
    assert all(torch.equal(value, before[key]) for key, value in book.state_dict().items())


def test_usage_and_perplexity_of_known_frequencies():
    share, perplexity = usage(torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), 8)
    assert share == 0.5 and perplexity == pytest.approx(4.0)
    assert usage(torch.zeros(5, dtype=torch.long), 8) == (0.125, 1.0)


@pytest.mark.parametrize(("kind", "count"), [(VQ, 49), (MultiScaleVQ, 70)])
def test_tokens_are_the_codes(digits, kind, count):
    x = digits.batch(range(3)).x
    space = kind(1, 4, 3, codes=16, width=8).eval()
    space.codebook.codes.normal_()
    tokens = space.tokens(x)
    assert tokens.shape == (3, count) == (3, space.token_count((1, 28, 28))) and tokens.dtype == torch.int64
    again = space.from_tokens(tokens, (1, 28, 28))
    torch.testing.assert_close(again, space.decode(space.encode(x)), atol=1e-5, rtol=0)
    other = space.from_tokens((tokens + 1) % 16, (1, 28, 28))
    assert (again - other).abs().max() > 1e-3


def test_scales_grow_to_the_whole_and_each_adds_what_is_left(digits):
    assert MultiScaleVQ.scales(7, 7) == [(1, 1), (2, 2), (4, 4), (7, 7)]
    assert MultiScaleVQ.scales(8, 4)[-1] == (8, 4) and MultiScaleVQ.scales(8, 4)[0] == (1, 1)
    x = digits.batch(range(8)).x
    torch.manual_seed(0)
    space = MultiScaleVQ(1, 4, 3, codes=64, width=8).eval()
    space.smooth.weight.zero_() if not space.smooth.weight.requires_grad else None
    with torch.no_grad():
        torch.nn.init.dirac_(space.smooth.weight)
        space.smooth.bias.zero_()
        z = space.encoder(x)
        space.codebook.codes.copy_(torch.cat([torch.zeros(1, 3), z.std() * torch.randn(63, 3)]))
        layers = space.layers(z)
        sums = space.sums(space.tokens(x), (1, 28, 28))
    assert len(layers) == len(sums) == 4
    for a, b in zip(layers, sums, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    torch.testing.assert_close(space.sums(space.tokens(x)[:, :5], (1, 28, 28))[-1], sums[1], atol=1e-5, rtol=0)
    errors = [(z - layer).square().mean().item() for layer in layers]
    assert errors[-1] < 0.7 * errors[0]
    one = z - (layers[0] + 0)
    pooled = torch.nn.functional.interpolate(one, (2, 2), mode="area")
    numbers = space.codebook.nearest(pooled).flatten(1)
    assert torch.equal(space.tokens(x)[:, 1:5], numbers)


def learned(space, data, steps: int) -> Tokenizing:
    task = Tokenizing(space.train(), data, data)
    optimizer = torch.optim.Adam(space.parameters(), 5e-3)
    for step in range(steps):
        batch = data.batch(torch.randint(len(data), (64,)))
        optimizer.zero_grad()
        parts = task.loss("space", batch, Draws(0, 64 * step, 64), NOW)
        sum(part.mean() for part in parts.values()).backward()
        optimizer.step()
        task.after_step(Moment(step + 1, 64 * (step + 1), 100))
    space.eval()
    return task


@pytest.mark.parametrize("kind", [VQ, MultiScaleVQ])
def test_it_learns_uses_its_codes_and_says_so(digits, kind):
    torch.manual_seed(0)
    space = kind(1, 7, 4, codes=32, width=8)
    measures = []
    for task in (Tokenizing(space.eval(), digits, digits), learned(copy.deepcopy(space), digits, 60)):
        with torch.no_grad():
            measures.append(task.validate())
    before, after = measures
    assert after["mse"] < 0.5 * before["mse"]
    assert before["usage"] < 0.1 and after["usage"] > 0.7 and after["perplexity"] > 8


def test_a_codebook_larger_than_the_data_is_refused(digits):
    few = rv.data.ImageSet("few", "train", digits.images[:3], torch.arange(3))
    with pytest.raises(InputError, match="49 codes is larger than the data: 3 pictures of 16 tokens have 48"):
        Tokenizing(VQ(1, 7, 4, codes=49), few, few)
    Tokenizing(VQ(1, 7, 4, codes=48), few, few)
