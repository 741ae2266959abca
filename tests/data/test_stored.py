"""The same pictures in a folder, a zip file, shards and tables are the same data set, whichever way the disk lists them."""

import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.core.errors import InputError, RunError
from reverie.data import Loader, Mirrored, TensorSet, archives, decoding, folder, keeping, stored, tables


def noise(seed: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(seed: int, side: int = 12) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed, side)).save(file, "PNG")
    return file.getvalue()


FILES = {f"{name}/{i:02}.png": png(100 * k + i) for k, name in enumerate(("ape", "cat")) for i in range(20)}


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    decoding.decoded.cache_clear()
    yield
    decoding.decoded.cache_clear()


def tar(path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def as_folder(root):
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def as_zip(root, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(root.with_suffix(".zip"), "w", how) as file:
        for name, content in FILES.items():
            file.writestr(f"pictures/{name}", content)
        file.writestr("__MACOSX/pictures/ape/._00.png", b"nothing")
    return root.with_suffix(".zip")


def as_shards(root, classes=False):
    """Three shards of a WebDataset; classes in members or by folder."""
    every = list(FILES)
    for number in range(3):
        members = {}
        for name in every[number::3]:
            key = name[:-4]
            members[name] = FILES[name]
            if classes:
                members |= {f"{key}.cls": str(int(name[0] == "c")).encode(), f"{key}.json": b"{}"}
        tar(root / f"part-{number}.tar", members)
    if classes:
        (root / "classes.txt").write_text("ape\ncat\n")
    return root


FORMS = {
    "folder": as_folder,
    "zip": as_zip,
    "stored zip": lambda root: as_zip(root, zipfile.ZIP_STORED),
    "shards": as_shards,
    "shards with classes": lambda root: as_shards(root, classes=True),
}


def same(a, b) -> bool:
    return torch.equal(a.images, b.images) and a.columns == b.columns and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_is_the_same_in_every_form(tmp_path, form, split):
    plain = data.load(as_folder(tmp_path / "plain"), split)
    other = data.load(FORMS[form](tmp_path / "other"), split)
    assert same(plain, other) and other.classes == ["ape", "cat"] and other.name == "other"
    for row in (0, len(other) - 1):
        name = other.columns["path"][row]
        seed = 100 * (name[0] == "c") + int(name[-6:-4])
        assert np.array_equal(other.images[row].permute(1, 2, 0).numpy(), noise(seed))
    changed = dict(FILES) | {"cat/07.png": png(9999)}
    tar(tmp_path / "changed.tar", changed)
    assert not same(data.load(tmp_path / "changed.tar", "all"), data.load(tmp_path / "plain", "all"))  # a control


@pytest.mark.parametrize("demand", [False, True])
def test_order_and_resume_do_not_depend_on_how_the_disk_lists_shards(tmp_path, monkeypatch, demand):
    """Batches from any position, with any listing, kept or decoded on demand; a shard more is another order."""
    monkeypatch.setattr(decoding, "ON_DEMAND", 100 if demand else 2**30)
    root = as_shards(tmp_path / "shards")
    before = data.load(root)
    whole = Loader(before, seed=3)(0, 90)
    listing = list(folder.files_below(root))
    assert len(listing) == 3

    def shuffled(path):
        return iter(random.Random(1).sample(listing, 3))

    decoding.decoded.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(stored, "files_below", shuffled)
        again = data.load(root)
    assert same(before, again) and again.fingerprint == before.fingerprint
    resumed = Loader(again, seed=3, workers=1).stream([(40, 25), (65, 25)])
    x, label = zip(*((batch.x, batch.label) for batch in resumed), strict=True)
    assert torch.equal(torch.cat(x), whole.x[40:]) and torch.equal(torch.cat(label), whole.label[40:])
    tar(root / "part-3.tar", {"cat/90.png": png(7), "cat/91.png": png(8), "cat/92.png": png(9)})
    more = data.load(root)
    assert more.fingerprint != before.fingerprint and not torch.equal(Loader(more, seed=3)(40, 25).x, whole.x[40:65])


def test_on_demand_is_what_is_kept(tmp_path, monkeypatch):
    """The pixels, the notes, the skipped; and what is asked for after its file is gone is said."""
    root = as_folder(tmp_path / "set")
    (root / "ape" / "broken.png").write_bytes(FILES["ape/00.png"][:60])
    kept = data.load(root, "all")
    monkeypatch.setattr(decoding, "ON_DEMAND", 1000)
    decoding.decoded.cache_clear()
    asked = data.load(root, "all")
    assert isinstance(asked.store, decoding.OnDemand) and not isinstance(kept.store, decoding.OnDemand)
    assert same(kept, asked) and kept.fingerprint == asked.fingerprint and kept.skipped == asked.skipped
    assert torch.equal(kept.batch([5, 0, 5]).x, asked.batch([5, 0, 5]).x)
    assert any("as they are needed" in note for note in asked.notes)
    (root / "ape" / "03.png").unlink()
    assert torch.equal(kept.batch([4]).x, asked.batch([4]).x)
    with pytest.raises(RunError, match=r"ape/03\.png of .* could be read at the start and cannot now"):
        asked.batch([3])


def test_pictures_travel_as_bytes(tmp_path, monkeypatch):
    """A quarter of the bytes, and the same floats at the end; bytes that are no pictures stay what they are."""
    for limit in (2**30, 100):
        monkeypatch.setattr(decoding, "ON_DEMAND", limit)
        decoding.decoded.cache_clear()
        pictures = data.load(as_folder(tmp_path / "set"))
        for each in (pictures, Mirrored(pictures)):
            raw, batch = each.raw([3, 0, len(each) - 1]), each.batch([3, 0, len(each) - 1])
            assert raw.x.dtype == torch.uint8 and torch.equal(raw.x.float().div(127.5).sub(1), batch.x)
            assert torch.equal(each.finish(raw).x, batch.x) and batch.x.is_contiguous()
    tokens = TensorSet(torch.arange(12, dtype=torch.uint8).reshape(4, 3))
    (batch,) = Loader(tokens, 0, workers=1).stream([(0, 4)])
    assert batch.x.dtype == torch.uint8 and batch.x.sum() == 66


def test_grey_pictures_stored_in_colour_are_grey_on_demand(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    for i in range(5):
        Image.fromarray(noise(i)[..., :1].repeat(3, 2)).save(tmp_path / "set" / f"{i}.png")
    kept = data.load(tmp_path / "set", "all", size=8)
    monkeypatch.setattr(decoding, "ON_DEMAND", 10)
    decoding.decoded.cache_clear()
    asked = data.load(tmp_path / "set", "all", size=8)
    assert asked.channels == kept.channels == 1 and torch.equal(kept.images, asked.images)


@pytest.mark.parametrize("demand", [False, True])
def test_a_second_start_lists_and_decodes_nothing(tmp_path, monkeypatch, demand):
    monkeypatch.setattr(keeping, "KEPT_FROM", 10)
    monkeypatch.setattr(decoding, "ON_DEMAND", 100 if demand else 2**30)
    root = as_shards(tmp_path / "shards", classes=True)
    first = data.load(root)
    decoding.decoded.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(archives, "listed", None)
        patch.setattr(decoding, "_decode", None)
        again = data.load(root)
        assert same(first, again) and first.fingerprint == again.fingerprint and first.notes == again.notes
        os.utime(root / "part-1.tar", ns=(1, 1))  # a control: it may be another file now
        with pytest.raises(TypeError):
            data.load(root)


def test_samples_of_shards(tmp_path):
    """The picture of a sample is the member with one dot in its name; what has no class, or is a second picture, is named."""
    members = {"000.jpg": png(1), "000.cls": b"7", "000.seg.png": png(2), "001.png": png(3), "001.cls": b"12\n"}
    members |= {"001.webp": png(4), "002.png": png(5), "003.png": png(6), "003.cls": b"7", "note.txt": b""}
    tar(tmp_path / "one.tar", members)
    pictures = data.load(tmp_path / "one.tar", "all")
    assert pictures.columns["path"] == ["000.jpg", "001.png", "003.png"]
    assert [pictures.classes[i] for i in pictures.labels] == ["7", "12", "7"] and pictures.classes == ["7", "12"]
    assert [item.path for item in pictures.skipped] == ["000.seg.png", "001.webp", "002.png"]
    assert np.array_equal(pictures.images[0].permute(1, 2, 0).numpy(), noise(1))


def test_shards_that_hold_the_same_names(tmp_path):
    """Each counts for itself, by its shard's name."""
    for number in range(2):
        tar(tmp_path / f"{number}.tar", {"000.png": png(number), "000.cls": str(number).encode()})
        tar(tmp_path / "bare" / f"{number}.tar", {"000.png": png(number)})
    pictures = data.load(tmp_path, "all")
    assert pictures.columns["path"] == ["0.tar/000.png", "1.tar/000.png"] and pictures.labels.tolist() == [0, 1]
    assert not torch.equal(pictures.images[0], pictures.images[1])
    assert data.load(tmp_path / "bare", "all").labels is None


def test_broken_archives_are_read_as_far_as_they_go(tmp_path):
    whole = as_shards(tmp_path / "shards")
    path = whole / "part-1.tar"
    with tarfile.open(path) as file:
        third = file.getmembers()[2]
    path.write_bytes(path.read_bytes()[: third.offset_data + 20])
    pictures = data.load(whole, "all")
    assert len(pictures) == 40 - 13 + 2
    assert {third.name, "part-1.tar"} == {item.path for item in pictures.skipped}
    (whole / "part-2.tar").write_bytes(b"no archive at all")
    assert len(data.load(whole, "all")) == 40 - 26 + 2
    zipped = as_zip(tmp_path / "zipped")
    content = bytearray(zipped.read_bytes())
    with zipfile.ZipFile(zipped) as file:
        at = file.getinfo("pictures/ape/04.png").header_offset
    content[at + 200] ^= 255
    zipped.write_bytes(content)
    damaged = data.load(zipped, "all")
    assert len(damaged) == 39 and damaged.skipped[0].path == "ape/04.png"
    assert "checksum" in damaged.skipped[0].reason or "unpacked" in damaged.skipped[0].reason
    assert "1 of 40 files skipped" in damaged.notes[-1]


def test_what_is_no_data_set_is_said(tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"unpack it to a \.tar"):
        data.load(tmp_path / "set.tar.gz")
    (tmp_path / "empty").mkdir()
    tar(tmp_path / "empty" / "a.tar", {"a.txt": b""})
    with pytest.raises(InputError, match="no pictures in"):
        data.load(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a.png", png(1))
    with pytest.raises(InputError, match="no pictures in"):
        data.load(tmp_path / "odd.zip")


def test_a_folder_of_pictures_is_one_whatever_else_lies_in_it(tmp_path):
    root = as_folder(tmp_path / "set")
    tar(root / "left" / "over.tar", {"ape/99.png": png(1)})
    pictures = data.load(root, "all")
    assert len(pictures) == 40 and [item.path for item in pictures.skipped] == ["left/over.tar"]


def table(path, features=True, names=("ape", "cat"), rows=None):
    pa = pytest.importorskip("pyarrow")
    rows = list(FILES) if rows is None else rows
    pictures = [{"bytes": FILES[name], "path": name} for name in rows]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {
        "image": pa.array(pictures, kind),
        "label": pa.array([int(name[0] == "c") for name in rows], pa.int64()),
        "other": pa.array([3] * len(rows), pa.int64()),
    }
    made = pa.table(columns)
    if features:
        said = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(made, path, row_group_size=7)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made, max_chunksize=9)
    return path


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("features", [True, False])
def test_tables_hold_the_same_pictures(tmp_path, ending, features):
    pictures = data.load(table(tmp_path / f"train.{ending}", features), "all")
    assert pictures.classes == (["ape", "cat"] if features else ["0", "1"])
    plain = data.load(as_folder(tmp_path / "plain"), "all")
    assert torch.equal(pictures.images, plain.images) and torch.equal(pictures.labels, plain.labels)


def test_a_table_is_read_by_several_threads_and_as_it_is_now(tmp_path):
    pytest.importorskip("pyarrow")
    path, every = tmp_path / "train.parquet", list(FILES)
    for rows in (every, every[::-1]):
        for _ in range(20):
            tables._column.cache_clear()
            records = tables.Rows(table(path, rows=rows), [path.name])
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(records.read, range(len(rows)))) == [FILES[name] for name in rows]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_of_a_table_say_what_is_held_out(tmp_path, ending):
    every = sorted(FILES, key=lambda name: FILES[name])
    table(tmp_path / "set" / f"train-00000-of-00001.{ending}", rows=every[:30])
    table(tmp_path / "set" / f"test-00000-of-00001.{ending}", rows=every[30:])
    train, test = (data.load(tmp_path / "set", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 10)
    assert all(path.startswith("test") for path in test.columns["path"])
    shutil.rmtree(tmp_path / "set")
    table(tmp_path / "set" / f"part-0.{ending}")
    assert 30 < len(data.load(tmp_path / "set", "train")) < 40  # by their hash


def test_a_table_too_large_to_keep_is_to_be_packed(tmp_path, monkeypatch):
    path = table(tmp_path / "train.parquet")
    monkeypatch.setattr(decoding, "ON_DEMAND", 100)
    with pytest.raises(InputError, match="reverie data pack"):
        data.load(path)
    asked = data.load(table(tmp_path / "train.arrow"), "all")  # each row of which is found by itself
    assert torch.equal(asked.images, data.load(as_folder(tmp_path / "plain"), "all").images)


def test_without_pyarrow_a_table_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install reverie\[parquet\]"):
        data.load(tmp_path / "a.parquet")
