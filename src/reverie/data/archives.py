"""The pictures in zip files and in shards of WebDataset (tar files), read where they lie: nothing is unpacked.

What is where in an archive is listed once and kept, so that any member is found without the others, by any process, in any order. In a
WebDataset (Aizman, Maltby & Breuel 2019) the members of a sample share a key, their path up to the first dot of the name: ``00017.jpg`` is
the picture of the class that ``00017.cls`` says, called what ``00017.txt`` or ``00017.json`` says.
"""

import json
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from reverie.core import files
from reverie.core.errors import RunError
from reverie.core.progress import track
from reverie.data import captions, keeping
from reverie.data.folder import is_picture, stamp
from reverie.data.records import Records, Skipped
from reverie.data.split import by_split

ENDINGS = (".tar", ".zip")
CLASSES = "classes.txt"
"""Beside shards: the names of the classes that ``.cls`` numbers, one a line."""
LABEL, TEXTS, LISTED = ".cls", (".txt", ".json", *captions.METADATA), "captioned.json"
LONGEST = 1000
"""Bytes of a class's name, at most."""
LARGEST = 2**30
"""Bytes of a member, at most."""


class Member(NamedTuple):
    """Where the content of a member lies: in which archive, at which byte, how many there and unpacked; its CRC-32, if known."""

    name: str
    archive: int
    offset: int
    stored: int
    size: int
    deflated: bool = False
    crc: int | None = None


class Listed(NamedTuple):
    """What archives hold: the pictures, the class of each if they are samples, its caption if any has one, and what was left out."""

    pictures: list[Member]
    classes: list[str]
    captions: list[str] | None
    skipped: list[Skipped]


class Members(Records):
    """Pictures in archives, by their name there; by the archive's too, if two archives hold the same names.

    Args:
        root: absolute; one archive, or the folder of them.
        archives: their paths relative to the folder.
    """

    def __init__(self, root: Path, archives: Sequence[str]) -> None:
        self.root, self.archives = root, sorted(archives)
        self.folder = root if root.is_dir() else root.parent
        self.key = tuple((path, *stamp(self.folder / path)) for path in (*self.archives, CLASSES))
        found = self._known()
        self.skipped = found.skipped
        inner = _below_one_folder([member.name for member in found.pictures])
        twice = max(Counter(inner).values(), default=0) > 1
        paths = [f"{self.archives[m.archive]}/{n}" if twice else n for m, n in zip(found.pictures, inner, strict=True)]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        self.paths, self.members = [paths[i] for i in order], [found.pictures[i] for i in order]
        self.inner, self.held_out = by_split([inner[i] for i in order])
        self.classes = [found.classes[i] for i in order] if found.classes else None
        self.told = None if found.captions is None else [found.captions[i] for i in order]

    def captions(self, kept: Sequence[int]) -> tuple[list[str] | None, set[str]]:
        return None if self.told is None else [self.told[i] for i in kept], set()

    def read(self, i: int) -> bytes:
        return self._content(self.members[i])

    def _content(self, member: Member) -> bytes:
        with (self.folder / self.archives[member.archive]).open("rb") as file:
            file.seek(member.offset)
            content = file.read(member.stored)
        if len(content) < member.stored:
            raise OSError("the archive ends before it does")
        if member.deflated:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max(1, member.size))
            except zlib.error as error:
                raise OSError(f"it cannot be unpacked ({error})") from error
        if member.crc is not None and zlib.crc32(content) != member.crc:
            raise OSError("it is damaged: its checksum is another")
        return content

    def _of_samples(
        self, pictures: Sequence[Member], said: Mapping[tuple[int, str], Member]
    ) -> tuple[list[Member], list[str], list[Skipped]]:
        """The picture of each sample that has a class, the first whose name has one dot; the classes; and what is none."""
        names = self.folder / CLASSES
        written = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
        found: dict[tuple[int, str], tuple[Member, str]] = {}
        skipped = []
        for member in pictures:
            sample = member.archive, key(member.name)
            if sample not in said:
                skipped.append(Skipped(member.name, f"no {LABEL} says its class"))
            elif member.name.removeprefix(sample[1]).count(".") > 1 or sample in found:
                skipped.append(Skipped(member.name, "not the picture of its sample"))
            else:
                try:
                    name = self._content(said[sample])[:LONGEST].decode(errors="surrogateescape").strip()
                except OSError as error:
                    skipped.append(Skipped(member.name, f"its {LABEL} cannot be read: {error}"))
                    continue
                number = int(name) if name.isdecimal() else len(written)
                found[sample] = member, written[number] if number < len(written) else name
        return [member for member, _ in found.values()], [name for _, name in found.values()], skipped

    def _captions(self, pictures: Sequence[Member], texts: Sequence[Member]) -> list[str] | None:
        """What each picture is called, by the files of its archive; None if none is called anything."""
        of: dict[int, dict[str, Member]] = {}
        for member in texts:
            of.setdefault(member.archive, {})[member.name] = member
        found: dict[Member, str] = {}
        for number, beside in of.items():
            some = [member for member in pictures if member.archive == number]
            root, names = self.folder / self.archives[number], [member.name for member in some]
            said, _ = captions.read(lambda file, at=beside: self._content(at[file]), root, names, sorted(beside))
            found |= dict(zip(some, said or (), strict=False))
        return [found.get(member, "") for member in pictures] if any(found.values()) else None

    def _known(self) -> Listed:
        """What the archives hold; from the cache where they are those of before."""
        place = keeping.place("listed", [str(self.folder), self.key, LISTED])
        try:
            kept = json.loads((place / LISTED).read_text(encoding="utf-8"))
            os.utime(place)
            pictures, skipped = (
                [Member(*each) for each in kept["pictures"]],
                [Skipped(*each) for each in kept["skipped"]],
            )
            return Listed(pictures, kept["classes"], kept["captions"], skipped)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        members, skipped, classes = [], [], []
        for number, path in enumerate(track(self.archives, "listing archives", len(self.archives), "archives")):
            for found in listed(self.folder / path, path, number):
                (members if isinstance(found, Member) else skipped).append(found)
        said = {(member.archive, key(member.name)): member for member in members if member.name.endswith(LABEL)}
        texts = [member for member in members if member.name.endswith(TEXTS)]
        pictures = sorted(member for member in members if is_picture(member.name))
        if said:
            pictures, classes, more = self._of_samples(pictures, said)
            skipped += more
        made = Listed(pictures, classes, self._captions(pictures, texts), sorted(skipped))
        if len(members) >= keeping.KEPT_FROM:
            with suppress(RunError), files.appearing_folder(place) as folder:
                files.write(folder / LISTED, json.dumps(made._asdict()))
            keeping.forget(place.parent)
        return made


