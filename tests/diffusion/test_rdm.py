"""Neighbours by brute force, and what is drawn follows the database: exactly for an exact denoiser, and after training."""

import pytest
import torch
import torch.nn.functional as F

import reverie as rv
from reverie import data
from reverie.cli import main
from reverie.core.condition import Tokens
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError, RunError
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.data import TensorSet
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.rdm import RDM, Database, Retrieved
from reverie.measure import judge
from reverie.nets.causal import CausalPrior

SPREAD = 0.05
TINY = (
    "--net.width 8 --net.multipliers 1 2 --net.attention 2 --net.blocks 1 --net.heads 2 --k 3 --train.images 64 --train.batch 16 "
    "--train.warmup 16 --train.sample-every 64 --train.validate-every 64 --sample.steps 2"
)


def test_the_nearest_are_those_of_brute_force_and_never_the_own_one():
    base = Database(torch.randn(300, 8), "some")
    queries = torch.randn(70, 8)
    cosines = F.normalize(queries, dim=1) @ base.vectors.T
    assert torch.equal(base.nearest(queries, 5), cosines.argsort(1, descending=True)[:, :5])
    assert torch.equal(base.neighbours(queries, 5)[:, 0], base.vectors[cosines.argmax(1)])
    own = torch.arange(300)
    assert torch.equal(base.nearest(base.vectors, 1)[:, 0], own)
    others = base.nearest(base.vectors, 4, own)
    assert (others != own[:, None]).all()
    assert torch.equal(others, base.nearest(base.vectors, 5)[:, 1:])


def test_mistakes_are_named():
    base = Database(torch.randn(4, 8), "some", "towers-a")
    with pytest.raises(InputError, match="made by towers-a: a query is \\(B, 8\\), got \\(2, 7\\)"):
        base.nearest(torch.randn(2, 7), 1)
    with pytest.raises(InputError, match="4 neighbours in a database of 4"):
        base.nearest(base.vectors, 4, torch.arange(4))
    with pytest.raises(InputError, match="at least one"):
        Database(torch.zeros(0, 8))
    model = RDM(exact(), Database(torch.randn(9, 2), by="towers-a"), 4)
    with pytest.raises(InputError, match="was made by judge-b"):
        model.swapped(Database(torch.randn(9, 2), by="judge-b"))
    with pytest.raises(InputError, match="vector of 2 numbers"):
        model.sample(1, rv.Cond(query=torch.randn(1, 3)))
    with pytest.raises(InputError, match="5 neighbours"):
        RDM(exact(), Database(torch.randn(9, 2)), 5)


def test_a_database_is_kept_as_it_is(tmp_path):
    base = Database(torch.randn(9, 2), "some", "by")
    base.save(tmp_path / "d.safetensors")
    again = Database.load(tmp_path / "d.safetensors")
    assert torch.allclose(again.vectors, base.vectors, atol=1e-6) and (again.name, again.by) == ("some", "by")
    judge.load("mnist5k").save(tmp_path / "j.safetensors")
    with pytest.raises(RunError, match="holds no database"):
        Database.load(tmp_path / "j.safetensors")


def test_pictures_are_told_their_neighbours_and_not_themselves():
    x = F.normalize(torch.randn(40, 2), dim=1)
    pictures = TensorSet(x[:, :, None, None].expand(-1, -1, 4, 4).clone())
    base = Database.of(pictures, look)
    told = Retrieved(pictures, base, None, 3)
    batch = told.batch([5, 7])
    assert torch.equal(batch.x, pictures.x[[5, 7]])
    context = batch.cond["text"].value  # pyright: ignore[reportOptionalSubscript]
    assert context.shape == (2, 3, 2) and told.spec.conditions == {"text": Tokens(2, 3)}
    assert not (context == x[[5, 7], None]).all(2).any()
    elsewhere = Retrieved(pictures, base, x, 3).batch(
        [5, 7]
    )  # as queries that are not the database's own, each finds itself
    assert torch.allclose(elsewhere.cond["text"].value[:, 0], x[[5, 7]])  # pyright: ignore[reportOptionalSubscript]


def look(images):
    """The mean of each channel: a colour."""
    return images.mean((2, 3))


class Around(torch.nn.Module):
    """E[x0 | x_t] on the straight path of ``N(m, SPREAD²)`` about the mean m of the neighbours, each two numbers, a channel each."""

    def __init__(self):
        super().__init__()
        self.conditions = {"text": Tokens(2, 4)}
        self.dtype = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond=None):
        mean = cond["text"].value.mean(1)[:, :, None, None]
        alpha, sigma = 1.0 - time, time
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def exact():
    return NetDenoiser(Around(), Flow(), "x0", shape=(2, 4, 4))


