"""One head for all noise: it knows what the probes know, is told the time, and guides a network that knows no class."""

import polar
import pytest
import torch

from reverie import guide, sample
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.data import ImageSet
from reverie.guide.classifier import gradient
from reverie.read import untrained
from reverie.read.probes import noise_conditional

SITE = "up.0.0"


@pytest.fixture(scope="module")
def bed():
    return [
        ImageSet(
            "polar", name, ((part.images + 1.0) * 127.5).round().byte(), torch.arange(len(part.labels)), part.labels
        )
        for name, part in zip(("train", "test"), polar.bed(), strict=True)
    ]


@pytest.fixture(scope="module")
def judges(bed):
    trained = polar.load()
    models = {"trained": trained, "untrained": untrained(trained)}
    return {name: noise_conditional.train(model, bed[0], SITE, epochs=8, lr=5e-3) for name, model in models.items()}


def test_it_knows_the_class_until_there_is_nothing_to_see(judges, bed):
    found = {name: noise_conditional.accuracy(judge, bed[1], [0.05, 0.7, 0.97]) for name, judge in judges.items()}
    trained = found["trained"]
    assert trained[0.05] > trained[0.7] + 0.1 and trained[0.7] > trained[0.97] + 0.05, found
    assert trained[0.97] < 0.2 < 0.4 < trained[0.05], found
    assert trained[0.05] > found["untrained"][0.05] + 0.08, found


def test_it_says_log_probabilities_that_depend_on_the_time(judges):
    judge = judges["trained"]
    x = torch.randn(4, 1, 8, 8)
    early, late = (judge(x, judge.schedule.point(t)) for t in (0.1, 0.6))
    torch.testing.assert_close(early.exp().sum(1), torch.ones(4))
    feature = judge.feature(x, judge.schedule.point(0.1))
    told = [judge.head(feature, torch.full((4,), t)) for t in (0.1, 0.6)]
    assert (told[0] - told[1]).abs().max() > 0.1, "the head itself hears the time"
    assert late.shape == (4, 10)


def test_its_gradient_makes_the_class_likelier(judges):
    judge = judges["trained"]
    point, label = judge.schedule.point(0.3), torch.tensor([3, 5, 8])
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step = gradient(judge, x, point, label)
    step = 0.05 * step / step.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    up, here, down = (judge(x + k * step, point).gather(1, label[:, None]) for k in (1, 0, -1))
    assert (up > here).all() and (here > down).all()


def looks_like(images):
    """The digit of the plain picture that correlates most with each, whatever its sign, contrast and brightness."""
    plain, labels = (part[: polar.TRAIN] for part in polar.digits())

    def unit(x):
        flat = x.flatten(1)
        return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)

    return labels[(unit(images) @ unit(plain).T).abs().argmax(1)]


def test_it_guides_a_network_without_classes(judges, bed):
    """Drawn digits are classified by their nearest neighbours in pixels, which know nothing of the judge."""
    some = bed[1].batch(range(100))
    assert (looks_like(some.x) == some.label).double().mean() > 0.9
    label, right = torch.arange(50) % 10, {}
    for scale in (0.0, 10.0):
        guided = guide.classifier(judges["trained"].denoise, judges["trained"], scale)
        drawn = sample(guided, 50, Cond(label=label), steps=15, seed=0)
        right[scale] = (looks_like(drawn) == label).double().mean().item()
    assert right[0.0] < 0.3 and right[10.0] > right[0.0] + 0.2, right


def test_pictures_without_labels(bed):
    with pytest.raises(InputError, match="no labels"):
        noise_conditional.train(polar.network(), bed[0].without_labels(), SITE)
