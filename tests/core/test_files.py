"""The one writer of files: complete or absent, never through a link inside a folder that is not trusted, one header."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from reverie.core import files
from reverie.core.errors import RunError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there_with_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        files.write(tmp_path / "deep" / "a.txt", "… é")
        files.write_tensors(tmp_path / "deep" / "a.safetensors", {"x": torch.ones(2)}, {"what": "test"})
    finally:
        os.umask(old)
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "… é"
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "deep").iterdir())] == [0o640, 0o640]


def test_a_failure_leaves_what_was_there_and_no_part(tmp_path):
    files.write(tmp_path / "a.txt", "old")
    with (
        pytest.raises(RunError, match=r"a\.txt could not be written: .*full"),
        files.appearing(tmp_path / "a.txt") as partial,
    ):
        partial.write_text("half")
        raise OSError("full")
    with pytest.raises(ZeroDivisionError), files.appearing(tmp_path / "a.txt") as partial:
        partial.write_text(str(1 / 0))
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with files.appearing_folder(tmp_path / "new" / "a") as partial:
        files.write(partial / "x.txt", "x")
        assert names(tmp_path / "new") == [partial.name] and partial.name != ".tmp-a"
    assert (tmp_path / "new" / "a" / "x.txt").read_text() == "x"
    with pytest.raises(RunError, match=r"/b could not be written: full"), files.appearing_folder(tmp_path / "b"):
        raise OSError(28, "full")
    with (
        pytest.raises(RunError, match=r"/b could not be written: No such file"),
        files.appearing_folder(tmp_path / "b") as partial,
    ):
        files.write(partial / "sub", "a file, and not a folder")
        files.sync(partial / "none")
    (tmp_path / "outside").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="/c could not be written"), files.appearing_folder(tmp_path / "c") as partial:
        files.write(partial / "x.txt", "x")
    assert names(tmp_path) == ["c", "new", "outside"] and not names(tmp_path / "outside")


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=files.write, args=(tmp_path / "a.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() in texts


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    for name in ("a.txt", ".tmp-a.txt"):
        (tmp_path / name).symlink_to(tmp_path / "thesis")
    files.write(tmp_path / "a.txt", "new")
    assert (tmp_path / "thesis").read_text() == "mine" and (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_inside_a_folder_no_part_is_a_link_and_the_folder_may_be_one(tmp_path):
    (tmp_path / "disk" / "sub").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert files.inside(tmp_path / "run", "sub", "a.txt") == files.inside(tmp_path / "run", "sub/a.txt")
    (tmp_path / "disk" / "sub" / "a.txt").symlink_to("/nowhere")
    (tmp_path / "disk" / "out").symlink_to(tmp_path)
    for parts in (("sub", "a.txt"), ("out",), ("out", "deep", "b.txt"), ("out/b.txt",)):
        with pytest.raises(RunError, match="is a link to"):
            files.inside(tmp_path / "run", *parts)


def test_tensors_and_their_header_come_back(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3).mT, "b": torch.ones((), dtype=torch.bfloat16)}
    files.write_tensors(tmp_path / "a", tensors, {"what": "test", "classes": ["é"]})
    assert files.read_about(tmp_path / "a") == {"what": "test", "classes": ["é"]}
    read = files.read_tensors(tmp_path / "a")
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in tensors.items())


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, (2**63).to_bytes(8, "little") + b"{}", None])
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    for read in (files.read_tensors, files.read_about):
        with pytest.raises(RunError, match="/a is damaged"):
            read(tmp_path / "a")


@pytest.mark.parametrize(
    "header", [None, {"other": "{}"}, {"reverie": "{"}, {"reverie": "[1]"}, {"reverie": "[" * 20_000}]
)
def test_a_header_that_says_nothing(tmp_path, header):
    save_file({"x": torch.ones(1)}, tmp_path / "a", header)
    with pytest.raises(RunError, match="does not say what it is of"):
        files.read_about(tmp_path / "a")


def test_every_kind_of_file_has_the_one_header_and_the_older_ones_open(tmp_path):
    import reverie as rv
    from reverie.learn.checkpoint import Checkpoints
    from reverie.measure import judge
    from reverie.spaces import PatchPCA

    pca = PatchPCA.fit(rv.data.load("digits8").batch(range(50)).x, patch=4, dims=3)
    rv.spaces.save(pca, tmp_path / "space.safetensors")
    saved = Checkpoints(tmp_path / "checkpoints").save(
        1, {"model": {"x": torch.ones(1)}}, {"images": 1}, {"shape": "1"}
    )
    written = [tmp_path / "space.safetensors", saved.folder / "model.safetensors", judge.FOLDER / "mnist5k.safetensors"]
    for path in written:
        with safe_open(path, "pt") as file:
            assert list(file.metadata()) == ["reverie"]
    for path, older, load in ((written[0], "space", rv.spaces.load), (written[2], "judge", judge.load)):
        said = {key: value for key, value in files.read_about(path).items() if key != "what"}
        save_file(files.read_tensors(path), tmp_path / "old", {older: json.dumps(said)})
        old, new = load(tmp_path / "old"), load(path)
        assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))
        other = rv.spaces.load if older == "judge" else judge.load
        with pytest.raises(rv.InputError if hasattr(rv, "InputError") else ValueError):
            other(path)
