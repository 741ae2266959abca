"""The closed form of captions is a Gaussian process, leaves out in training what is its own, and says what pictures called alike share."""

import pytest
import torch

import reverie as rv
from reverie.core import spelling
from reverie.core.condition import Cond, Entry
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.nets import caption_prior
from reverie.nets.caption_prior import CaptionPrior

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0), "white": (1.0, 1.0, 1.0)}
THINGS = ["house", "river", "mountain", "lantern", "sparrow", "kettle", "violin", "garden"]


def grams(*texts: str) -> torch.Tensor:
    return spelling.grams(spelling.spelled(texts, 256))


@pytest.fixture
def world() -> tuple[torch.Tensor, list[str]]:
    """Pictures whose upper half has the colour of the caption's first word, with noise; all pairs but four."""
    texts = [f"{colour} {thing}" for i, colour in enumerate(COLOURS) for j, thing in enumerate(THINGS) if j != i]
    x = torch.zeros(len(texts), 3, 4, 4)
    x[:, :, :2] = torch.tensor([COLOURS[text.split()[0]] for text in texts])[:, :, None, None]
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), texts


def fitted(x: torch.Tensor, texts: list[str], captions: int = 40) -> CaptionPrior:
    prior = CaptionPrior(captions, tuple(x.shape[1:]), 8)
    prior.fit(x, grams(*texts))
    return prior.eval()


def test_grams_count_what_two_texts_share():
    a, b, c = grams("red house", "red horse", "my violin")
    assert torch.allclose(grams("red house", "x").norm(dim=1), torch.ones(2))
    assert a @ b > 0.4 > 0.1 > (a @ c).abs()
    longer = spelling.spelled(["red house", "red house and a very long text behind it"], 256)
    assert torch.equal(spelling.grams(longer)[0], a)  # padding changes nothing
    learned, other = (
        spelling.grams(spelling.spelled(["red <mine>"], 256, {"<mine>": several})) for several in ([300], [301, 302])
    )
    assert torch.equal(learned, other) and learned @ grams("red").T > 0.7 > learned @ grams("red <mine>").T + 0.05
    assert not spelling.grams(torch.zeros(1, 1, dtype=torch.int64)).any()


def test_the_mean_is_that_of_a_gaussian_process(world: tuple[torch.Tensor, list[str]]):
    """Conditioning a joint Gaussian by a solve of its covariance, with the kernel and the noise that were chosen."""
    x, texts = world
    prior, new = fitted(x, texts), grams("white river", "green violin")
    known, power = grams(*texts).double(), float(prior.power)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (power * (a @ b.T - 1)).exp()

    flat = x.flatten(1).double()
    centred = flat - flat.mean(0)

    def expected(ridge: float) -> torch.Tensor:
        weights = torch.linalg.solve(kernel(known, known) + ridge * torch.eye(len(x)), centred)
        return flat.mean(0) + kernel(new.double(), known) @ weights

    far = [float((prior.expected(new) - expected(ridge)).abs().max()) for ridge in caption_prior.RIDGES]
    assert min(far) < 1e-5 < 1e-3 < sorted(far)[1]


def test_in_training_a_picture_does_not_know_itself(world: tuple[torch.Tensor, list[str]]):
    x, texts = world
    prior = fitted(x, texts)
    likely = prior.inverse.double().inverse() - torch.exp(
        prior.power.double() * (grams(*texts).double() @ grams(*texts).double().T - 1)
    )
    ridge = float(likely.diagonal().mean())
    own = grams(texts[5])
    others = [i for i in range(len(x)) if i != 5]
    known = grams(*[texts[i] for i in others]).double()
    flat, power = x.flatten(1).double(), prior.power.double()
    kernel = torch.exp(power * (known @ known.T - 1)) + ridge * torch.eye(len(known))
    without = flat.mean(0) + torch.exp(power * (own.double() @ known.T - 1)) @ torch.linalg.solve(
        kernel, flat[others] - flat.mean(0)
    )
    with_it = prior.expected(own)
    left_out = prior.train().expected(own)
    assert torch.allclose(left_out, without.float(), atol=1e-4)
    assert (with_it - left_out).abs().max() > 0.02


def test_it_knows_a_pair_that_it_has_not_seen_and_shuffled_captions_say_nothing(
    world: tuple[torch.Tensor, list[str]],
):
    x, texts = world
    new = [f"{colour} {THINGS[i]}" for i, colour in enumerate(COLOURS)]
    truth = torch.tensor([COLOURS[text.split()[0]] for text in new])[:, :, None, None]

    def error(texts: list[str]) -> float:
        mean = fitted(x, texts).expected(grams(*new)).view(-1, 3, 4, 4)
        return float((mean[:, :, :2] - truth).square().mean())

    shuffled = [texts[i] for i in torch.randperm(len(texts), generator=torch.Generator().manual_seed(1)).tolist()]
    assert error(texts) < 0.25 < 0.7 < error(shuffled)


