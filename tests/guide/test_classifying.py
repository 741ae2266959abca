"""A noise-aware classifier, trained: it learns what can be known at each noise level, and guides."""

import torch
from torch.optim import Adam

from reverie import guide
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion.classifying import Classifying
from reverie.guide.classifier import NetClassifier, gradient
from reverie.nets.config import EncoderConfig
from reverie.nets.encoder import Encoder
from reverie.solve import DDIM, sample

NOW = Moment(0, 0, 1)


class Plane(torch.nn.Module):
    """A perceptron on points of the plane and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2)
        )

    def forward(self, x, time):
        return self.layers(torch.cat([x, time.expand(len(x))[:, None]], 1))


def data() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    return GaussianMixture(torch.ones(2), means, 0.09 * torch.eye(2).expand(2, 2, 2), labels=[0, 1])


def trained(shuffled: bool = False) -> NetClassifier:
    found = NetClassifier(Plane(), Flow(), 2, shape=(2,))
    task = Classifying(found, Uniform())
    optimizer = Adam(found.net.parameters(), 3e-3)
    known, generator = data(), torch.Generator().manual_seed(0)
    for step in range(300):
        x = known.sample(128, generator)
        label = (x[:, 0] < 0).long() if not shuffled else torch.randint(2, (128,), generator=generator)
        loss = task.loss("classifier", Batch(x, Cond(label=label)), Draws(0, 128 * step, 128), NOW)["entropy"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def test_it_learns_the_exact_classifier_at_every_noise_level():
    found, exact = trained(), data().classifier(Flow())
    for t in (0.3, 0.6, 0.9):
        point = Flow().point(t)
        x = point.alpha * data().sample(500) + point.sigma * torch.randn(500, 2)
        error = (found(x, point).exp() - exact(x, point).exp()).abs().mean()
        assert error < 0.12  # half of the probabilities' range when nothing is learned
    label = torch.zeros(500, dtype=torch.long)
    point = Flow().point(0.6)
    x = point.alpha * data().sample(500) + point.sigma * torch.randn(500, 2)
    ours, theirs = (gradient(each, x, point, label) for each in (found, exact))
    assert torch.nn.functional.cosine_similarity(ours, theirs).mean() > 0.9

    free = GaussianMixture(torch.ones(2), data().means, data().covariances).denoiser(Flow())
    drawn = sample(guide.classifier(free, found), 200, Cond(label=1), DDIM(), 20)
    assert (drawn[:, 0] < 0).double().mean() > 0.8  # a half by chance


def test_a_classifier_of_shuffled_labels_guides_nowhere():
    found = trained(shuffled=True)
    free = GaussianMixture(torch.ones(2), data().means, data().covariances).denoiser(Flow())
    drawn = sample(guide.classifier(free, found), 200, Cond(label=1), DDIM(), 20)
    assert 0.3 < (drawn[:, 0] < 0).double().mean() < 0.7


def test_the_encoder_reads_pictures_time_and_place():
    net = Encoder(
        EncoderConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,)), channels=1, size=8, classes=5
    ).eval()
    for parameter in net.parameters():
        if not parameter.any():  # what starts at zero hides the time
            torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(3, 1, 8, 8)
    out = net(x, torch.tensor(0.5))
    assert out.shape == (3, 5)
    assert torch.allclose(out, net(x, torch.full((3,), 0.5)), atol=1e-6)
    assert (out - net(x, torch.tensor(0.9))).abs().max() > 1e-4
    assert (out - net(x.roll(4, -1), torch.tensor(0.5))).abs().max() > 1e-4
    assert torch.allclose(out[:1], net(x[:1], torch.tensor(0.5)), atol=1e-5)


def test_validation_reports_accuracy_by_noise_level():
    net = Encoder(EncoderConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,)), channels=1, size=8, classes=2)
    images = torch.cat([torch.full((32, 1, 8, 8), -0.8), torch.full((32, 1, 8, 8), 0.8)])
    labels = torch.arange(2).repeat_interleave(32)
    task = Classifying(
        NetClassifier(net, Flow(), 2, shape=(1, 8, 8)), Uniform(), held_out=Batch(images, Cond(label=labels))
    )
    optimizer = Adam(net.parameters(), 3e-3)
    for step in range(20):
        loss = task.loss("classifier", Batch(images, Cond(label=labels)), Draws(0, 64 * step, 64), NOW)[
            "entropy"
        ].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = task.validate()
    assert found["accuracy"] > 0.8
    assert found["bins"][0] > found["bins"][-1]  # clean is easier than noisy


def test_labels_are_needed():
    import pytest

    task = Classifying(NetClassifier(Plane(), Flow(), 2, shape=(2,)), Uniform())
    with pytest.raises(InputError, match=r"learns from labels"):
        task.loss("classifier", Batch(torch.zeros(4, 2)), Draws(0, 0, 4), NOW)
