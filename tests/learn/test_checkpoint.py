"""Checkpoints: complete or absent, checked when read, kept by rule."""

import errno
import json
from pathlib import Path

import pytest
import torch

from reverie.core.errors import RunError
from reverie.learn import checkpoint
from reverie.learn.checkpoint import Checkpoints

TENSORS = {"model": {"w": torch.arange(6.0).view(2, 3)}, "ema": {"w": torch.ones(2, 3).mT}}


def save(folder: Path, step: int, **rules):
    return Checkpoints(folder, **rules).save(step, TENSORS, {"images": 100 * step, "step": step}, {"shape": "1x8x8"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path):
    saved = save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000003"]
    assert names(saved.folder) == ["ema.safetensors", "model.safetensors", "state.json"]
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
    original = checkpoint.save_file

    def full(tensors, path, metadata):
        if broken in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path, metadata)

    def full_text(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    if broken == "state":
        monkeypatch.setattr(Path, "write_text", full_text)
    with pytest.raises(
        RunError, match=r"step-00000002 could not be saved.*No space left.*step-00000001 \(100 images\) is whole"
    ):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    latest = Checkpoints(tmp_path).latest()
    assert latest is not None and torch.equal(latest.tensors("model")["w"], TENSORS["model"]["w"])
    assert save(tmp_path, 2).state["images"] == 200


def test_what_a_killed_process_left_is_ignored_and_swept_up(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".tmp-step-00000002").mkdir()
    (tmp_path / ".tmp-step-00000002" / "model.safetensors").write_bytes(b"half")
    assert [c.folder.name for c in Checkpoints(tmp_path).all()] == ["step-00000001"]
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("harm", "says"), [(cut, "bytes of"), (flip, "SHA-256"), (Path.unlink, "No such file")])
def test_damage_is_found_and_named(tmp_path, harm, says):
    save(tmp_path, 1)
    latest = save(tmp_path, 2)
    harm(latest.folder / "ema.safetensors")
    latest.tensors("model")
    with pytest.raises(
        RunError, match=rf"ema.safetensors is damaged.*{says}.*remove .*step-00000002.*step-00000001, is used"
    ):
        latest.tensors("ema")


def test_a_damaged_state_is_found_and_named(tmp_path):
    latest = save(tmp_path, 1)
    cut(latest.folder / "state.json")
    with pytest.raises(RunError, match=r"state\.json is damaged.*training starts from the beginning"):
        _ = latest.state