def test_the_denoiser_is_that_of_the_gaussian_around_the_mean(world: tuple[torch.Tensor, list[str]]):
    x, texts = world
    prior = fitted(x, texts)
    said = Cond(grams=Entry.of(grams("green violin", "white river")))
    point = Flow().point(torch.tensor(0.6)).align(x)
    noisy = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    mean = prior.expected(grams("green violin", "white river"))
    around = prior.around
    axes, values, rest = around.axes.double(), around.values[0].double(), around.rest[0].double()
    covariance = rest * (torch.eye(48, dtype=torch.float64) - axes @ axes.T) + axes @ values.diag() @ axes.T
    a, s = point.alpha.double().item(), point.sigma.double().item()  # pyright: ignore[reportAttributeAccessIssue]
    middle = (mean + around.means[0]).double()
    gain = a * covariance @ torch.linalg.inv(a * a * covariance + s * s * torch.eye(48))
    by_hand = middle + (noisy.flatten(1).double() - a * middle) @ gain.T
    assert torch.allclose(prior(noisy, point, said).x0.flatten(1).double(), by_hand, atol=1e-5)
    untold = prior.untold(noisy, point).out
    assert torch.equal(prior(noisy, point, said.null()).out, untold)
    assert torch.equal(prior(noisy, point).out, untold)
    half = prior(noisy, point, said.drop(torch.tensor([True, False]))).out
    assert torch.equal(half, torch.stack([prior(noisy, point, said).out[0], untold[1]]))
    away = Cond(grams=said["grams"]._replace(null=grams("red river").expand(2, -1)))
    assert torch.allclose(
        prior(noisy, point, away.null()).out, prior(noisy, point, Cond(grams=grams("red river"))).out, atol=1e-6
    )


def test_neighbours_are_pictures_of_the_nearest_captions_and_in_training_not_its_own(
    world: tuple[torch.Tensor, list[str]],
):
    x, texts = world
    prior = CaptionPrior(40, (3, 4, 4), 8, neighbours=2)
    prior.fit(x, grams(*texts))
    asked = grams("red garden", texts[5])

    def nearest(row: int, but: int | None = None) -> list[int]:
        cosine = (grams(*texts) @ asked[row]).tolist()
        return sorted((i for i in range(len(texts)) if i != but), key=lambda i: -cosine[i])[:2]

    near = prior.eval().nearest(asked).unflatten(1, (2, 3))
    assert torch.equal(near[0], x[nearest(0)]) and torch.equal(near[1], x[nearest(1)])
    assert nearest(1)[0] == 5
    left_out = prior.train().nearest(asked).unflatten(1, (2, 3))
    assert torch.equal(left_out[1], x[nearest(1, but=5)])
    few = CaptionPrior(40, (3, 4, 4), 8, neighbours=40).eval()
    few.fit(x, grams(*texts))
    assert not few.nearest(asked)[:, 3 * len(texts) :].any()  # nothing is remembered there
    with pytest.raises(InputError, match="3 neighbours among 2 captions"):
        CaptionPrior(2, (3, 4, 4), 8, neighbours=3)


def test_a_network_is_shown_neighbours_of_what_it_is_told(world: tuple[torch.Tensor, list[str]]):
    x, texts = world
    prior = CaptionPrior(40, (3, 4, 4), 8, neighbours=2)
    prior.fit(x, grams(*texts))
    prior.eval()
    point = Flow().point(torch.tensor(0.6)).align(x)
    noisy = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    asked = grams("green violin", "white river")
    said = Cond(grams=Entry.of(asked))

    def shown(cond: Cond | None) -> torch.Tensor:
        first = prior(noisy, point, cond)
        seen = prior.shown(first, cond)
        assert torch.equal(seen[:, :3], first.x0)
        return seen[:, 3:]

    assert torch.equal(shown(said), prior.nearest(asked))
    assert not shown(None).any() and not shown(said.null()).any()
    half = shown(said.drop(torch.tensor([True, False])))
    assert torch.equal(half[0], prior.nearest(asked)[0]) and not half[1].any()
    away = Cond(grams=said["grams"]._replace(null=grams("red river").expand(2, -1)))
    assert torch.equal(shown(away.null()), prior.nearest(grams("red river")).expand(2, -1, -1, -1))


def test_a_recipe_of_captions_takes_it_and_says_so_where_there_are_none():
    from reverie.diffusion.config import DenoisingConfig
    from reverie.nets.config import DiTConfig

    said = rv.data.load("emoji", "test", size=8).with_captions()
    net = DiTConfig(patch=4, width=16, depth=1, heads=2)
    config = DenoisingConfig(net=net, prior=4, prior_captions=300, prior_neighbours=2)
    model = config.build(said.spec, 0)
    config.task(model, said, said, config.Sample(), 0)
    assert set(model.conditions) == {"text", "vector", "grams"}
    told = model.conditioner("a red heart", negative="a face")
    assert told["grams"].null is not None
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = (model(x, 0.9, model.conditioner(text)).x0 for text in ("flag of france", "face with open mouth"))
    assert (one - other).abs().max() > 0.05
    with pytest.raises(InputError, match=r"--data\.captions"):
        config.build(rv.data.load("emoji", "test", size=8).spec, 0)
    with pytest.raises(InputError, match="--prior RANK"):
        DenoisingConfig(net=net, prior_captions=300).build(said.spec, 0)
    with pytest.raises(InputError, match="--prior-captions"):
        DenoisingConfig(net=net, prior=4, prior_neighbours=2).build(said.spec, 0)
