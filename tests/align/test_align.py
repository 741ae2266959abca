"""Auxiliary losses: where their gradients go, closed forms, and that they teach what a control does not."""

import math

import polar
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.align.auxiliary import WithAuxiliary
from reverie.align.dispersive import Dispersive, dispersion
from reverie.align.repa import REPA
from reverie.align.sra import SRA
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Cosine, Flow
from reverie.core.times import Uniform
from reverie.diffusion import Denoising
from reverie.learn import Batch, Checkpoints, Draws, Moment, TrainConfig, train
from reverie.read.probes import probe

NOW = Moment(0, 0, 100)
CONFIG = TrainConfig(images=96, batch=16, lr=1e-3, warmup=16, save_every=48, validate_every=96, sample_every=96)


def model(seed=0):
    torch.manual_seed(seed)
    net = rv.nets.build(rv.nets.DiTConfig(patch=2, width=16, depth=4, heads=2), channels=1, size=8, classes=3)
    for p in net.parameters():  # gates start at zero; a block that does nothing has nothing to teach
        if not p.any() and p.ndim > 1:
            nn.init.normal_(p, std=0.1)
    return NetDenoiser(net, Flow(), shape=(1, 8, 8))


def feed(start, count):
    x = Draws(5, start, count).normal("x", (1, 8, 8)).clamp(-1, 1)
    return Batch(x, rv.Cond(label=torch.arange(start, start + count) % 3))


def extractor(x):
    """Patch means and their squares: (B, 2, 4, 4)."""
    mean = F.avg_pool2d(x, 2)
    return torch.cat([mean, mean.square() - 0.2], 1)


def base(denoise):
    return Denoising(denoise, Uniform(), drop=0.2)


def gradients(task, denoise, *names):
    """Which blocks a loss reaches."""
    for p in denoise.net.parameters():
        p.grad = None
    loss = task.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)
    sum(loss[name].mean() for name in names).backward()
    return [any(p.grad is not None and p.grad.any() for p in block.parameters()) for block in denoise.net.blocks]


def test_without_auxiliary_losses_the_task_is_what_it_was():
    denoise = model()
    plain = base(denoise).loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)
    task = WithAuxiliary(base(denoise))
    assert torch.equal(task.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)["mse"], plain["mse"])
    with_losses = WithAuxiliary(base(denoise), REPA("blocks.1", 16, extractor, 2, hidden=8), Dispersive("blocks.0"))
    again = with_losses.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)
    assert torch.equal(again["mse"], plain["mse"]) and set(again) == {"mse", "repa", "dispersive"}


@pytest.mark.parametrize("name", ["repa", "dispersive", "sra"])
def test_the_gradient_of_an_auxiliary_loss_ends_at_its_block(name):
    denoise = model()
    parts = {
        "repa": REPA("blocks.1", 16, extractor, 2, hidden=8),
        "dispersive": Dispersive("blocks.1"),
        "sra": SRA(denoise, "blocks.1", "blocks.3", 16),
    }
    task = WithAuxiliary(base(denoise), parts[name])
    assert gradients(task, denoise, name) == [True, True, False, False]
    assert gradients(task, denoise, "mse", name) == [True] * 4
    if parts[name].trained is not None:
        assert all(p.grad is not None for p in parts[name].trained.parameters())
    if name == "sra":
        assert all(p.grad is None for p in parts[name].teacher.net.parameters())


def test_alignment_is_minus_one_when_the_block_says_what_the_extractor_says():
    denoise = model()
    part = REPA("blocks.1", 16, extractor, 16)
    part.projector = nn.Identity()
    seen = {}

    def same(x):
        return seen["map"]

    part.extractor = same
    task = WithAuxiliary(base(denoise), part)
    read = []
    noted = rv.nets.taps.replace(denoise, {"blocks.1": lambda value, at: read.append(value) or value})
    base(noted).loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)
    tokens = read[0].detach()
    seen["map"] = 3.0 * tokens.transpose(1, 2).unflatten(2, (4, 4))
    loss = task.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)["repa"]
    torch.testing.assert_close(loss, torch.full((8,), -0.5))
    seen["map"] = seen["map"].transpose(2, 3)  # the same features in other places
    assert (task.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)["repa"] > -0.499).all()


def test_alignment_is_learned_and_only_to_the_picture_that_is_seen():
    """Held out: features of the right pictures are predicted, of shuffled ones not."""

    def learned(shuffle):
        denoise = model()
        order = torch.randperm(32)

        def teacher(x):
            return extractor(x[order] if shuffle else x)

        part = REPA("blocks.1", 16, teacher, 2, hidden=32)
        task = WithAuxiliary(base(denoise), part)
        optimizer = torch.optim.Adam([*denoise.net.parameters(), *part.trained.parameters()], 3e-3)
        for step in range(40):
            optimizer.zero_grad()
            parts = task.loss("denoiser", feed(32 * step, 32), Draws(0, 32 * step, 32), NOW)
            sum(v.mean() for v in parts.values()).backward()
            optimizer.step()
        part.extractor = extractor
        return -2.0 * task.loss("denoiser", feed(10_000, 64), Draws(0, 10_000, 64), NOW)["repa"].mean().item()

    assert learned(False) > learned(True) + 0.15


def test_dispersion_of_two_points_is_closed_form_and_zero_for_one_point():
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    expected = math.log((1 + math.exp(-(5 / 2) / 0.5)) / 2)
    assert dispersion(z, 0.5).item() == pytest.approx(expected, abs=1e-6)
    assert dispersion(z[:1].expand(7, 2), 0.5).item() == pytest.approx(0.0, abs=1e-6)
    z.requires_grad_()
    dispersion(z, 0.5).backward()
    assert z.grad is not None and (z.grad[1] - z.grad[0]) @ torch.tensor([1.0, 2.0]) < 0  # descent moves them apart
    many = torch.randn(20, 3, 4)
    brute = torch.stack([torch.exp(-(a - b).square().mean() / 0.7) for a in many for b in many]).mean().log()
    torch.testing.assert_close(dispersion(many, 0.7), brute)


