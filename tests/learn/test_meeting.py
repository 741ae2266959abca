"""What processes tell each other: a store of its own begins its count anew."""

from torch.distributed import PrefixStore, TCPStore

from reverie.learn.meeting import Meeting


def test_the_first_meeting_in_each_new_store_is_the_first(monkeypatch):
    """So that a process which trains twice with others meets them: these are new, and count from 0."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for word in ("one", "two"):
        monkeypatch.setenv("MASTER_PORT", "0")
        first = Meeting("run", 0, 2)
        first.tell("word", word)
        other = TCPStore("127.0.0.1", first.port, 2, False, wait_for_workers=False)
        assert PrefixStore("reverie/0/run/0", other).check(["word"])
        assert not PrefixStore("reverie/0/run/1", other).check(["word"])
        monkeypatch.setenv("MASTER_PORT", str(first.port))
        Meeting("run", 0, 2).tell("word", word)
        assert PrefixStore("reverie/0/run/1", other).check(["word"])
