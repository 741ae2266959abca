"""Codes that were made before are those that runs find: by the pictures, the space, the mirror images, and by nothing else."""

import pytest

from reverie.cli import main
from reverie.core.errors import InputError
from reverie.data import codes
from reverie.recipes.coding import encode
from reverie.recipes.runs import Run

SHORT = "--data digits8 --train.images 64 --train.batch 32 --train.warmup 32 --train.processes 1"
NET = "--net.patch 1 --net.width 16 --net.depth 1 --net.heads 2 --sample.steps 2"


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "space"
    assert main(f"train autoencoder --kind patch-ae --patch 4 --dims 8 {SHORT} --out {folder}".split()) == 0
    return folder


@pytest.mark.parametrize("flags", ["", "--flip", "--no-labels"])
def test_runs_find_the_codes_that_were_made(space, tmp_path, monkeypatch, capsys, flags):
    kept = tmp_path / "kept"
    assert main(f"data encode digits8 {kept} --space {space} --device cpu {flags}".split()) in (0, None)
    said = capsys.readouterr().out
    files = sorted(kept.iterdir())
    assert len(files) == (3 if flags == "--flip" else 2) and "--data.codes" in said
    write, made = codes._write, []

    def written(path, data, *rest):
        made.append(len(data))
        write(path, data, *rest)

    monkeypatch.setattr(codes, "_write", written)
    said = said.split("next: reverie ")[1].replace("--data digits8", "")  # SHORT has it
    assert main(f"{said} {NET} {SHORT} --out {tmp_path / 'run'}".split()) == 0
    run = tmp_path / "run"
    assert made == [] and not (run / "codes").exists() and sorted(kept.iterdir()) == files
    assert Run(run).recipe.data.codes == str(kept)
    train = f"train --space {space} {NET} {SHORT} --data.codes {kept}"
    other = "--data.no-labels" if flags != "--no-labels" else ""
    assert main(f"{train} {other} --out {tmp_path / 'other'}".split()) == 0
    assert len(made) == 2  # a control: other labels are another data set


def test_a_run_without_a_space_is_refused(tmp_path):
    assert main(f"train {NET} {SHORT} --out {tmp_path / 'run'}".replace("--net.patch 1", "--net.patch 4").split()) == 0
    with pytest.raises(InputError, match="no space"):
        encode(Run(tmp_path / "run"), "digits8", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
