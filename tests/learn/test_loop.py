"""The loop: exact resume, a log without gaps or repeats, players it has never heard of, and stopping when a loss is not finite."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from reverie.core.errors import RunError
from reverie.learn import Batch, Checkpoints, Draws, Moment, Optim, Player, Task, TrainConfig
from reverie.learn.journal import Journal, entries

from .conftest import CONFIG, denoising, pictures


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert set(a) == set(b)
    return all(torch.equal(a[key], b[key]) for key in a)


def interrupt_at(position: int, number: int = signal.SIGINT):
    """The data, with a signal to this process when the image at ``position`` is asked for."""

    def feed(start: int, count: int) -> Batch:
        if start <= position < start + count:
            signal.raise_signal(number)
        return pictures(start, count)

    return feed


def test_training_twice_gives_the_same_bits_and_another_seed_does_not(run):
    assert same(run("a"), run("b"))
    assert not same(run("a"), run("c", seed=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_and_resumed_is_bitwise_the_run_left_alone(run, tmp_path, optimizer, number):
    config = replace(CONFIG, optimizer=optimizer)
    run("b", config, feed=interrupt_at(200, number))
    stopped = Checkpoints(tmp_path / "b" / "checkpoints").latest()
    assert stopped is not None and stopped.state["images"] == 208
    assert same(run("a", config), run("b", config))
    assert not same(run("a", config), run("c", replace(config, images=384)))


def test_resuming_with_another_seed_is_not_the_run_left_alone(run):
    run("b", feed=interrupt_at(200))
    assert not same(run("a"), run("b", seed=1))


def test_a_run_killed_between_checkpoints_goes_back_to_the_last_one(run, tmp_path):
    def killed(start: int, count: int) -> Batch:
        if start >= 320:
            raise SystemExit  # nothing after the checkpoint at 288 is saved, as after kill -9
        return pictures(start, count)

    with pytest.raises(SystemExit):
        run("b", feed=killed)
    latest = Checkpoints(tmp_path / "b" / "checkpoints").latest()
    assert latest is not None and latest.state["images"] == 288
    assert any(entry["images"] > 288 for entry in entries(tmp_path / "b" / "log.jsonl"))
    assert same(run("a"), run("b"))
    logs = [list(entries(tmp_path / name / "log.jsonl")) for name in "ab"]
    for log in logs:
        for entry in log:
            entry.pop("seconds", None)
    assert logs[0] == logs[1]


def test_a_finished_run_is_left_as_it_is(run, tmp_path):
    weights = run("a")
    before = (tmp_path / "a" / "log.jsonl").read_text()
    assert same(weights, run("a")) and (tmp_path / "a" / "log.jsonl").read_text() == before


def test_micro_batches_change_nothing_but_rounding(run):
    whole, parts = run("a"), run("b", replace(CONFIG, micro_batch=5))
    assert max((whole[key] - parts[key]).abs().max() for key in whole) < 1e-5
    other = run("c", replace(CONFIG, batch=5))
    assert max((whole[key] - other[key]).abs().max() for key in whole if key in other) > 1e-3


def test_bf16_runs_and_differs(run):
    exact, rounded = run("a"), run("b", replace(CONFIG, bf16=True))
    assert all(value.isfinite().all() and value.dtype == exact[key].dtype for key, value in rounded.items())
    assert not same(exact, rounded)


def test_the_log(run, tmp_path):
    run("a")
    logged = list(entries(tmp_path / "a" / "log.jsonl"))
    training = [entry for entry in logged if "loss" in entry]
    assert [entry["images"] for entry in training] == [64, 96, 128, 192, 256, 288, 320, 384, 400]
    assert all({"step", "seconds", "mse", "grad_norm", "lr"} <= set(entry) for entry in training)
    validations = [entry["validation"] for entry in logged if "validation" in entry]
    assert len(validations) == 5 and validations[-1]["loss"] < 0.8 * validations[0]["loss"]
    assert len(validations[-1]["bins"]) == len(validations[-1]["logsnr"]) == 8


def test_the_log_drops_what_comes_after_a_checkpoint_and_a_line_cut_short(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"images": 1}\n{"images": 2}\n{"images": 3}\n{"ima')
    Journal(path, 2).add(3, loss=1.0)
    assert list(entries(path)) == [{"images": 1}, {"images": 2}, {"images": 3, "loss": 1.0}]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"images": 1}\n{"ima\n{"images": 3}\n')
    with pytest.raises(RunError, match="line 2 is damaged"):
        list(entries(path))


def test_previews_are_drawn_with_the_averaged_weights(run, tmp_path):
    task = denoising(CONFIG)
    seen = []

    def show(denoise):
        seen.append(denoise.net.out.weight.clone())
        return torch.zeros(4, 1, 4, 4), 2

    task.show = show
    weights = run("a", task=task)
    assert torch.equal(seen[-1], weights["ema/denoiser.out.weight"])
    assert not torch.equal(seen[-1], weights["model/denoiser.out.weight"])
    names = sorted(path.name for path in (tmp_path / "a" / "samples").iterdir())
    assert names == [f"step-{step:08d}.png" for step in (6, 12, 18, 24, 25)]
    with Image.open(tmp_path / "a" / "samples" / names[0]) as image:
        assert image.size == (130, 130)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_touched(run, tmp_path):
    def poisoned(start: int, count: int) -> Batch:
        batch = pictures(start, count)
        if start == 320:
            batch.x[3] = float("nan")
        return batch

    with pytest.raises(RunError) as error:
        run("a", feed=poisoned)
    message = str(error.value)
    for part in (
        "step 20",
        "image 320",
        "'mse'",
        "1 of 16 samples",
        "logsnr",
        "learning rate",
        "step-00000018",
        "train.lr",
    ):
        assert part in message
    assert all(value.isfinite().all() for value in run("a").values())


def test_a_gradient_that_is_not_finite_stops_the_run(run):
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # pyright: ignore[reportIncompatibleMethodOverride]
            return x

        @staticmethod
        def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad * float("inf")

    task = denoising(CONFIG)
    task.weight = lambda lam: Steep.apply(torch.ones_like(lam).requires_grad_())  # pyright: ignore[reportAttributeAccessIssue]
    task.denoise.net.register_forward_hook(lambda module, args, out: Steep.apply(out))
    with pytest.raises(RunError, match="gradient norm of denoiser is"):
        run("a", task=task)


class Duel(Task):
    """Two players on one number each and a teacher that follows: the smallest task that needs all the loop gives."""

    def __init__(self) -> None:
        self.left, self.right, self.teacher = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        for module in (self.left, self.right, self.teacher):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        self.players = {
            "left": Player(self.left, optim=Optim(lr=0.1, weight_decay=0.0)),
            "right": Player(self.right, optim=Optim(lr=0.02), average=False),
            "teacher": Player(self.teacher, optim=None, train=False),
        }
        self.moves: list[str] = []

    def turns(self, progress):
        return ["left", "right"] if progress.step % 3 == 0 else ["left"]

    def loss(self, player, batch, rng, progress):
        self.moves.append(player)
        x = rng.normal("x", (1,))
        gap = self.left(x) - self.right(x)
        return {
            "gap": (gap if player == "left" else -gap).mean(),
            "pull": self.players[player].module(x).square()[:, 0],
        }

    def after_step(self, progress):
        self.moves.append(f"after {progress.images}")
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.left.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)


def test_two_players_and_a_teacher_with_their_own_cadence_resume_bitwise(run, tmp_path):
    config = TrainConfig(images=128, batch=16, warmup=0, log_every=32, save_every=48, clip=1e9)
    alone, task = run("a", config, task=(first := Duel())), Duel()
    run("b", config, task=task, feed=interrupt_at(80))
    assert first.moves[:8] == ["left", "right", "after 16", "left", "after 32", "left", "after 48", "left"]
    assert same(alone, run("b", config, task=Duel()))
    teacher = alone["model/teacher.weight"]
    assert teacher != 1.0 and torch.equal(teacher, alone["ema/teacher.weight"])
    assert torch.equal(alone["model/right.weight"], alone["ema/right.weight"])
    assert not torch.equal(alone["model/left.weight"], alone["ema/left.weight"])
    entry = json.loads((tmp_path / "a" / "log.jsonl").read_text().splitlines()[0])
    assert {"left.loss", "left.gap", "left.pull", "right.loss", "left.lr", "right.lr"} <= set(
        entry
    ) and "loss" not in entry


def test_a_players_gradient_is_the_mean_over_the_batch_of_per_sample_parts(run):
    """The first moment of Adam after one step of ``left``, by hand: a tenth of the gradients of a mean and of a per-sample part."""
    config = TrainConfig(images=16, batch=16, warmup=0, decay="constant", clip=1e9, betas=(0.9, 0.99))
    for size in (None, 3):
        weights = run(f"by {size}", replace(config, micro_batch=size), task=Duel())
        x = Draws(0, 0, 16).normal("x", (1,))
        expected = 0.1 * (x.mean() + 2.0 * x.square().mean())
        assert weights["optimizer/left/0/exp_avg"].item() == pytest.approx(expected.item(), rel=1e-4)


class Rivals(Task):
    """A critic that moves twice before a generator, a frozen extractor, a head that goes along, an adapter inside a frozen base."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.generator[0].requires_grad_(False)  # the base; only the second layer is trained
        self.critic, self.head, self.extractor = nn.Linear(2, 1), nn.Linear(2, 1), nn.BatchNorm1d(2)
        self.players = {
            "critic": Player(self.critic, optim=Optim(lr=0.05, clip=1e-3), average=False),
            "generator": Player(self.generator, saved="trained"),
            "head": Player(self.head, along="generator", average=False),
            "extractor": Player(self.extractor.requires_grad_(False), optim=None, train=False, saved="none"),
        }
        self.seen: list[tuple] = []

    def turns(self, progress):
        return ["critic", "critic", "generator"]

    def loss(self, player, batch, rng, progress):
        z = rng.normal("z", (2,))
        fake = self.extractor(self.generator(z))
        wanted = {name: [p.requires_grad for p in side.module.parameters()] for name, side in self.players.items()}
        self.seen.append((player, id(batch), z, wanted, self.extractor.training))
        judged = self.critic(fake).flatten()
        return {
            "w": judged - self.critic(batch.x.flatten(1)[:, :2]).flatten()
            if player == "critic"
            else self.head(fake).flatten() - judged
        }


