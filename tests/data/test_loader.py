"""Batches by position: the same for any number of workers, wherever a run begins; tensors of any rank, mirrors, codes, sets of others."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.utils.data import TensorDataset

from reverie import data
from reverie.core.batch import Batch
from reverie.core.errors import InputError, RunError
from reverie.core.files import read_about
from reverie.data import Loader, Mirrored, TensorSet, Wrapped, codes, encoded, order
from reverie.spaces import PatchPCA

PIECES = [(0, 7), (7, 1), (8, 30), (38, 64), (102, 5)]


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits8")


def same(a: Batch, b: Batch) -> bool:
    labels = (batch.cond["label"].value if batch.cond else torch.zeros(0) for batch in (a, b))
    return torch.equal(a.x, b.x) and torch.equal(*labels) and all(torch.equal(a.extra[k], b.extra[k]) for k in a.extra)


def test_an_image_set_says_what_it_holds(digits):
    assert digits.spec.shape == (1, 8, 8) and digits.spec.classes == tuple("0123456789")
    assert digits.spec.conditions["label"].classes == 10 and digits.spec.range == (-1.0, 1.0)
    batch = digits.batch([5, 2])
    assert torch.equal(batch.cond["label"].value, digits.labels[[5, 2]])
    assert torch.equal(((batch.x + 1) * 127.5).round().byte(), digits.images[[5, 2]])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_their_positions(digits, workers):
    """Against the order and the pixels themselves, in pieces of any size, from the beginning and from the middle."""
    loader = Loader(Mirrored(digits), seed=3, flip=True, workers=workers)
    total = 107
    rows, turned = order.indices(3, 0, total, len(digits)), order.flips(3, 0, total)
    images = digits.images[rows].float() / 127.5 - 1.0
    images[turned] = images[turned].flip(-1)
    for first in (0, 2):
        batches = list(loader.stream(iter(PIECES[first:])))
        assert len(batches) == len(PIECES) - first
        at = PIECES[first][0]
        assert torch.allclose(torch.cat([batch.x for batch in batches]), images[at:], atol=1e-6)
        labels = torch.cat([batch.cond["label"].value for batch in batches])
        assert torch.equal(labels, digits.labels[rows[at:]])
    assert 30 < int(turned.sum()) < 77


def test_workers_read_ahead_without_end(digits):
    """What asks for pieces need not end; an error of a worker keeps its kind."""
    loader = Loader(digits, seed=0, workers=1, ahead=3)
    stream = loader.stream((start, 4) for start in range(0, 10**9, 4))
    assert all(same(next(stream), loader(4 * i, 4)) for i in range(5))
    broken = Loader(Wrapped(Shapes()), seed=0, workers=1)
    with pytest.raises(InputError, match="has shape"):
        list(broken.stream([(0, 4)]))


class Shapes:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.zeros((1, 4 + (index == 2), 4), np.uint8)


def test_no_workers_cost_nothing(digits, monkeypatch):
    """Without workers a stream is the direct call: no DataLoader, no copy, the very tensors that the data gave."""
    monkeypatch.setattr("reverie.data.loader.DataLoader", lambda *_, **__: pytest.fail("made a DataLoader"))
    given = []

    class Kept(TensorSet):
        def batch(self, positions):
            given.append(super().batch(positions))
            return given[-1]

    batches = list(Loader(Kept(digits.batch(range(50)).x), seed=0).stream(PIECES))
    assert len(given) == len(PIECES) and all(a.x is b.x for a, b in zip(batches, given, strict=True))


def test_loaders_refuse_what_cannot_be(digits):
    with pytest.raises(InputError, match="holds no samples"):
        Loader(TensorSet(torch.zeros(0, 3)), seed=0)
    with pytest.raises(InputError, match="at least 0: got -1"):
        Loader(digits, seed=0, workers=-1)


@pytest.mark.parametrize("shape", [(5,), (2, 400), (3, 4, 6, 8), ()])
def test_tensors_of_any_rank(shape):
    x, masks = torch.randn(20, *shape), torch.randint(0, 2, (20, 4))
    waves = TensorSet(x, torch.arange(20) % 3, {"mask": masks}, name="waves")
    assert waves.spec.shape == shape and waves.spec.conditions["label"].classes == 3
    batch = waves.batch([4, 4, 19])
    assert torch.equal(batch.x, x[[4, 4, 19]]) and torch.equal(batch.extra["mask"], masks[[4, 4, 19]])
    assert batch.cond["label"].value.tolist() == [1, 1, 1]
    other = x.clone()
    other[7] += 1.0
    prints = [TensorSet(*parts).fingerprint for parts in ((x,), (x.clone(),), (other,), (x, torch.zeros(20).long()))]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="of one length"):
        TensorSet(torch.zeros(4, 2), extra={"mask": torch.zeros(3)})
    with pytest.raises(InputError, match="out of range"):
        TensorSet(torch.zeros(2, 2), torch.tensor([0, 2]), classes=["a", "b"])


def test_mirrors_keep_what_belongs_together():
    x, mask, vector = torch.randn(5, 3, 4, 6), torch.randn(5, 4, 6), torch.randn(5, 7)
    both = Mirrored(TensorSet(x.clone(), extra={"mask": mask, "vector": vector}))
    batch = both.batch([1, 6])
    assert torch.equal(both.batch(range(5)).x, x)  # mirroring left the data as they are
    assert len(both) == 10 and torch.equal(batch.x[0], x[1]) and torch.equal(batch.x[1], x[1].flip(-1))
    assert torch.equal(batch.extra["mask"][1], mask[1].flip(-1)) and torch.equal(batch.extra["vector"][1], vector[1])


def test_codes_are_made_once_and_are_those_of_the_space(digits, tmp_path, monkeypatch):
    space = PatchPCA.fit(digits, patch=2, dims=3)
    made = encoded(Mirrored(digits), space, tmp_path)
    rows = [0, 3, len(digits) + 3]
    assert torch.allclose(made.batch(rows).x, space.encode(Mirrored(digits).batch(rows).x), atol=1e-6)
    assert torch.equal(made.batch(rows).cond["label"].value, digits.labels[[0, 3, 3]])
    assert made.spec.shape == (3, 4, 4) and len(made) == 2 * len(digits)
    (file,) = tmp_path.iterdir()
    with safe_open(file, "pt") as whole:  # an independent reader finds a valid file
        assert whole.get_slice("codes").get_shape() == [2 * len(digits), 3, 4, 4]
    assert read_about(file) == {"what": "codes", "data": digits.name}
    monkeypatch.setattr(space, "encode", lambda x: pytest.fail("encoded again"))
    again = encoded(Mirrored(digits), space, tmp_path)
    assert torch.equal(again.x, made.x) and again.fingerprint == made.fingerprint
    loader = Loader(made, seed=1, flip=True)
    assert torch.equal(loader(5, 9).x, made.x[order.indices(1, 5, 9, len(digits)) + len(digits) * order.flips(1, 5, 9)])


def test_other_data_or_another_space_makes_other_codes(digits, tmp_path):
    space, other = PatchPCA.fit(digits, 2, 3), PatchPCA.fit(digits, 2, 3)
    other.scale.mul_(2.0)
    for data_, space_ in ((digits, space), (digits, other), (data.load("digits8", "test"), space), (digits, space)):
        encoded(data_, space_, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged"):
        for data_, space_ in ((digits, space), (digits, other), (data.load("digits8", "test"), space)):
            encoded(data_, space_, tmp_path)


def test_codes_are_not_left_half_written(digits, tmp_path, monkeypatch):
    space, calls = PatchPCA.fit(digits, 2, 3), []

    def encode(x):
        calls.append(x)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return PatchPCA.encode(space, x)

    monkeypatch.setattr(space, "encode", encode)
    monkeypatch.setattr(codes, "CHUNK", 100)
    with pytest.raises(KeyboardInterrupt):
        encoded(digits, space, tmp_path)
    assert not list(tmp_path.iterdir())


def test_sets_of_torch_are_wrapped():
    """Pillow images with labels, uint8 tensors, floats in [0, 1]: pixels and labels are those of the items."""
    grey = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    right = torch.from_numpy(grey)[:, None].float() / 127.5 - 1.0

    class Pictures:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return Image.fromarray(grey[index]), index % 2

    pictures = Wrapped(Pictures(), ["even", "odd"])
    assert pictures.spec.shape == (1, 8, 8) and pictures.spec.classes == ("even", "odd")
    batch = pictures.batch(torch.tensor([5, 0]))
    assert torch.allclose(batch.x, right[[5, 0]], atol=1e-6) and batch.cond["label"].value.tolist() == [1, 0]
    assert Wrapped(Pictures(), ["even", "odd"], size=(4, 6), channels=3).spec.shape == (3, 4, 6)
    floats = TensorDataset(torch.from_numpy(grey)[:, None] / 255.0)
    assert torch.allclose(Wrapped(floats, floats=(0, 1)).batch([2]).x, right[2:3], atol=1e-6)
    assert torch.allclose(Wrapped(TensorDataset(torch.from_numpy(grey)[:, None])).batch([2]).x, right[2:3], atol=1e-6)
    with pytest.raises(InputError, match=r"say their range, such as floats=\(0, 1\)"):
        Wrapped(floats)
    with pytest.raises(InputError, match="give the names of the classes"):
        Wrapped(Pictures())
