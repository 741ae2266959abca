"""Probes: held to scikit-learn, brute force and tables; heads to tasks that some of them cannot do."""

from itertools import islice

import pytest
import torch
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import reverie as rv
from reverie.core.errors import InputError
from reverie.read.probes import grid, heads, probe


def blobs(n: int, d: int, classes: int = 4, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(classes, d, generator=torch.Generator().manual_seed(7))[y] + torch.randn(n, d, generator=rng), y


@pytest.mark.parametrize("d", [6, 80])  # fewer and more features than examples
def test_linear_is_the_optimum_that_scikit_learn_finds(d):
    x, y = blobs(60, d)
    ours = probe.linear(x, y)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(scaled, y.numpy())
    asked, _ = blobs(50, d, seed=1)
    expected = theirs.predict_log_proba(((asked - x.mean(0)) / x.std(0, correction=0)).numpy())
    torch.testing.assert_close(ours.logits(asked).log_softmax(1), torch.tensor(expected).float(), rtol=0.02, atol=0.02)


def test_the_penalty_is_that_which_does_best_on_other_pictures():
    """A faint class in many numbers wants a strong penalty, a clear one in few numbers a weak one."""
    rng = torch.Generator().manual_seed(0)

    def drawn(n: int, d: int, signal: float):
        y = torch.arange(n) % 2
        x = torch.randn(n, d, generator=rng)
        x[:, :4] += signal * (2.0 * y - 1)[:, None]
        x[:, 4:] *= 3.0
        return x, y

    chosen = []
    for d, signal in ((600, 1.2), (4, 0.7)):
        (x, y), other, (asked, truth) = drawn(100, d, signal), drawn(2000, d, signal), drawn(2000, d, signal)
        found = probe.tuned(x, y, other)
        each = {p: probe.linear(x, y, penalty=p) for p in probe.PENALTIES}
        best = max(probe.PENALTIES, key=lambda p: each[p].accuracy(*other))
        chosen.append(best)
        torch.testing.assert_close(found.weight, each[best].weight)
        assert found.accuracy(asked, truth) >= max(fit.accuracy(asked, truth) for fit in each.values()) - 0.02
        scaled, scaled_asked = ((v - x.mean(0)) / x.std(0, correction=0) for v in (x, asked))
        theirs = LogisticRegression(C=1.0 / best, tol=1e-8, max_iter=5000).fit(scaled.numpy(), y.numpy())
        assert found.accuracy(asked, truth) == pytest.approx(
            theirs.score(scaled_asked.numpy(), truth.numpy()), abs=0.01
        )


def test_neighbours_vote_as_scikit_learn_says():
    x, y = blobs(200, 5)
    asked, truth = blobs(100, 5, seed=1)
    ours = probe.neighbours(x, y, asked, k=15)
    u, v = x - x.mean(0), asked - x.mean(0)
    theirs = KNeighborsClassifier(15, metric="cosine", weights=lambda d: torch.exp(-torch.tensor(d) / 0.07).numpy())
    expected = theirs.fit(u.numpy(), y.numpy()).predict(v.numpy())
    assert (ours.argmax(1).numpy() == expected).all()
    assert probe.accuracy(ours, truth) > 0.5


def test_interval_is_students():
    values = [0.5, 0.6, 0.58, 0.7]
    low, high = student.interval(0.95, 3, loc=0.595, scale=torch.tensor(values).std().item() / 2)
    found = probe.interval(values)
    assert found == pytest.approx((0.595, low, high), abs=1e-4)
    for n in (2, 10, 31):
        assert probe.T95[n - 2] == pytest.approx(student.ppf(0.975, n - 1), abs=1e-3)


def test_few_labels_are_balanced():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] * 50)
    rows = probe.few(labels, 15, seed=3)
    assert labels[rows].bincount().tolist() == [5, 5, 5]
    assert len(rows.unique()) == 15
    assert probe.few(labels, 40, seed=3).unique().numel() == 40  # one class runs out, the others fill up
    assert not torch.equal(rows, probe.few(labels, 15, seed=4))
    with pytest.raises(InputError, match="2 labels are too few for 3 classes"):
        probe.few(labels, 2)
    with pytest.raises(InputError, match="there are 149"):
        probe.few(labels, 200)


def test_labels_of_another_length():
    with pytest.raises(InputError, match="for 5 pictures"):
        probe.linear(torch.randn(5, 2), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="float"):
        probe.linear(torch.randn(2, 2), torch.tensor([0.0, 1.0]))


def test_heads_learn_side_by_side_what_they_can():
    """Exclusive or of two channels: no line does it. Both heads see the same batches in one sweep."""
    rng = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (512, 2), generator=rng)
    x = ((2.0 * signs - 1) + 0.2 * torch.randn(512, 2, generator=rng))[:, :, None, None].expand(-1, 2, 2, 2)
    x = torch.cat([x, torch.randn(512, 6, 2, 2, generator=rng)], dim=1)
    y = signs[:, 0] ^ signs[:, 1]
    built = {name: heads.build(name, 8, 2, 2) for name in ("linear", "mlp", "attention")}
    source = ((dict.fromkeys(built, f["x"]), labels) for f, labels in heads.shuffled({"x": x[:400]}, y[:400], 64))
    heads.fit(built, islice(source, 150), 150, lr=5e-3)
    with torch.no_grad():
        right = {name: probe.accuracy(head(x[400:]), y[400:]) for name, head in built.items()}
    assert right["mlp"] > 0.9
    assert right["attention"] > 0.9
    assert right["linear"] < 0.7


def test_the_convolutional_head_sees_places_that_a_mean_does_not():
    """Which of two marks is the left one: equal on average over places."""
    y = torch.arange(200) % 2
    x = torch.zeros(200, 8, 4, 4)
    row = torch.randint(0, 4, (200,))
    for i in range(200):
        x[i, int(y[i]), row[i], 1], x[i, 1 - int(y[i]), row[i], 2] = 1.0, 1.0
    built = {"conv": heads.build("conv", 8, 4, 2)}
    heads.fit(built, islice(heads.shuffled({"conv": x[:150]}, y[:150], 50), 150), 150, lr=3e-3)
    with torch.no_grad():
        assert probe.accuracy(built["conv"](x[150:]), y[150:]) > 0.9
    assert probe.linear(x[:150].mean((2, 3)), y[:150]).accuracy(x[150:].mean((2, 3)), y[150:]) < 0.7


def test_unknown_head():
    with pytest.raises(InputError, match="linear"):
        heads.build("liner", 8, 2, 2)


def test_by_default_a_probe_sees_a_little_of_where_things_are(unet):
    """Of eight channels a mean over the whole map leaves too little; the papers' networks have hundreds."""
    train, test = (rv.data.load("digits8", split) for split in ("train", "test"))
    how = {"labels": 100, "seeds": 2, "sites": ["down.0.0"], "t": [0.05], "pictures": 200}
    usual, mean = grid.run(unet, train, test, **how), grid.run(unet, train, test, **how, pool=1)
    assert (usual.pool, mean.pool) == (2, 1)
    assert usual.trained.score.mean > mean.trained.score.mean + 0.06
    assert usual.pixels == mean.pixels