def test_players_take_turns_on_one_batch_and_only_the_one_that_moves_asks_for_gradients(run):
    config = TrainConfig(images=32, batch=16, warmup=0, log_every=16, clip=1e9)
    weights = run("a", config, task=(task := Rivals()))
    assert [turn[0] for turn in task.seen] == ["critic", "critic", "generator"] * 2
    assert len({turn[1] for turn in task.seen[:3]}) == 1
    first, again = task.seen[0][2], task.seen[1][2]
    assert torch.equal(first, Draws(0, 0, 16).normal("z", (2,))) and not torch.equal(first, again)
    for player, _, _, wanted, training in task.seen:
        assert not training and not any(wanted["extractor"])
        assert all(wanted["critic"]) == any(wanted["critic"]) == (player == "critic")
        assert wanted["generator"] == [False, False, player == "generator", player == "generator"]
        assert all(wanted["head"]) == (player == "generator")
    assert {key for key in weights if key.startswith("model/")} == {
        f"model/{name}"
        for name in (
            "critic.weight",
            "critic.bias",
            "generator.1.weight",
            "generator.1.bias",
            "head.weight",
            "head.bias",
        )
    }
    fresh = Rivals()
    assert not torch.equal(weights["model/head.weight"], fresh.head.weight)
    assert torch.equal(task.generator[0].weight, fresh.generator[0].weight)