def key(name: str) -> str:
    """What the members of a sample share."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def listed(archive: Path, path: str, number: int) -> Iterator[Member | Skipped]:
    """What an archive holds, hidden files apart; what cannot be read is said.

    Args:
        archive: its file.
        path: what it is called.
        number: among the archives.
    """
    try:
        members = _zipped if archive.suffix.lower() == ".zip" else _tarred
        for found in members(archive, number):
            parts = (found.name if isinstance(found, Member) else found.path).split("/")
            if any(part.startswith((".", "__MACOSX")) for part in parts):
                continue
            if isinstance(found, Member) and max(found.stored, found.size) > LARGEST:
                found = Skipped(found.name, "it has more than a gigabyte")
            yield found
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        yield Skipped(path, f"the archive is damaged from some place on ({error})")


def _tarred(archive: Path, number: int) -> Iterator[Member | Skipped]:
    size = archive.stat().st_size
    with tarfile.open(archive, "r:") as whole:
        for member in whole:
            whole.members = []  # pyright: ignore[reportAttributeAccessIssue] - which would hold them all
            name = member.name.removeprefix("./").lstrip("/")
            if member.isreg() and member.offset_data + member.size > size:
                yield Skipped(name, "the archive ends before it does")
            elif member.isreg() and not member.issparse():
                yield Member(name, number, member.offset_data, member.size, member.size)


def _zipped(archive: Path, number: int) -> Iterator[Member | Skipped]:
    with zipfile.ZipFile(archive) as whole, archive.open("rb") as file:
        for info in whole.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                yield Skipped(
                    info.filename, "it is encrypted" if info.flag_bits & 1 else "it is packed in a way that is not read"
                )
                continue
            file.seek(info.header_offset + 26)  # the lengths of the name and of what follows it, before the content
            lengths = file.read(4)
            offset = info.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            yield Member(
                info.filename.lstrip("/"), number, offset, info.compress_size, info.file_size, deflated, info.CRC
            )


def _below_one_folder(names: Sequence[str]) -> list[str]:
    """The names without the folders that all of them share, as archives of one folder have."""
    tops = {name.split("/", 1)[0] if "/" in name else None for name in names}
    while len(tops) == 1 and None not in tops:
        names = [name.split("/", 1)[1] for name in names]
        tops = {name.split("/", 1)[0] if "/" in name else None for name in names}
    return list(names)
