"""Whoever is told of a training, and a training that goes back where it diverges."""

from dataclasses import replace

import pytest
import torch

from reverie.core import files
from reverie.core.errors import RunError
from reverie.learn import Batch, Checkpoints, train
from reverie.learn.journal import entries
from reverie.learn.observer import Observer, TensorBoard

from .conftest import CONFIG, denoising, pictures


class Hearing(Observer):
    def __init__(self, stop_at: int | None = None) -> None:
        self.heard, self.stop_at = [], stop_at

    def begun(self, folder, images):
        self.heard.append(("begun", images))

    def stepped(self, now):
        return now.images == self.stop_at

    def logged(self, images, values):
        self.heard.append(("logged", images, dict(values)))

    def saved(self, checkpoint):
        self.heard.append(("saved", checkpoint.check().state["images"]))

    def ended(self, images):
        self.heard.append(("ended", images))

    def of(self, what):
        return [each[1:] for each in self.heard if each[0] == what]


def go(folder, config=CONFIG, feed=pictures, observers=()):
    seen = train(denoising(config), feed, config, folder, observers=observers)
    latest = Checkpoints(folder / "checkpoints").latest()
    return seen, {} if latest is None else latest.tensors("model")


def test_an_observer_hears_what_the_log_holds(tmp_path):
    hearing = Hearing()
    go(tmp_path, observers=[hearing])
    log = list(entries(tmp_path / "log.jsonl"))
    losses = {entry["images"]: entry["loss"] for entry in log if "loss" in entry}
    told = {images: values for images, values in hearing.of("logged") if "loss" in values}
    assert {images: values["loss"] for images, values in told.items()} == losses
    assert all(values["images_per_second"] > 0 for values in told.values())
    validated = {
        images: values["validation/loss"] for images, values in hearing.of("logged") if "validation/loss" in values
    }
    assert validated == {e["images"]: e["validation"]["loss"] for e in log if "validation" in e}
    assert [images for (images,) in hearing.of("saved")] == [96, 192, 288, 384, 400]
    assert hearing.of("begun") == [(0,)] and hearing.of("ended") == [(400,)]


def test_an_observer_stops_a_training_that_goes_on_bitwise(tmp_path):
    seen, _ = go(tmp_path / "a", observers=[Hearing(stop_at=208)])
    assert seen == 208
    hearing = Hearing()
    _, resumed = go(tmp_path / "a", observers=[hearing])
    _, whole = go(tmp_path / "b")
    assert hearing.of("begun") == [(208,)]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hearing = Hearing()
    go(tmp_path, observers=[hearing, TensorBoard()])
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value for event in read.Scalars("loss")}
    told = {images: values["loss"] for images, values in hearing.of("logged") if "loss" in values}
    assert found.keys() == told.keys() and all(found[k] == pytest.approx(told[k], rel=1e-6) for k in told)


def poisoned(times: int):
    """Data in which sample 211 is not a number the first ``times`` times that it is read, or so it seems: twice a divergence."""
    left = [times]

    def feed(start: int, count: int) -> Batch:
        batch = pictures(start, count)
        if start <= 211 < start + count and left[0] > 0:
            left[0] -= 1
            batch.x[211 - start] = float("nan")
        return batch

    return feed


def test_what_diverged_is_kept(tmp_path):
    with pytest.raises(RunError, match=r"The batch is in .*diverged/step-00000013.safetensors.*rollback"):
        go(tmp_path, feed=poisoned(99))
    kept = files.read_tensors(tmp_path / "diverged" / "step-00000013.safetensors")
    assert kept["wrong"].nonzero().flatten().tolist() == [3] and kept["x"].shape == (16, 1, 4, 4)
    assert kept["x"][3].isnan().all() and kept["logsnr"].shape == (16,) and kept["parts.mse"][3].isnan()
    assert kept["label"].tolist() == [k % 3 for k in range(208, 224)] and not kept["norm"].isfinite()


def test_rollback_goes_on_from_the_last_good_state_at_a_lower_rate(tmp_path, capsys):
    config = replace(CONFIG, on_nan="rollback", log_every=16)
    seen, weights = go(tmp_path / "a", config, feed=poisoned(2))
    assert seen == 400 and all(value.isfinite().all() for value in weights.values())
    log = list(entries(tmp_path / "a" / "log.jsonl"))
    (went_back,) = [entry for entry in log if "rollback" in entry]
    assert went_back["images"] == 192 and went_back["slower"] == 0.5
    assert "Going on from step-00000012 at 0.5 times the learning rate" in capsys.readouterr().err
    _, plain = go(tmp_path / "b", replace(CONFIG, log_every=16))
    rates = [
        {e["images"]: e["lr"] for e in entries(tmp_path / name / "log.jsonl") if "lr" in e and e["images"] > 208}
        for name in "ab"
    ]
    assert all(rates[0][images] == pytest.approx(0.5 * rates[1][images]) for images in rates[1])
    assert not all(torch.equal(weights[key], plain[key]) for key in plain)


def test_what_always_diverges_stops_after_a_few_times(tmp_path):
    with pytest.raises(RunError, match="training stopped"):
        go(tmp_path, replace(CONFIG, on_nan="rollback"), feed=poisoned(10**6))
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is not None and latest.state["images"] == 192
