"""Standard output and error that are full, closed or speak ASCII only: the work is done, the exit code says how it went."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.cli import main
from reverie.cli.streams import Steady

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
TINY = (
    "train --data mnist5k --net.patch 14 --net.width 16 --net.depth 1 --net.heads 2 --train.images 64 --train.batch 32"
)


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``reverie`` in a shell is this Python's ``python -m reverie``."""
    script = f'reverie() {{ "{sys.executable}" -m reverie "$@"; }}; {command}'
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )


@needs_full
@pytest.mark.parametrize("words", ["--help", "--version", "runs .", "sample digits --label 7 --n 1 --out a.png"])
def test_a_full_standard_output_costs_the_words_and_not_the_work(digits, monkeypatch, capsys, words):
    monkeypatch.chdir(digits.parent)
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words.split()) == 1
    assert "standard output could not be written" in capsys.readouterr().err
    assert "sample" not in words or (digits.parent / "a.png").stat().st_size > 0


@needs_full
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_training_outlives_a_full_stream(tmp_path, monkeypatch, capsys, stream):
    monkeypatch.chdir(tmp_path)
    with FULL.open("w", buffering=1) as full:
        monkeypatch.setattr(sys, stream, full)
        assert main([*TINY.split(), "--sample.steps", "2", "--out", "run"]) == (1 if stream == "stdout" else 0)
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").exists()


@needs_full
def test_an_error_keeps_its_exit_code_when_nothing_can_be_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with FULL.open("w") as out, FULL.open("w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(["trian"]) == 2 and main(["report", "nowhere"]) == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("reverie --help >&-", 0),
        ("reverie trian 2>&-", 2),
        ("reverie trian >&- 2>&- <&-", 2),
        ("reverie --help >/dev/full", 1),
        ("reverie --version | true", 0),
    ],
)
def test_a_process_with_closed_or_full_streams_ends_in_no_traceback(tmp_path, command, code):
    if "full" in command and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    said = shell(command, tmp_path)
    assert said.returncode == code, said
    assert "Traceback" not in said.stderr and "Exception ignored" not in said.stderr


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """The first file opened after ``>&-`` would be descriptor 1, and what a library prints would land in it."""
    code = (
        "import os, sys; from reverie.cli import main; main(['--version']); sys.exit(os.open(os.devnull, os.O_RDONLY))"
    )
    assert shell(f"'{sys.executable}' -c \"{code}\" >&- 2>&- <&-", tmp_path).returncode > 2


@pytest.mark.parametrize(
    ("locale", "name"),
    [
        ({"PYTHONIOENCODING": "ascii"}, r"\xe9"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, r"\udcc3\udca9"),
    ],
)
def test_an_ascii_terminal(tmp_path, locale, name):
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "recipe.yaml").write_text("name: é\nnte: 5", encoding="utf-8")
    listed, helped, wrong = (shell(f"reverie {words}", tmp_path, **locale) for words in ("runs .", "--help", "trian é"))
    assert (listed.returncode, helped.returncode, wrong.returncode) == (0, 0, 2)
    assert name in listed.stdout and r"COMMAND \u2026" in helped.stdout
    assert "Traceback" not in listed.stderr + helped.stderr + wrong.stderr


def test_characters_that_an_encoding_lacks_are_escaped_and_the_others_stay(tmp_path):
    for encoding, expected in {
        "ascii": r"\u2026 \xe9 \udcff",
        "latin-1": "\\u2026 é \\udcff",
        "utf-8": "… é \\udcff",
    }.items():
        with (tmp_path / encoding).open("w", encoding=encoding) as file:
            stream = Steady(file)
            print("… é \udcff", file=stream, flush=True)  # pyright: ignore[reportArgumentType]
        assert (tmp_path / encoding).read_text(encoding=encoding) == expected + "\n" and stream.failure is None
