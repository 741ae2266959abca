"""Checkpoints: complete or absent, checked when read, kept by rule."""

import errno
import json
import os
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from reverie.core.errors import RunError
from reverie.learn.checkpoint import Checkpoint, Checkpoints, Damaged, quiet

TENSORS = {"model": {"w": torch.arange(6.0).view(2, 3)}, "ema": {"w": torch.ones(2, 3).mT}}


def save(folder: Path, step: int, **rules):
    return Checkpoints(folder, **rules).save(step, TENSORS, {"images": 100 * step, "step": step}, {"shape": "1x8x8"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path):
    saved = save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000003"]
    assert names(saved.folder) == ["ema.safetensors", "model.safetensors", "state.json", "state.sha256"]
    assert saved.state["images"] == 300 and saved.parameters("model") == 6
    assert all(torch.equal(saved.tensors(file)["w"], tensors["w"]) for file, tensors in TENSORS.items())


def test_the_header_carries_the_metadata(tmp_path):
    saved = save(tmp_path, 1)
    raw = (saved.folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["reverie"]) == {"shape": "1x8x8"} == saved.metadata("model")


def test_the_same_weights_are_the_same_bytes(tmp_path):
    a, b = (save(tmp_path / name, 1).folder / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_retention(tmp_path):
    for step in range(1, 12):
        save(tmp_path, step, keep=2, keep_every=400)
    assert names(tmp_path) == [f"step-{step:08d}" for step in (4, 8, 10, 11)]


@pytest.mark.parametrize("broken", ["ema", "state"])
def test_a_full_disk_leaves_what_was_saved(tmp_path, monkeypatch, broken: str):
    save(tmp_path, 1)
    original, write_bytes = safetensors.torch.save_file, Path.write_bytes

    def full(tensors, path, metadata):
        if (len(list(path.parent.glob("*.safetensors"))) == 1) == (broken == "ema"):
            write_bytes(path, b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path, metadata)

    def full_bytes(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "state":
        monkeypatch.setattr(Path, "write_bytes", full_bytes)
    else:
        monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(
        RunError, match=r"step-00000002 could not be saved.*No space left.*step-00000001 \(100 images\) is whole"
    ):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    latest = Checkpoints(tmp_path).newest_whole()
    assert latest is not None and torch.equal(latest.tensors("model")["w"], TENSORS["model"]["w"])
    assert save(tmp_path, 2).state["images"] == 200


def test_what_a_killed_process_left_is_ignored_and_swept_up(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".tmp-step-00000002").mkdir()
    (tmp_path / ".tmp-step-00000002" / "model.safetensors").write_bytes(b"half")
    assert [c.folder.name for c in Checkpoints(tmp_path).all()] == ["step-00000001"]
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_start_tidies_and_keeps_what_stands_behind_damage(tmp_path):
    """What was killed between saving and removing is made up for, but nothing whole is removed for the sake of a damaged one."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save(folder, step, keep=3)
    for left in (folder / ".tmp-step-00000001", tmp_path / "averages" / ".tmp-x"):
        left.mkdir(parents=True)
    cut(folder / "step-00000003" / "model.safetensors")
    some = Checkpoints(folder, keep=1)
    some.tidy(some.newest_whole(quiet))
    assert names(folder) == [f"step-{step:08d}" for step in (1, 2, 3)] and names(tmp_path / "averages") == []
    save(folder, 3, keep=3)
    some.tidy(some.newest_whole(quiet))
    assert [name for name in names(folder) if name.startswith("step")] == ["step-00000003"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("harm", "says"), [(cut, "bytes of"), (flip, "SHA-256"), (Path.unlink, "No such file")])
def test_damage_is_found_and_named(tmp_path, harm, says):
    latest = save(tmp_path, 1)
    harm(latest.folder / "ema.safetensors")
    latest.tensors("model")
    with pytest.raises(Damaged, match=rf"step-00000001/ema.safetensors is damaged.*{says}"):
        latest.tensors("ema")


@pytest.mark.parametrize("file", ["state.json", "state.sha256", "model.safetensors", "ema.safetensors"])
def test_every_flipped_bit_of_every_file_is_noticed_and_the_checkpoint_before_used(tmp_path, file):
    before, latest = save(tmp_path, 1), save(tmp_path, 2)
    path, rng = latest.folder / file, random.Random(file)
    whole = path.read_bytes()
    said: list[str] = []
    for place in rng.sample(range(8 * len(whole)), 200):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(data))
        assert Checkpoints(tmp_path).newest_whole(said.append) == before, place
        named = "state.json" if file == "state.sha256" else file
        assert f"step-00000002/{named} is damaged" in said[-1] and "step-00000001 is used" in said[-1]
    path.write_bytes(whole)
    assert Checkpoints(tmp_path).newest_whole(said.append) == latest and len(said) == 200


def test_a_checkpoint_from_before_state_had_a_checksum_opens(tmp_path):
    old = save(tmp_path, 1)
    (old.folder / "state.sha256").unlink()
    assert Checkpoints(tmp_path).newest_whole() == old and Checkpoint(old.folder).state["images"] == 100


@pytest.mark.parametrize("text", ["", "5", "[]", '{"images": null}', '{"images": true}', "[" * 20_000, "\xff"])
def test_a_state_that_is_none_is_found_and_named(tmp_path, text):
    latest = save(tmp_path, 1)
    (latest.folder / "state.sha256").unlink()
    (latest.folder / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"state\.json is damaged.*no checkpoint before it is whole.*remove"):
        Checkpoints(tmp_path).newest_whole()


def test_damaged_checkpoints_stop_no_save_and_are_put_aside_when_training_comes_by_again(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=9)
    for step in (1, 3):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("{")
    assert save(tmp_path, 3).state["images"] == 300
    assert names(tmp_path) == ["damaged-step-00000003", "step-00000001", "step-00000002", "step-00000003"]
    save(tmp_path, 4)
    assert "step-00000002" not in names(tmp_path) and "step-00000001" in names(tmp_path), "what cannot be read stays"


def test_a_reader_that_meets_a_folder_just_removed_looks_again(tmp_path):
    save(tmp_path, 1, keep=1)
    found = []

    def read(checkpoint: Checkpoint):
        found.append(checkpoint.folder.name)
        if len(found) == 1:
            save(tmp_path, 2, keep=1)
        return checkpoint.tensors("model")

    def report(text):
        raise AssertionError(text)

    weights = Checkpoints(tmp_path).newest(read, report)
    assert weights is not None and found == ["step-00000001", "step-00000002"]


def test_strange_entries_are_no_checkpoints(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-00000009").write_text("a file")
    assert [c.folder.name for c in Checkpoints(tmp_path).all()] == ["step-00000001"]


@pytest.mark.parametrize("planted", ["checkpoints", "checkpoints/.tmp-step-00000001", "checkpoints/step-00000001"])
def test_nothing_is_written_or_removed_through_a_planted_link(tmp_path, planted):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "thesis").write_text("mine")
    link = tmp_path / "run" / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    if planted == "checkpoints":
        with pytest.raises(RunError, match=r"is a link to .*elsewhere.*remove it"):
            save(tmp_path / "run" / "checkpoints", 1)
    else:
        assert save(tmp_path / "run" / "checkpoints", 1).check()
    assert names(elsewhere) == ["deep"] and (elsewhere / "deep" / "thesis").read_text() == "mine"


def test_a_run_that_is_itself_a_link_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    save(tmp_path / "run" / "checkpoints", 1)
    assert names(tmp_path / "disk" / "checkpoints") == ["step-00000001"]


def test_a_strange_leftover_is_swept_up(tmp_path):
    os.mkfifo(tmp_path / ".tmp-fifo")
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002"]