def test_the_teacher_is_the_average_of_the_student_and_sees_an_earlier_time():
    denoise = model()
    part = SRA(denoise, "blocks.1", "blocks.1", 16, decay=0.9)
    before = [p.clone() for p in denoise.net.parameters()]
    with torch.no_grad():
        for p in denoise.net.parameters():
            p += 1.0
    part.after_step(NOW)
    for old, teacher in zip(before, part.teacher.net.parameters(), strict=True):
        torch.testing.assert_close(teacher, old + 0.1)

    denoise = model()
    same = SRA(denoise, "blocks.1", "blocks.1", 16, closer=0.0, weight=1.0)
    same.head = nn.Identity()
    loss = WithAuxiliary(base(denoise), same).loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)["sra"]
    torch.testing.assert_close(loss, torch.full((8,), -1.0))  # one network, one block, one time
    earlier = SRA(denoise, "blocks.1", "blocks.1", 16, weight=1.0)
    earlier.head = nn.Identity()
    assert (
        WithAuxiliary(base(denoise), earlier).loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)["sra"] > -0.99999
    ).any()


def test_all_losses_train_together_are_saved_and_resumed(tmp_path):
    def task():
        denoise = model()
        torch.manual_seed(1)
        parts = (
            REPA("blocks.1", 16, extractor, 2, hidden=8),
            Dispersive("blocks.0"),
            SRA(denoise, "blocks.1", "blocks.3", 16, decay=0.9),
        )
        return WithAuxiliary(base(denoise), *parts)

    def weights(folder):
        latest = Checkpoints(folder / "checkpoints").latest()
        assert latest is not None
        return {k: v for file in ("model", "optimizer") for k, v in latest.tensors(file).items()}

    whole = task()
    first = [p.clone() for p in whole.auxiliary[0].trained.parameters()]
    train(whole, feed, CONFIG, tmp_path / "whole")
    assert all(not torch.equal(p, q) for p, q in zip(first, whole.auxiliary[0].trained.parameters(), strict=True))
    half = task()
    half.describe = lambda *_: {}

    class Stop(Exception):
        pass

    def cut(start, count):
        if start >= 64:
            raise Stop
        return feed(start, count)

    with pytest.raises(Stop):
        train(half, cut, CONFIG, tmp_path / "cut")
    train(task(), feed, CONFIG, tmp_path / "cut")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert any(k.startswith("sra-teacher.") for k in a) and any(k.startswith("repa.") for k in a)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_does_not_fit_is_said():
    denoise = model()
    with pytest.raises(InputError, match=r"blocks\.9"):
        WithAuxiliary(base(denoise), Dispersive("blocks.9"))
    with pytest.raises(InputError, match="name of its own"):
        WithAuxiliary(base(denoise), Dispersive("blocks.0"), Dispersive("blocks.1"))
    wrong = WithAuxiliary(base(denoise), REPA("blocks.1", 16, extractor, 7, hidden=8))
    with pytest.raises(InputError, match="extractor gives"):
        wrong.loss("denoiser", feed(0, 8), Draws(0, 0, 8), NOW)


@pytest.mark.slow
def test_alignment_to_a_trained_encoder_pays_at_equal_steps():
    """Polar digits: the block that is aligned to the bed's U-Net, which never saw a label, says more of the class than without."""
    train_part, test_part = polar.bed()
    plain, _ = polar.digits()
    rows = probe.few(train_part.labels, 300, seed=0)
    teacher, steps, size = polar.load(), 250, 64

    def see(x):
        return rv.read.features(teacher, x, "middle.0", t=0.05, pool=None)

    def learned(aligned, seed):
        torch.manual_seed(seed)
        net = rv.nets.build(
            rv.nets.DiTConfig(patch=2, width=64, depth=4, heads=4, activation="relu"), channels=1, size=8
        )
        denoise = NetDenoiser(net, Cosine(), "v", shape=(1, 8, 8), space=polar.Stretch())
        task, part = Denoising(denoise, Uniform()), REPA("blocks.1", 64, see, 48, hidden=128)
        task = WithAuxiliary(task, part) if aligned else task
        trained = [*net.parameters(), *(part.trained.parameters() if aligned else ())]
        optimizer = torch.optim.AdamW(trained, 2e-3, weight_decay=0.0)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        rng = torch.Generator().manual_seed(seed)
        for step in range(steps):
            some = torch.randint(polar.TRAIN, (size,), generator=rng)
            batch, start = Batch(polar.polar(plain[some], rng)), size * step
            parts = task.loss("denoiser", batch, Draws(seed, start, size), Moment(step, start, steps * size))
            optimizer.zero_grad()
            sum(v.mean() for v in parts.values()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            decay.step()
        net.eval().requires_grad_(False)
        known, asked = (
            rv.read.features(denoise, x, "blocks.1", t=0.1, noise="fresh", pool=2, seed=s)
            for s, x in enumerate((train_part.images[rows], test_part.images))
        )
        return probe.linear(known, train_part.labels[rows]).accuracy(asked, test_part.labels)

    found = {aligned: [learned(aligned, seed) for seed in range(2)] for aligned in (True, False)}
    print(found)
    assert sum(found[True]) / 2 >= sum(found[False]) / 2 + 0.05, found