def test_a_player_has_its_own_clip_and_rate(run):
    """A clip of 0.001 bounds the critic's first moment by a tenth of it; without, it is larger by far."""
    config = TrainConfig(images=16, batch=16, warmup=0, clip=1e9, betas=(0.9, 0.99))
    weights = run("a", config, task=Rivals())
    bounded = weights["optimizer/critic/0/exp_avg"].norm()
    task = Rivals()
    task.players["critic"] = Player(task.critic, average=False)
    free = run("b", config, task=task)["optimizer/critic/0/exp_avg"].norm()
    assert bounded < 3e-4 and free > 1e-2


def test_an_adapter_in_a_frozen_base_resumes_bitwise(run, tmp_path):
    config = TrainConfig(images=128, batch=16, warmup=0, log_every=32, save_every=48)
    run("b", config, task=Rivals(), feed=interrupt_at(80))
    assert same(run("a", config, task=Rivals()), run("b", config, task=Rivals()))


def test_a_step_reads_nothing_back_between_the_log_lines(run, monkeypatch):
    """Between cadences nothing asks the device for a number: what a step computes is fetched in one piece, when the log is due."""
    from reverie.learn import tally

    monkeypatch.setattr(tally, "PATIENCE", 1e9)
    fetched = []
    monkeypatch.setattr(torch.Tensor, "item", lambda self: fetched.append("item") or float(self.detach().numpy()))
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: fetched.append("tolist") or read(self))
    config = TrainConfig(images=128, batch=16, warmup=0, log_every=64, save_every=128)
    task = denoising(config)
    task.held_out = None
    run("a", config, task=task)
    assert fetched.count("tolist") == 2 and "item" not in fetched


