"""Data sets of Python's, and those of Hugging Face's library, as shards; what says its split and its captions, in every form."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

from reverie import data
from reverie.core.errors import InputError
from reverie.data import Wrapped, decoding, hub, pack
from reverie.data.items import checked
from reverie.data.packing import kept

SHADES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    decoding.decoded.cache_clear()
    yield
    decoding.decoded.cache_clear()


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(SHADES[i]).save(file, "PNG")
    return file.getvalue()


class Pictures:
    """As torchvision's data sets are: it names its classes, and its items can be asked for beyond the end."""

    classes = ("even", "odd")

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return Image.fromarray(SHADES[i % 12]), i % 2


class Stream(IterableDataset):
    def __iter__(self):
        return ({"img": {"bytes": png(i), "path": None}, "text": f"picture {i}", "label": i % 2} for i in range(12))


SETS = {
    "pictures": Pictures(),
    "tensors": TensorDataset(torch.from_numpy(SHADES).permute(0, 3, 1, 2), torch.arange(12) % 2),
    "arrays": [(shade.transpose(2, 0, 1), f"{'odd' if i % 2 else 'even'}") for i, shade in enumerate(SHADES)],
    "floats": Wrapped([(torch.from_numpy(s).permute(2, 0, 1) / 255, i % 2) for i, s in enumerate(SHADES)], ["even", "odd"], floats=(0, 1)),
    "stream": Stream(),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_any_data_set_of_pictures_and_labels_becomes_shards(tmp_path, name):
    pack(SETS[name], tmp_path / "shards")
    found = data.load(tmp_path / "shards", "all")
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), SHADES)
    assert [found.classes[i] in ("odd", "1") for i in found.labels] == [i % 2 == 1 for i in range(12)]
    assert found.classes == (["0", "1"] if name in ("tensors", "stream") else ["even", "odd"])
    assert found.texts == ([f"picture {i}" for i in range(12)] if name == "stream" else None)


def test_splits_are_said(tmp_path):
    pack({"train": [(SHADES[i].transpose(2, 0, 1), i % 2) for i in range(9)], "test": Stream()}, tmp_path / "shards")
    train, test = (data.load(tmp_path / "shards", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (9, 12) and np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), SHADES)
    with pytest.raises(InputError, match="are called train and test: got holdout"):
        pack({"train": [], "holdout": []}, tmp_path / "other")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((torch.zeros(3, 4, 4), 0), r"item 0 of the data has values of 0 to 255 as uint8: got torch.float32; say .*floats=\(0, 1\)"),
        ((np.zeros((4, 4, 3), np.uint8), 0), r"got \(4, 4, 3\): move the channels to the front"),
        ((torch.zeros(4, 4, 4, dtype=torch.uint8), 0), r"\(1 or 3 channels, height, width\)"),
        ((torch.zeros(3, 4, 4, dtype=torch.int64), 0), "got torch.int64"),
        (("a.png", 0), "is no picture .* got str"),
        ((Image.new("L", (4, 4)), -1), "the label of item 0 of the data is the number of its class, 0 or more, or its name: got -1"),
        ((Image.new("L", (4, 4)), torch.tensor([0, 1])), "number of its class"),
        ({"label": 3}, "is no picture"),
    ],
)  # fmt: skip
def test_what_is_no_picture_or_label_is_said(tmp_path, item, said):
    with pytest.raises(InputError, match=said):
        pack([item], tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    pack([(Image.new("L", (4, 4)), 1)], tmp_path / "shards")  # a control


def test_floats_beyond_their_range_are_said():
    normalised = [(torch.full((1, 4, 4), value), 0) for value in (0.5, 2.1)]
    items = Wrapped(normalised, ["all"], floats=(0, 1))
    assert items.batch([0]).x.abs().max() == 0
    with pytest.raises(InputError, match=r"item 1 of items has values from 2.1 to 2.1, and floats says 0 to 1"):
        items.batch([1])
    assert checked(np.zeros((4, 5), np.uint8), "it").shape == (1, 4, 5)
    assert Wrapped(Pictures()).spec.classes == ("even", "odd")


def test_the_same_items_are_kept_once_and_those_that_change_are_refused():
    first = kept(Pictures(), "pictures")
    assert first == kept(Pictures(), "pictures") and first.name == "pictures"
    assert first != kept(SETS["tensors"], "pictures")
    assert not list(first.parents[1].glob(".tmp*"))

    class Noisy(Pictures):
        def __getitem__(self, i):
            return torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8), 0

    with pytest.raises(InputError, match="the first item of noisy is another each time it is read"):
        kept(Noisy(), "noisy")


