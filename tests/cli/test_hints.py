"""Every hint that is printed runs as printed, also where the folder's name has a space, and a bare name is that of a run in ``runs/``."""

import html
import re
import shlex
import shutil
from pathlib import Path

import pytest

from reverie.recipes import training

SHORT = {
    "train": "--train.images 64 --train.validate-every 1000 --train.sample-every 1000 --sample.steps 1",
    "evaluate": "--n 40 --seeds 0",
    "read": "--labels 40 --seeds 1 --pictures 60 --logsnr 2",
}
"""What is put behind a hint of a verb, so that a test of it ends soon."""


def hints(text: str) -> list[list[str]]:
    """The commands after ``next:`` and ``with:``, and those in backticks or <code>, as a shell would take them apart."""
    found = re.findall(r"(?:next|go on with): (reverie [^\n]+)", text)
    found += re.findall(r"`(reverie [^`]+)`", text)
    found += [html.unescape(code) for code in re.findall(r"<code>(reverie [^<]+)</code>", text)]
    return [shlex.split(command.strip()) for line in found for command in line.split(";")]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained run in a folder with a space in its name, relative to the working folder."""
    shutil.copytree(trained, tmp_path / "runs" / "my digits")
    return Path("runs/my digits")


@pytest.fixture
def follow(reverie):
    """Run every hint of a text; there must be some, of these verbs."""

    def follow(text: str, *verbs: str) -> None:
        found = hints(text)
        assert [command[1] for command in found] == list(verbs)
        for program, verb, *words in found:
            assert program == "reverie"
            said = reverie.exactly(verb, *words, *SHORT.get(verb, "").split())
            assert said.code == 0, (verb, words, said.err)

    return follow


@pytest.fixture
def reverie(reverie, capsys):
    from reverie.cli import main

    def exactly(*words: str):
        capsys.readouterr()
        code = main(list(words))
        said = capsys.readouterr()
        return type(reverie("--version"))(code, said.out, said.err)

    reverie.exactly = exactly
    return reverie


def test_hints_are_taken_apart_as_a_shell_does():
    text = "x: 3 images; next: reverie sample 'a b'; reverie report 'a b'\n`reverie runs` <code>reverie report &#39;a b&#39;</code>"
    assert hints(text) == [
        ["reverie", "sample", "a b"],
        ["reverie", "report", "a b"],
        ["reverie", "runs"],
        ["reverie", "report", "a b"],
    ]


def test_after_training(run, reverie, follow):
    follow(reverie.exactly("train", str(run)).out, "sample", "report")


def test_after_a_stop(run, reverie, follow, monkeypatch):
    train = training.train
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", lambda *given: (train(*given)[0], 320))
        said = reverie.exactly("train", str(run))
    assert said.code == 130
    SHORT_TRAIN, SHORT["train"] = SHORT["train"], ""
    try:
        follow(said.err, "train")
    finally:
        SHORT["train"] = SHORT_TRAIN


def test_without_a_checkpoint(run, reverie):
    shutil.rmtree(run / "checkpoints")
    said = reverie.exactly("sample", str(run))
    assert said.code == 1 and hints(said.err) == [["reverie", "train", str(run)]]


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        ("evaluate RUN --n 40 --seeds 0", "report"),
        ("read probe RUN --labels 40 --seeds 1 --pictures 60 --logsnr 2", "report"),
        ("calibrate RUN --steps 2", "sample"),
    ],
)
def test_after_a_verb(run, reverie, follow, words, verb):
    said = reverie.exactly(*[str(run) if word == "RUN" else word for word in words.split()])
    assert said.code == 0, said.err
    follow(said.out, verb)


def test_in_the_report(run, reverie, follow):
    assert reverie.exactly("report", str(run)).code == 0
    follow((run / "report.html").read_text(encoding="utf-8"), "evaluate", "report", "read", "report")


@pytest.mark.parametrize(
    ("words", "verbs"),
    [
        ("train classifier --data mnist5k --out runs/c", ("train", "sample")),
        ("train judge --data mnist5k --out runs/j", ("train", "evaluate")),
        ("train autoencoder --data mnist5k --width 8 --out runs/a", ("train",)),
    ],
)
def test_after_another_task(reverie, follow, words, verbs):
    said = reverie(words, "--train.images 64 --train.warmup 8 --train.batch 32")
    assert said.code == 0, said.err
    follow(said.out, *verbs)


def test_after_a_judge(reverie, follow):
    said = reverie("judge mnist5k --images 64 --out j.safetensors")
    assert said.code == 0, said.err
    follow(said.out, "train", "evaluate")


def test_a_bare_name_is_that_of_a_run_in_runs(trained, reverie):
    shutil.copytree(trained, "runs/digits")
    assert reverie("sample digits --n 1").code == 0
    assert reverie("train digits").code == 0 and not Path("digits").exists()
    shutil.move("runs/digits", "digits")
    assert reverie("sample digits --n 1").code == 0
    shutil.rmtree("digits")
    assert reverie("sample digits --n 1").code == 2
