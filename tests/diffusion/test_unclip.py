"""unCLIP in a world of Gaussian vectors, where the best prior is known: pictures z ~ N(0, I), texts y = A·z + s·n."""

import pytest
import torch
import torch.nn.functional as F

import reverie as rv
from reverie.core.condition import Cond, Entry, Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.data import Mirrored, TensorSet
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.unclip import Looked, Pair, best, between, told, turned, variations
from reverie.nets.causal import CausalPrior
from reverie.solve import slerp

D, S = 4, 0.5
A = torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0, 0.5], [0, 0, 0.2, 0], [0.3, 0, 0, 1]])


def world(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, D, generator=draw)
    return z, z @ A.T + S * torch.randn(n, D, generator=draw)


class Posterior(torch.nn.Module):
    """``E[z | y, x_t]`` on the straight path: of precision ``I + AᵀA/s² + α²/σ²``, exactly."""

    def __init__(self):
        super().__init__()
        self.conditions = {"vector": Vector(D)}
        self.dtype = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond=None):
        alpha, sigma = 1.0 - time.reshape(-1, 1), time.reshape(-1, 1)
        precision = (torch.eye(D) + A.T @ A / S**2) * sigma[..., None] ** 2 + alpha[..., None] ** 2 * torch.eye(D)
        told = cond["vector"].value @ A / S**2 * sigma**2 + alpha * x
        return torch.linalg.solve(precision.expand(len(x), -1, -1), told[..., None])[..., 0]


def exact():
    return NetDenoiser(Posterior(), Flow(), "x0", shape=(D,))


def posterior(y):
    covariance = torch.linalg.inv(torch.eye(D) + A.T @ A / S**2)
    return y @ A @ covariance / S**2, covariance


def test_the_known_prior_draws_the_posterior():
    """4,000 draws for one text: mean and covariance within four standard errors; control: the posterior of another text."""
    (_, y), n = world(2), 4000
    drawn = rv.sample(exact(), n, rv.Cond(vector=y[:1].expand(n, -1)), solver="heun", steps=40)
    mean, covariance = posterior(y)
    error = covariance.diagonal().sqrt() / n**0.5
    assert ((drawn.mean(0) - mean[0]).abs() < 4 * error + 2e-3).all()
    assert ((drawn.mean(0) - mean[1]).abs() > 8 * error).any()
    assert (
        (drawn.T.cov() - covariance).abs().max()
        < 0.1 * covariance.max()
        < 0.1
        < (torch.eye(D) - covariance).abs().max()
    )


def test_a_trained_prior_comes_near_the_known_one():
    """Of what the best prior gains by reading the text, a few hundred steps reach most; control: texts of other pictures."""
    torch.manual_seed(0)
    net = CausalPrior(D, width=32, depth=2, heads=2)
    prior = NetDenoiser(net, Flow(), "x0", shape=(D,))
    task = Denoising(prior, Uniform(), drop=0.1)
    z, y = world(8192)
    data = Looked(TensorSet(z), y)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for i in range(250):
        optimizer.zero_grad()
        batch = data.batch(torch.randint(len(data), (128,)))
        task.loss("denoiser", batch, Draws(0, 128 * i, 128), Moment(0, 0, 1))["mse"].mean().backward()
        optimizer.step()

    z, y = world(2000, seed=1)
    rng = Draws(1, 0, 2000)

    @torch.no_grad()
    def error(denoise, y):
        t = torch.linspace(0.2, 0.98, 2000, dtype=torch.float64)
        return Denoising(denoise, Uniform()).errors(z, t, rng, rv.Cond(vector=y)).mean().item()

    known, deaf = error(exact(), y), error(prior, torch.zeros_like(y))
    assert known < error(prior, y) < known + 0.3 * (deaf - known)
    assert error(prior, y.roll(1, 0)) > deaf - 0.3 * (deaf - known)


class Nothing(torch.nn.Module):
    """``E[x0 | x_t]`` of N(0, I), whatever the text says."""

    def __init__(self):
        super().__init__()
        self.conditions, self.dtype = {"vector": Vector(2)}, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond=None):
        return (1.0 - time) * x / ((1.0 - time) ** 2 + time**2)


def test_of_two_draws_the_nearer_to_the_text_is_kept():
    """Draws on the circle whatever the text: z·y is the cosine of any angle, of mean 0; the larger of two has the mean 4/π²."""
    prior, n = NetDenoiser(Nothing(), Flow(), "x0", shape=(2,)), 2000
    y = torch.tensor([[1.0, 0.0]]).expand(n, -1)
    one, two = (best(prior, y, of=of, solver="heun", steps=6)[:, 0] for of in (1, 2))
    assert abs(one.mean()) < 4 * 0.71 / n**0.5 and abs(two.mean() - 4 / torch.pi**2) < 4 * 0.6 / n**0.5
    found = best(exact(), world(50)[1], solver="heun", steps=6)
    assert found.norm(dim=1) == pytest.approx([1.0] * 50, abs=1e-5)
    assert torch.allclose(found[:7], best(exact(), world(50)[1][:7], solver="heun", steps=6), atol=1e-5)


def test_turning_by_the_difference_of_texts():
    z = F.normalize(torch.randn(3, D), dim=1)
    old, new = torch.eye(D)[:1], torch.eye(D)[1:2]
    away = F.normalize(new - old, dim=1)
    assert torch.allclose(turned(z, old, new, 0.0), z, atol=1e-6)
    assert torch.allclose(turned(z, 3 * old, 5 * new, 1.0), away.expand(3, -1), atol=1e-6)
    half = turned(z, old, new, 0.5)
    assert half.norm(dim=1) == pytest.approx([1.0] * 3, abs=1e-5)
    assert torch.allclose((half * z).sum(1), (half * away).sum(1), atol=1e-5)  # as far from one as from the other
    assert ((half * away).sum(1) > (z * away).sum(1)).all()


