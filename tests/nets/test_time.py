"""How a network reads the time, slowly where its derivative in time counts."""

import torch

from reverie.core.jvp import jvp
from reverie.nets.embeddings import TimeEmbedding


def trained() -> TimeEmbedding:
    """As training leaves it: a smooth function of slow waves, and a little of the fast ones, which nothing asked for."""
    torch.manual_seed(0)
    embedding = TimeEmbedding(32, 16)
    fast = embedding.scale / 10_000.0 ** (torch.arange(16) / 16) > 10.0
    with torch.no_grad():
        embedding.inner.weight[:, torch.cat([fast, fast])] *= 0.02
    return embedding.requires_grad_(False)


def slope(embedding: TimeEmbedding, t: torch.Tensor) -> torch.Tensor:
    return jvp(embedding, (t,), (torch.ones_like(t),))[1]


def test_slow_waves_say_the_same_and_their_derivative_is_that_of_the_function():
    embedding, t = trained(), torch.linspace(0.1, 0.9, 200)
    said, steep = embedding(t), slope(embedding, t)
    embedding.slow(10.0)
    assert embedding.scale == 10.0
    now, slowly = embedding(t), slope(embedding, t)
    assert (now - said).square().mean() < 0.03 * said.var(0).mean()
    differences = (embedding(t + 0.05) - embedding(t - 0.05)) / 0.1
    assert (slowly - differences).norm() < 0.1 * slowly.norm()
    assert steep.norm() > 2.0 * slowly.norm()


def test_what_reads_slowly_or_at_random_stays():
    slow, random = TimeEmbedding(8, 4, scale=5.0), TimeEmbedding(8, 4, fourier=16.0)
    for embedding in (slow, random):
        before = {name: value.clone() for name, value in embedding.state_dict().items()}
        scale = embedding.scale
        embedding.slow(10.0)
        assert embedding.scale == scale
        assert all(torch.equal(value, before[name]) for name, value in embedding.state_dict().items())


def test_a_fresh_one_only_changes_its_waves():
    embedding = TimeEmbedding(8, 4)
    before = embedding.inner.weight.clone()
    embedding.slow(10.0, fit=False)
    assert embedding.scale == 10.0 and torch.equal(embedding.inner.weight, before)