def directions(angles):
    angles = torch.as_tensor(angles).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_another_database_draws_other_pictures_of_the_same_law_without_training():
    """Every sample lies about the mean of neighbours of its database: right for one of the right half, left for one of the left."""
    right, left = Database(directions([*range(-40, 41, 2)])), Database(directions([*range(140, 221, 2)]))
    model = RDM(exact(), right, 4, solver="heun", steps=10)
    here, there = model.sample(64), model.swapped(left).sample(64)
    assert (here[:, 0].mean((1, 2)) > 0.5).all() and (there[:, 0].mean((1, 2)) < -0.5).all()
    means = right.neighbours(model.queries(0, 64), 4).mean(1)
    rest = here - means[:, :, None, None]
    assert rest.std().item() == pytest.approx(SPREAD, rel=0.1) and rest.mean().abs() < 4 * SPREAD / 64**0.5


def test_a_query_draws_what_is_near_it_and_samples_do_not_depend_on_how_many():
    model = RDM(exact(), Database(directions([*range(0, 360, 3)])), 4, solver="heun", steps=6)
    query = directions([90])
    drawn = model.sample(8, rv.Cond(query=query))
    assert (F.cosine_similarity(drawn.mean((2, 3)), query) > 0.98).all()
    alone = model.sample(8)
    assert (F.cosine_similarity(alone.mean((2, 3)), query) < 0.9).sum() >= 4
    assert torch.allclose(model.sample(3), alone[:3], atol=1e-6)
    assert torch.allclose(model.sample(8, batch_size=3), alone, atol=1e-6)
    assert model.sample(seed=[1, 2]).shape == (2, 2, 4, 4)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "rdm", "--data", "mnist5k", "--embed", "mnist5k", *TINY.split(), "--out", "r"]) == 0
    return rv.load("r")


def test_a_run_is_trained_drawn_from_and_swapped_in_one_command_each(run, capsys):
    assert isinstance(run, RDM) and len(run.database) == 4000 and run.database.by == "judge-mnist5k"
    looks = judge.load("mnist5k")
    threes = data.load("mnist5k", "test")
    some = Database.of(threes, lambda x: F.normalize(looks(x), dim=1), looks.name)
    assert run.swapped(some).sample(2).shape == (2, 1, 28, 28)
    assert main(["sample", "r", "--n", "4"]) in (0, None)
    capsys.readouterr()
    assert main(["train", "rdm", "--data", "mnist5k"]) == 2
    assert "give --embed RUN" in capsys.readouterr().err
    assert main(["train", "rdm", "--data", "mnist5k", "--embed", "mnist5k", "--net", "jit"]) == 2
    assert "use --net dit" in capsys.readouterr().err
    assert main(["train", "rdm", "--data", "mnist5k", "--embed", "mnist5k", "--data.labels"]) == 2
    assert "--data.no-labels" in capsys.readouterr().err


def test_after_training_a_database_of_some_directions_draws_these():
    """At least 90 % of samples are of the directions of a database that the model was not trained with; control: its own, of all."""
    torch.manual_seed(0)
    points = TensorSet(0.7 * directions(torch.rand(4000) * 360) + 0.05 * torch.randn(4000, 2))
    base = Database.of(points, lambda x: x)
    told = Retrieved(points, base, None, 4)
    net = CausalPrior(2, context=2, length=4, width=32, depth=1, heads=2)
    denoise = NetDenoiser(net, Flow(), "x0", shape=(2,))
    task = Denoising(denoise, Uniform(), drop=0.1)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for i in range(200):
        optimizer.zero_grad()
        batch = told.batch(torch.randint(4000, (128,)))
        task.loss("denoiser", batch, Draws(0, 128 * i, 128), Moment(0, 0, 1))["mse"].mean().backward()
        optimizer.step()
    net.eval().requires_grad_(False)
    model = RDM(denoise, base, 4, solver="heun", steps=8)
    few = Database(directions([*range(-30, 31)]), "some")

    def share(model):
        drawn = model.sample(200)
        return (torch.atan2(drawn[:, 1], drawn[:, 0]).rad2deg().abs() < 45).double().mean().item()

    assert share(model.swapped(few)) >= 0.9 and share(model) < 0.45  # of all directions a quarter lie there
