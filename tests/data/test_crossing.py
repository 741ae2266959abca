"""What workers send: any tensor arrives as it was and stays, in memory that is used again."""

from types import SimpleNamespace

import pytest
import torch

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Entry
from reverie.data import Loader, crossing

PIECES = [(0, 3), (3, 40), (43, 5), (48, 80), *((128 + 7 * i, 7) for i in range(20))]
WORKERS, AHEAD = 2, 2


class Kinds(Dataset):
    """Samples above and below the size that goes in a message, of many types, some of them views of others."""

    name = "kinds"

    @property
    def spec(self) -> DataSpec:
        return DataSpec((3, 40, 50))

    def __len__(self) -> int:
        return 300

    def batch(self, positions) -> Batch:
        rows = torch.as_tensor(positions)
        x = (torch.arange(6000.0) + 7.0 * rows[:, None]).reshape(-1, 40, 50, 3).permute(0, 3, 1, 2)
        extra = {"half": x[:, 0].bfloat16(), "bits": x[:, 1] > 3000.0, "every other": x[:, :, ::2, 1], "none": x[:, :0]}
        cond = Cond(label=rows, tokens=Entry.of(x.flatten(2), mask=x[:, :, 0, 0] > 10.0))
        return Batch(x, cond, {**extra, "mean": x.mean((1, 2, 3)), "bytes": x[..., 0, 0].byte()})


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = []
    batch.map(lambda value: found.append(value) or value)
    return found


def same(batches: list[Batch], others: list[Batch]) -> bool:
    each = [
        (a, b)
        for one, other in zip(batches, others, strict=True)
        for a, b in zip(tensors(one), tensors(other), strict=True)
    ]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in each)


@pytest.fixture(scope="module")
def right() -> list[Batch]:
    return [Loader(Kinds(), seed=0)(*piece) for piece in PIECES]


def test_what_arrives_is_what_was_read_and_stays(right, monkeypatch):
    """All batches are kept to the end; a control that does not copy what will be written over is found out."""
    loader = Loader(Kinds(), seed=0, workers=WORKERS, ahead=AHEAD)
    assert same(list(loader.stream(PIECES)), right)
    monkeypatch.setattr(crossing.Receiver, "own", lambda self, value: value)
    assert same([next(loader.stream(PIECES))], right[:1])
    assert not same(list(loader.stream(PIECES)), right)


def test_memory_is_used_again(monkeypatch):
    """As many slots as batches can wait or be read, whatever the number of batches; they grow with the largest batch."""
    made, opened = [], crossing.Receiver.open
    monkeypatch.setattr(crossing.Receiver, "open", lambda self, m: made.append(m.fresh) or opened(self, m))
    pieces = [(40 * i, 40) for i in range(30)]
    for _ in Loader(Kinds(), seed=0, workers=WORKERS, ahead=AHEAD).stream(pieces):
        pass
    assert len(made) == 30 and all(made[: WORKERS * (AHEAD + 1)]) and not any(made[WORKERS * (AHEAD + 1) :])


def test_what_is_written_into_a_room_is_not_copied(monkeypatch):
    """Against the addresses; pictures that are made elsewhere take a block of their own."""
    monkeypatch.setattr(crossing, "get_worker_info", lambda: SimpleNamespace(id=0))
    sender, reader = crossing.Sender(2), crossing.Receiver()

    def read(there: bool) -> Batch:
        x = crossing.room((2, 3, 64, 64)).fill_(5)
        return Batch(x if there else x.clone().add_(1))

    for there, blocks in ((True, 1), (False, 2)):
        message = sender.send(lambda there=there: read(there))
        batch = reader.open(message)
        assert sender.taken == blocks and batch.x.unique().tolist() == [5 + (not there)]
        assert batch.x.data_ptr() == sender.slots[sender.turn][blocks - 1].data_ptr()
        assert reader.own(batch.x).data_ptr() != batch.x.data_ptr() and reader.own(x := torch.ones(3)) is x
    assert crossing.room((2, 3)).shape == (2, 3) and sender.taken == 2  # nobody sends any more