class Canvas(torch.nn.Module):
    """``E[x0 | x_t]`` of pictures (2, 4, 4): the first two numbers of z/√D as colours, and variety of .2 about them that z does not say."""

    VARIETY = 0.2

    def __init__(self):
        super().__init__()
        self.conditions = {"vector": Vector(2)}
        self.dtype = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond=None):
        mean = (cond["vector"].value / 2**0.5)[:, :, None, None]
        alpha, sigma = 1.0 - time, time
        gain = alpha * self.VARIETY**2 / (alpha**2 * self.VARIETY**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def decoder():
    return NetDenoiser(Canvas(), Flow(), "x0", shape=(2, 4, 4))


def look(images):
    return images.mean((2, 3))


def test_variations_share_what_the_vector_says_and_differ_in_the_rest():
    z = F.normalize(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), dim=1)
    drawn = variations(decoder(), z, 200, solver="heun", steps=40).unflatten(0, (2, 200))
    assert drawn.shape == (2, 200, 2, 4, 4)
    error = Canvas.VARIETY / (200 * 16) ** 0.5
    assert ((drawn.mean((1, 3, 4)) - z).abs() < 4 * error).all()
    assert drawn.std(1).mean().item() == pytest.approx(Canvas.VARIETY, rel=0.05)


def test_between_two_pictures_vector_and_noise_turn_at_constant_speed():
    """The ends are restored, and the colour in the middle is that of the vector half-way; on a straight line it would be paler."""
    ends = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=1)
    a, b = (variations(decoder(), z[None], 1, seed=i, solver="heun", steps=20) for i, z in enumerate(ends))
    row = between(decoder(), a, b, look, 3, steps=100)
    assert row.shape == (3, 1, 2, 4, 4)
    assert (row[0] - a).abs().max() < 0.05 and (row[2] - b).abs().max() < 0.05
    middle = slerp(F.normalize(look(a), dim=1), F.normalize(look(b), dim=1), 0.5)
    assert (row[1].mean((2, 3)) - middle).abs().max() < 4 * Canvas.VARIETY / 4
    assert row[1].mean((2, 3)).norm() > 0.85  # the mean of both has a norm near √½


def test_a_text_becomes_a_picture_by_way_of_its_vector():
    class Told(torch.nn.Module):
        """A prior that knows: z is y."""

        def __init__(self):
            super().__init__()
            self.conditions, self.dtype = {"vector": Vector(2)}, torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, time, cond=None):
            return cond["vector"].value

    prior = NetDenoiser(Told(), Flow(), "x0", shape=(2,))
    y = F.normalize(torch.randn(20, 2), dim=1)
    pictures, z = Pair(prior, decoder()).draw(y, solver="heun", steps=10, prior_steps=4)
    assert torch.allclose(z, y, atol=1e-4)
    assert (look(pictures) - y).abs().max() < 5 * Canvas.VARIETY / 4
    assert told(y).square().mean(1) == pytest.approx([1.0] * 20, abs=1e-5)
    with pytest.raises(InputError, match="a vector of the shape that the prior draws, \\(4,\\)"):
        Pair(exact(), decoder()).draw(y)


def test_samples_and_vectors_are_of_one_number():
    with pytest.raises(InputError, match="5 samples and 4 vectors"):
        Looked(TensorSet(torch.randn(5, D)), torch.randn(4, D))
    with pytest.raises(InputError, match="leave --data"):
        Mirrored(Looked(TensorSet(torch.randn(5, D)), torch.randn(5, D)))
    batch = Looked(TensorSet(torch.arange(5.0)[:, None]), torch.eye(5)).batch([3])
    assert batch.x.item() == 3.0 and batch.cond["vector"].value.argmax() == 3  # pyright: ignore[reportOptionalSubscript]


def test_tokens_say_what_the_vector_does_not():
    """Texts whose vectors are all one and whose tokens hold y: a prior that reads them nears the best one; control: the vector alone."""
    z, y = world(4096)
    same, read = torch.ones(len(y), D), Entry.of(torch.stack([y, torch.zeros_like(y)], dim=1))
    held, asked = world(512, seed=9)
    errors = []
    for tokens in (read, None):
        torch.manual_seed(0)
        net = CausalPrior(D, context=0 if tokens is None else D, length=2, width=32, depth=2, heads=2)
        prior, data = NetDenoiser(net, Flow(), "x0", shape=(D,)), Looked(TensorSet(z), same, tokens)
        task, optimizer = Denoising(prior, Uniform(), drop=0.0), torch.optim.Adam(net.parameters(), 3e-3)
        for step in range(150):
            rows = torch.arange(64 * step, 64 * step + 64) % len(z)
            loss = task.loss("denoiser", data.batch(rows), Draws(0, 64 * step, 64), Moment(step, 64 * step, 9600))
            optimizer.zero_grad()
            sum(part.mean() for part in loss.values()).backward()
            optimizer.step()
        told = {} if tokens is None else {"text": Entry.of(torch.stack([asked, torch.zeros_like(asked)], dim=1))}
        with torch.no_grad():
            x0 = prior(torch.randn(512, D), 1.0, Cond(vector=torch.ones(512, D), **told)).x0
        errors.append(float((x0 - held).square().mean()))
    assert errors[0] < 0.75 * errors[1]