def members(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, each in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(each)
            file.addfile(info, io.BytesIO(each))
    return path


def test_captions_of_samples_in_shards(tmp_path):
    """In .txt or .json, with .cls or without; by the name of their sample in their own shard."""
    one = {
        "0.png": png(0),
        "0.txt": b"a fox\nthe fox\n",
        "1.png": png(1),
        "1.json": b'{"caption": "an owl", "width": 8}',
    }
    two = {"0.png": png(2), "0.json": b"[1]", "1.png": png(3), "1.txt": b"an ape"}
    for labelled in (False, True):
        root = tmp_path / str(labelled)
        for name, content in (("a.tar", one), ("b.tar", two)):
            members(root / name, {**content, **({"0.cls": b"0", "1.cls": b"1"} if labelled else {})})
        found = data.load(root, "all")
        assert found.columns["path"] == ["a.tar/0.png", "a.tar/1.png", "b.tar/0.png", "b.tar/1.png"]
        assert found.texts == ["a fox\nthe fox", "an owl", "", "an ape"]
        assert (found.labels is None) == (not labelled)
    pack(tmp_path / "True", tmp_path / "again")
    assert data.load(tmp_path / "again", "all").texts == found.texts


def folder(root: Path, names) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    return root


def test_folders_that_are_splits_are_no_classes(tmp_path):
    names = [
        f"{split}/{kind}/{i}.png" for split in ("train", "validation") for kind in ("ape", "cat") for i in range(3)
    ]
    root = folder(tmp_path / "set", names)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in names:
            file.write(root / name, f"set/{name}")
    pack(root, tmp_path / "shards")
    for path in (root, tmp_path / "set.zip", tmp_path / "shards"):
        train, test = (data.load(path, split) for split in ("train", "test"))
        assert train.classes == test.classes == ["ape", "cat"] and (len(train), len(test)) == (6, 6)
        assert all(each.startswith("validation/") for each in test.columns["path"])
    assert data.load(folder(tmp_path / "kinds", ["train/a.png", "bus/b.png"]), "all").classes == ["bus", "train"]


def test_metadata_in_a_zip_and_as_a_table(tmp_path):
    root = folder(tmp_path / "set", ["train/a.png", "train/b.png"])
    (root / "train" / "metadata.csv").write_text('file_name,text\nb.png,"two, \n and more"\na.png,one\n')
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, path.relative_to(tmp_path))
    for path in (root, tmp_path / "set.zip"):
        found = data.load(path, "all")
        assert found.texts == ["one", "two, and more"] and found.labels is None and not found.skipped
    (root / "train" / "metadata.csv").write_text("file_name,words\nb.png,two\n")
    with pytest.raises(InputError, match=r"line 2 of .*metadata.csv has no file_name and text"):
        data.load(root, "all")


def rows(path: Path, some) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({
        "image": pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in some], kind),
        "caption": [f"picture {i}" for i in some],
        "label": [i % 2 for i in some],
    })  # fmt: skip
    said = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["even", "odd"]}}
    said["caption"] = {"_type": "Value", "dtype": "string"}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})}), path, row_group_size=5
    )
    return path


def test_captions_of_tables_and_their_split_when_they_are_packed(tmp_path):
    rows(tmp_path / "set" / "train-0.parquet", range(8))
    rows(tmp_path / "set" / "test-0.parquet", range(8, 12))
    pack(tmp_path / "set", tmp_path / "shards")
    for path in (tmp_path / "set", tmp_path / "shards"):
        train, test = (data.load(path, split) for split in ("train", "test"))
        assert train.texts == [f"picture {i}" for i in range(8)] and test.texts == [
            f"picture {i}" for i in range(8, 12)
        ]
        assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), SHADES[8:])


def test_a_data_set_of_the_hub_is_streamed_file_by_file(tmp_path, monkeypatch):
    """From local tables in place of the hub: the shards hold the very bytes of the pictures."""
    datasets = pytest.importorskip("datasets")
    rows(tmp_path / "set" / "train-0.parquet", range(8))
    rows(tmp_path / "set" / "test-0.parquet", range(8, 12))
    asked, real = [], datasets.load_dataset

    def load_dataset(*given, streaming):
        asked.append((given, streaming))
        files = {split: str(tmp_path / "set" / f"{split}-0.parquet") for split in ("train", "test")}
        return real("parquet", data_files=files, streaming=streaming, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match="not here yet: `reverie prefetch hf://someone/foxes` streams it"):
        data.load("hf://someone/foxes")
    hub.bring("hf://someone/foxes")
    hub.bring("hf://someone/foxes")
    assert asked == [(("someone/foxes", None), True)] and hub.folder("hf://datasets/a/b") == hub.folder("hf://a/b")
    train, test = (data.load("hf://someone/foxes", split) for split in ("train", "test"))
    assert (len(train), len(test), train.name, train.classes) == (8, 4, "foxes", ["even", "odd"])
    assert train.texts == [f"picture {i}" for i in range(8)] and train.labels.tolist() == [i % 2 for i in range(8)]
    with tarfile.open(next(hub.folder("hf://someone/foxes").glob("*.tar"))) as shard:
        held = {member.name: shard.extractfile(member).read() for member in shard if member.name.endswith(".png")}
    assert held == {f"{'train' if i < 8 else 'test'}/{i % 8:09d}.png": png(i) for i in range(12)}
    with pytest.raises(InputError, match="hf://OWNER/NAME"):
        hub.folder("hf://a//b")


def test_data_sets_of_the_library_in_memory_and_of_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    root = folder(tmp_path / "set", [f"{kind}/{i}.png" for kind in ("ape", "cat") for i in range(6)])
    for streaming in (False, True):
        found = datasets.load_dataset(
            "imagefolder", data_dir=str(root), streaming=streaming, cache_dir=str(tmp_path / "hf")
        )
        pack(found, tmp_path / f"{streaming}")
        packed = data.load(tmp_path / f"{streaming}", "all")
        assert packed.classes == ["ape", "cat"] and np.array_equal(packed.images.permute(0, 2, 3, 1).numpy(), SHADES)
