"""``reverie train e4t`` and ``reverie adapt --encoder``: what is written and said, that a run resumes, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = "--net.width 8 --net.multipliers 1 2 --net.attention 2 --net.heads 2 --width 16"
SHORT = "--train.images 64 --train.batch 16 --train.warmup 16 --train.lr 0.01 --train.save-every 32 --train.validate-every 64"
OWN = {"e4t": "", "hyperdreambooth": "--depth 1 --heads 2 --outer 8 --inner 8"}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", OWN)
def test_an_encoder_is_trained_on_subjects_and_adapts_at_once_or_by_a_few_steps(
    reverie, digits, pictures, tmp_path, method
):
    words = f"train {method} --base digits --like 3 --train.keep 9 {SMALL} {OWN[method]} {SHORT}"
    said = reverie(f"{words} --out enc")
    assert said.code == 0 and "next: reverie adapt --encoder enc --help" in said.out, said.err
    log = [json.loads(line) for line in (tmp_path / "enc" / "log.jsonl").read_text().splitlines()]
    assert any(set(line.get("validation", {})) == {"loss", "exchanged"} for line in log)
    said = reverie("adapt digits mine --encoder enc --no-tune --out pred")
    assert said.code == 0 and "next: reverie sample digits --adapter pred --label '<mine>'" in said.out, said.err
    assert [path.name for path in (tmp_path / "pred").iterdir()] == ["adapter.safetensors"]
    said = reverie("adapt digits mine --encoder enc --token <me> --train.images 8 --train.lr 0.05 --out tuned")
    assert said.code == 0 and "--label '<me>'" in said.out, said.err
    assert reverie("sample digits --adapter pred --adapter tuned --label <mine>,<me> --n 2 --out both.png").code == 0
    assert reverie("sample digits --adapter tuned --label <me> --n 2 --out with.png").code == 0
    assert reverie("sample digits --label 3 --n 2 --out without.png").code == 0
    assert (read(tmp_path / "with.png") != read(tmp_path / "without.png")).any()
    last = max((tmp_path / "enc" / "checkpoints").glob("step-*"))
    whole = {path.name: path.read_bytes() for path in last.glob("*.safetensors")}
    shutil.rmtree(last)
    assert reverie(f"{words} --out enc").code == 0  # resumes to the same bits
    assert {path.name: path.read_bytes() for path in last.glob("*.safetensors")} == whole


def test_what_does_not_fit_is_said_in_a_line(reverie, digits, pictures, tmp_path):
    assert reverie(f"train e4t --base digits {SMALL} {SHORT} --out enc").code == 0
    shutil.copytree(tmp_path / "digits", tmp_path / "other")
    shutil.rmtree(max((tmp_path / "other" / "checkpoints").glob("step-*")))
    for words, expected in (
        ("train e4t", "give --base RUN"),
        ("train e4t --base digits --data mine", "a folder of pictures each"),
        ("train e4t --base digits --like 12", "out of range"),
        ("adapt digits mine --encoder digits", "is none"),
        ("adapt digits mine --encoder nowhere", "no run"),
        ("adapt digits mine --encoder enc --method lora", "--encoder or --method"),
        ("adapt digits mine --encoder enc --no-tune --budget 5s", "trains nothing"),
        ("adapt digits mine --encoder enc --rank 4", "leave it out"),
        ("adapt other mine --encoder enc", "another checkpoint"),
        ("adapt other mine --encoder enc --no-tune", "another checkpoint"),
        ("sample enc", "--encoder RUN"),
    ):
        said = reverie(words)
        assert said.code == 2 and expected in said.err and said.err.count("\n") == 1, (words, said.err)