def test_what_is_not_finite_is_stopped_before_its_checkpoint_though_it_is_read_late(run, tmp_path, monkeypatch):
    from reverie.learn import tally

    monkeypatch.setattr(tally, "PATIENCE", 1e9)

    def poisoned(start: int, count: int) -> Batch:
        batch = pictures(start, count)
        if start == 208:
            batch.x[3] = float("nan")
        return batch

    with pytest.raises(RunError, match=r"step 13, image 208.*'mse'.*1 of 16 samples.*logsnr.*step-00000012"):
        run("a", replace(CONFIG, log_every=400), feed=poisoned)
    latest = Checkpoints(tmp_path / "a" / "checkpoints").latest()
    assert latest is not None and latest.state["images"] == 192
    assert all(value.isfinite().all() for value in latest.tensors("model").values())


def test_a_task_says_what_a_step_is(run):
    class Nobody(Rivals):
        def turns(self, progress: Moment):
            return ["generator"]

    task = Nobody()
    run("a", TrainConfig(images=16, batch=16, warmup=0), task=task)
    assert [turn[0] for turn in task.seen] == ["generator"]


@pytest.mark.parametrize("what", ["validate", "preview"])
def test_an_interrupt_is_heard_while_pictures_are_drawn(run, tmp_path, what):
    """What is drawn is left at once, with all saved; the run that goes on makes up for it and ends with the same bits and log."""

    def slow(interrupted: bool):
        task = denoising(CONFIG)
        task.show = lambda denoise: (torch.zeros(2, 1, 4, 4), 2)
        real, calls = getattr(task, what), []

        def drawn():
            if calls:
                return real()
            calls.append(1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
            return real()

        if interrupted:
            setattr(task, what, drawn)
        return task

    begun = time.perf_counter()
    run("b", task=slow(True))
    assert time.perf_counter() - begun < 15
    stopped = Checkpoints(tmp_path / "b" / "checkpoints").latest()
    assert stopped is not None and stopped.state["images"] == 96
    assert same(run("a", task=slow(False)), run("b", task=slow(False)))
    logs = [
        {(e["images"], *sorted(e)) for e in entries(tmp_path / name / "log.jsonl") if "validation" in e}
        for name in "ab"
    ]
    assert logs[0] == logs[1]
    assert {p.name for p in (tmp_path / "a" / "samples").iterdir()} == {
        p.name for p in (tmp_path / "b" / "samples").iterdir()
    }


def test_what_was_saved_is_there_before_anything_is_drawn(run, tmp_path):
    seen = []
    task = denoising(CONFIG)
    real = task.preview

    def drawn():
        latest = Checkpoints(tmp_path / "a" / "checkpoints").latest()
        seen.append(None if latest is None else latest.state["images"])
        return real()

    task.preview = drawn
    run("a", task=task)
    assert seen == [96, 192, 288, 384, 400]
