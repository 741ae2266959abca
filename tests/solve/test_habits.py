"""What people write without a thought: numbers of numpy and torch, labels and pictures of any dtype, names, empty batches."""

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from reverie import guide
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Empirical, GaussianMixture
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import VP, Flow
from reverie.solve import DDIM, dequantise, initial, invert, iterate, log_prob, sample


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        self.table = nn.Embedding(301, 1)
        self.conditions = {"label": Label(300)}

    def forward(self, x, time, cond=None):
        out = torch.tanh(self.layer(x)) * (1.0 + time)
        if cond is None:
            return out
        entry = cond["label"]
        return out + self.table(torch.where(entry.present, entry.value, 300))[..., None, None]


def model(dtype: torch.dtype = torch.float32) -> NetDenoiser:
    return NetDenoiser(Net().to(dtype).requires_grad_(False), Flow(), "flow", shape=(1, 4, 4))


SEEDS = {
    "np.int64": np.int64(3),
    "np.uint8": np.uint8(3),
    "tensor": torch.tensor(3),
    "tensor uint8": torch.tensor(3, dtype=torch.uint8),
    "array ()": np.array(3),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_is_any_whole_number(name):
    denoise, seed = model(), SEEDS[name]
    expected = sample(denoise, 2, seed=3, steps=2)
    assert torch.equal(sample(denoise, 2, seed=seed, steps=2), expected)
    assert torch.equal(sample(denoise, seed=[seed, 5], steps=2), sample(denoise, seed=[3, 5], steps=2))
    assert torch.equal(initial(denoise, 2, seed=seed), initial(denoise, 2, seed=3))
    assert sample_seeds([(seed, np.int64(7))], 1) == [(3, 7)]


@pytest.mark.parametrize(
    "seeds", [np.array([3, 5]), torch.tensor([3, 5]), (3, 5), range(3, 7, 2), np.array([[3, 0], [5, 0]])], ids=str
)
def test_seeds_one_a_sample(seeds):
    assert sample_seeds(seeds, 2) == [(3, 0), (5, 0)]
    assert torch.equal(sample(model(), seed=seeds, steps=2), sample(model(), seed=[3, 5], steps=2))


@pytest.mark.parametrize("seed", [2**24, 20260115, 2**31, 2**63, 2**70])
def test_large_seeds(seed):
    denoise = model()
    assert not torch.equal(sample(denoise, 1, seed=seed, steps=1), sample(denoise, 1, seed=seed - 1, steps=1))
    assert not torch.equal(dequantise(torch.zeros(1, 1, 2, 2), seed), dequantise(torch.zeros(1, 1, 2, 2), 0))


@pytest.mark.parametrize("seed", [3.0, "3", None, [1.5], torch.tensor(3.0)], ids=repr)
def test_a_seed_that_is_no_whole_number(seed):
    with pytest.raises(InputError, match="a seed is a whole number"):
        sample(model(), 1, seed=seed, steps=1)


def test_counts_of_numpy():
    denoise = model()
    a = sample(denoise, n=np.int64(2), steps=np.int32(3), batch_size=np.int16(1), seed=1)
    assert torch.equal(a, sample(denoise, n=2, steps=3, batch_size=1, seed=1))
    with pytest.raises(InputError, match=r"n is at least 1, a whole number: got 2\.5"):
        sample(denoise, n=2.5, steps=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="batch_size is at least 1"):
        sample(denoise, n=2, steps=2, batch_size=1.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_whole_dtype(dtype):
    denoise, wide = model(), torch.tensor([7, 100])
    expected = sample(denoise, cond=Cond(label=wide), steps=2)
    assert torch.equal(sample(denoise, cond=Cond(label=wide.to(dtype)), steps=2), expected)
    assert torch.equal(sample(denoise, cond=Cond(label=wide.to(dtype).numpy()), steps=2), expected)
    guided = guide.cfg(denoise, 2.0)
    x = torch.ones(2, 1, 4, 4)
    assert torch.equal(guided(x, 0.5, Cond(label=wide.to(dtype))).out, guided(x, 0.5, Cond(label=wide)).out)
    assert torch.equal(denoise.conditioner(label=wide.to(dtype)[0])["label"].value, wide[:1])
    assert torch.equal(denoise.conditioner(label=wide.to(dtype).numpy()[0])["label"].value, wide[:1])


def test_labels_that_are_none():
    with pytest.raises(InputError, match="class index"):
        sample(model(), cond=Cond(label=1.0), steps=1)
    with pytest.raises(InputError, match=r"made of numbers.*conditioner"):
        Cond(label="cat")
    with pytest.raises(InputError, match="batch is empty"):
        sample(model(), cond=Cond(label=torch.zeros(0, dtype=torch.int64)), steps=1)


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_a_state_of_any_float_dtype(given, weights):
    """The state is the wider of x and the model, and at least float32, whatever it came as."""
    denoise, x = model(weights), torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).to(given)
    wide = torch.promote_types(torch.promote_types(given, weights), torch.float32)
    for run in (
        lambda x: sample(denoise, x=x, steps=3, solver="ddim"),
        lambda x: sample(denoise, x=x, start=0.6, steps=3, solver="ddim"),
        lambda x: [*iterate(denoise, x=x, steps=2)][-1].x,
        lambda x: invert(denoise, x, steps=3),
    ):
        out = run(x)
        assert out.dtype == wide
        exact = run(x.double())
        torch.testing.assert_close(out.double(), exact.double(), rtol=1e-4, atol=1e-4)


def test_a_model_of_double_precision_is_sampled_in_it():
    means = torch.tensor([[1.0], [-1.0]]).double()
    data = GaussianMixture(torch.ones(2).double(), means, 0.1 * torch.ones(2, 1, 1).double())
    for denoise in (
        model(torch.float64),
        data.denoiser(Flow()),
        Empirical(means, Flow()),
        guide.cfg(model(torch.float64), 2.0),
    ):
        cond = Cond(label=1) if denoise.conditions else None
        x = sample(denoise, 2, cond, steps=3, solver=DDIM())
        assert x.dtype == torch.float64
        start = initial(denoise, 2)
        assert start.dtype == torch.float64 and torch.equal(
            sample(denoise, 2, cond, x=start, steps=3, solver=DDIM()), x
        )
    assert sample(model(), 2, steps=2).dtype == torch.float32
    assert torch.equal(initial(model(torch.float64), 2).float(), initial(model(), 2))  # the same noise


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_pictures_of_bytes_are_refused(dtype):
    x = torch.zeros(2, 1, 4, 4, dtype=dtype)
    for run in (lambda: sample(model(), x=x, steps=2), lambda: sample(model(), x=x, start=0.5, steps=2)):
        with pytest.raises(InputError, match=r"give floats, pictures in \[-1, 1\]"):
            run()


def test_an_empty_batch_is_an_error_that_says_so():
    denoise, x = model(), torch.zeros(0, 1, 4, 4)
    for run in (
        lambda: sample(denoise, x=x, steps=2),
        lambda: sample(denoise, seed=[], steps=2),
        lambda: list(iterate(denoise, x=x, steps=2)),
        lambda: invert(denoise, x, steps=2),
        lambda: log_prob(denoise, x, steps=2),
    ):
        with pytest.raises(InputError, match="the batch is empty"):
            run()


def test_an_unknown_condition_is_refused_wherever_it_is_given():
    """It was dropped without a word: the picture of no condition at all."""
    x = torch.ones(2, 1, 4, 4)
    flat = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None]).denoiser(Flow())
    for denoise, state in (
        (model(), x),
        (guide.cfg(model(), 2.0), x),
        (guide.threshold(model()), x),
        (model().under(VP()), x),
        (flat, torch.ones(2, 3)),
        (Empirical(torch.zeros(1, 3), Flow()), torch.ones(2, 3)),
    ):
        with pytest.raises(InputError, match="is not conditioned on 'labels'"):
            denoise(state, 0.5, Cond(labels=[1, 2]))
        with pytest.raises(InputError, match="is not conditioned on 'labels'"):
            denoise(state, torch.tensor([0.5, 0.6]), Cond(labels=[1, 2]))


@pytest.mark.parametrize("folder", [5, None, 1.5, b"x", torch.zeros(1)], ids=repr)
def test_load_takes_a_path(folder):
    with pytest.raises(InputError, match=r"rv\.load takes the path of a folder"):
        rv.load(folder)


def test_a_recorded_tape_is_of_the_old_bits():
    assert torch.equal(
        Tape(sample_seeds(np.int64(5), 2)).draw("init", 0, (3,)), Tape([(5, 0), (5, 1)]).draw("init", 0, (3,))
    )
