"""The peers of bench/train.py do what their authors' code does, and its loop is the loop of ``reverie train`` until time is up."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.task import Moment, Player, Task
from reverie.data import Loader, load
from reverie.learn import TrainConfig, optim
from reverie.learn.checkpoint import Checkpoints
from reverie.learn.ema import power
from reverie.learn.loop import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
diffusers = pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import learners  # noqa: E402
from learners import DDPM, LEARNERS, Learner, edm_decay, learn, warmed_up  # noqa: E402

from ..margin import apart  # noqa: E402

NOW = Moment(0, 0, 1)


class Ticking:
    """A clock that goes by one second at each look."""

    def __init__(self) -> None:
        self.seconds = -1.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


class Regressing(Task):
    """A linear map of the pictures' rows, learned from noise."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.players = {"map": Player(nn.Linear(8, 4))}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        assert self.players["map"].module.training
        said = self.players["map"].module(batch.x.flatten(1)[:, :8])
        return {"mse": (said - rng.normal("noise", (4,))).square().mean(1)}


def learner(task: Task, config: TrainConfig, seed: int = 0) -> Learner:
    return Learner(task, Loader(load("digits8"), seed), config, power(0.1), lambda *_: torch.zeros(()), False)


def test_the_loop_is_that_of_train(tmp_path: Path):
    config = TrainConfig(
        images=40, batch=8, lr=0.01, warmup=0, decay="linear", clip=0.1, ema_profiles=(), save_every=40
    )
    mine, other = Regressing(), Regressing()
    mine.players["map"].module.eval()
    assert learn(learner(mine, config), 5.0, Ticking(), 0.0, 0) == 40
    train(other, Loader(load("digits8"), 0), config, tmp_path, seed=0)
    kept = Checkpoints(tmp_path / "checkpoints").newest_whole()
    assert kept is not None
    weights = mine.players["map"].module.state_dict()
    average = {name.removeprefix("map."): value for name, value in kept.tensors("ema").items()}
    torch.testing.assert_close(weights, average)

    unlike = Regressing()
    learn(learner(unlike, config), 5.0, Ticking(), 0.0, seed=1)
    assert apart(unlike.players["map"].module.state_dict()["weight"], weights["weight"]) > 1e-4


def test_the_average_is_that_of_the_example():
    weight = nn.Parameter(torch.zeros(3))
    theirs = diffusers.training_utils.EMAModel([weight], decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    average, unlike, batch = torch.zeros(3), torch.zeros(3), 16
    for step in range(30):
        with torch.no_grad():
            weight.copy_(torch.randn(3))
        theirs.step([weight])
        for values, decay in ((average, warmed_up(batch)), (unlike, power(0.1))):
            values.lerp_(weight.detach(), 1.0 - decay(step * batch, (step + 1) * batch))
    torch.testing.assert_close(average, theirs.shadow_params[0])
    assert apart(unlike, theirs.shadow_params[0]) > 1e-3


@pytest.mark.parametrize(("decay", "same"), [("cosine", True), ("linear", False)])
def test_the_rates_are_those_of_the_example(decay: str, same: bool):
    steps, warmup = 200, 20
    moved = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = diffusers.optimization.get_cosine_schedule_with_warmup(moved, warmup, steps)
    config = TrainConfig(images=steps, batch=1, warmup=warmup, decay=decay)  # pyright: ignore[reportArgumentType]
    rates, told = [], []
    for step in range(1, steps):
        moved.step()
        theirs.step()
        told.append(theirs.get_last_lr()[0])
        rates.append(optim.factor(config, step))
    # our first step already moves: in the warm-up we are one step ahead
    rates[: warmup - 1] = [rate - 1 / warmup for rate in rates[: warmup - 1]]
    assert (max(abs(a - b) for a, b in zip(rates, told, strict=True)) < 1e-6) == same


class Knowing(nn.Module):
    """Says the noise in what it is given, for it knows the pictures; times ``factor``."""

    def __init__(self, x: Tensor, scheduler, factor: float) -> None:
        super().__init__()
        self.x, self.scheduler, self.factor = x, scheduler, factor

    def forward(self, noisy: Tensor, t: Tensor, class_labels: Tensor):
        power = self.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - power.sqrt() * self.x) / (1.0 - power).sqrt()
        return type("Said", (), {"sample": self.factor * noise})


def test_the_loss_is_the_error_of_the_noise():
    task = DDPM(8, 1, 10, (8, 8))
    x, rng = torch.rand(6, 1, 8, 8), Draws(0, 0, 6)
    batch = Batch(x, Cond(label=torch.arange(6)))
    folded = torch.nn.functional.pixel_unshuffle(x, 2)
    for factor, expected in ((1.0, 0.0), (0.0, 1.0)):
        task.unet = Knowing(folded, task.scheduler, factor)  # pyright: ignore[reportAttributeAccessIssue]
        loss = task.loss("unet", batch, rng, NOW)["mse"]
        assert abs(float(loss.mean()) - expected) < (1e-6 if factor else 0.3)


def test_guidance_goes_from_no_class_through_the_class():
    task = DDPM(8, 1, 10, (8, 8))

    class Labels(nn.Module):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor):
            return type("Said", (), {"sample": class_labels.view(-1, 1, 1, 1).expand_as(x).float()})

    task.unet = Labels()  # pyright: ignore[reportAttributeAccessIssue]
    x, labels = torch.zeros(3, *task.folded), torch.tensor([0, 4, 9])
    for scale in (1.0, 3.0):
        said = task.guided(x, torch.tensor(5), labels, scale)[:, 0, 0, 0]
        torch.testing.assert_close(said, 10.0 + scale * (labels - 10.0))


def test_half_is_forgotten_in_the_half_life_and_sooner_at_first():
    def kept(start: int, end: int, step: int) -> float:
        left = 1.0
        for before, after in itertools.pairwise(range(start, end + 1, step)):
            left *= edm_decay(before, after)
        return left

    assert abs(kept(20_000_000, 20_500_000, 10_000) - 0.5) < 1e-9
    assert kept(100_000, 600_000, 1_000) < 0.01
    assert abs(edm_decay(950, 1_000) - 0.5) < 1e-9


@pytest.mark.parametrize("name", LEARNERS)
def test_every_peer_learns_and_draws(name: str):
    made = LEARNERS[name]("mnist5k", 0)
    before = [p.detach().clone() for p in made.net.parameters()]
    assert learn(made, 2.0, Ticking(), 0.0, 0) == 2 * made.config.batch
    assert any(bool((p != b).any()) for p, b in zip(made.net.parameters(), before, strict=True))
    samples = made.draw(2, torch.tensor([3, 5]), 2.0, 0)
    assert samples.shape == (2, 1, 28, 28) and samples.isfinite().all()
    assert learners.named("mnist5k").data.name == "mnist5k"
