"""What a member refuses, one line of the code each: damage that another check would mostly find as well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from consensus.datadir import DataDir
from consensus.journal import Hard, Journal, JournalFailed
from consensus.records import HARD_KEY, entry_key, pack_entry, pack_hard
from consensus.replica import RefusedToStart
from consensus.rocks import RocksStore
from consensus.snapshots import BadSnapshot, Offer, Snapshot, SnapshotStore, parse, serialise

MEMBERS = ("a", "b", "c")


def log_of(directory: Path, count: int, term: int) -> None:
    """A log, closed in order, and its watermark."""
    store = RocksStore(directory, create=True)
    journal = Journal(store)
    journal.setCurrentTerm(term, "a")
    for index in range(1, count + 1):
        journal.add(b"x", index, term)
    journal._destroy()


def rocks(directory: Path) -> Rdict:
    return Rdict(str(directory / "rocks"), options=Options(raw_mode=True))


def test_a_vote_that_was_set_back_is_damage(tmp_path: Path) -> None:
    """C2, FC20: the log is whole, but the term is one that was over."""
    log_of(tmp_path, 5, 7)
    db = rocks(tmp_path)
    db[HARD_KEY] = pack_hard(Hard(term=6, vote="b"))
    db.close()
    store = RocksStore(tmp_path, create=False)
    with pytest.raises(RefusedToStart, match="vote of this master is damaged: term 7 was on disk"):
        store.load()
    store.close()


def test_a_hole_in_the_log_is_damage(tmp_path: Path) -> None:
    """FC20: an entry in the middle is gone, the last one is there."""
    log_of(tmp_path, 5, 7)
    db = rocks(tmp_path)
    del db[entry_key(3)]
    db.close()
    store = RocksStore(tmp_path, create=False)
    with pytest.raises(RefusedToStart, match="entry 4 follows 2"):
        store.load()
    store.close()


def test_an_entry_of_another_term_is_damage(tmp_path: Path) -> None:
    """FC20: the log has its length, but its end is not the one that was durable."""
    log_of(tmp_path, 5, 7)
    db = rocks(tmp_path)
    key, value = pack_entry((b"y", 5, 6))
    db[key] = value
    db.close()
    store = RocksStore(tmp_path, create=False)
    with pytest.raises(RefusedToStart, match="entry 5 was of term 7, and now it is of 6"):
        store.load()
    store.close()


def test_a_disk_that_failed_once_has_failed_for_ever(tmp_path: Path) -> None:
    """FC17: after a failed fsync nobody knows what is on disk, whatever the next one says."""

    class Failing:
        def __init__(self, db: Any) -> None:
            self.db, self.broken = db, True

        def flush_wal(self, sync: bool) -> None:
            if self.broken:
                raise OSError("Input/output error")
            self.db.flush_wal(sync)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

    store = RocksStore(tmp_path, create=True)
    journal = Journal(store)
    store._db = failing = Failing(store._db)  # type: ignore[assignment]
    journal.add(b"x", 1, 1)
    journal.flush()
    store._thread.join(20)
    failing.broken = False
    assert "the disk failed" in str(journal.failed)
    journal.add(b"y", 2, 1)
    with pytest.raises(JournalFailed, match="the disk failed"):
        journal.sync()
    assert (journal.durable, journal.durable_index) == (0, 0)
    store.close()


def test_a_log_is_never_made_anew_in_the_place_of_one(tmp_path: Path) -> None:
    """FC20: not even an empty one whose watermark promises nothing."""
    RocksStore(tmp_path, create=True).close()
    shutil.rmtree(tmp_path / "rocks")
    with pytest.raises(RefusedToStart, match="log of this master is damaged"):
        RocksStore(tmp_path, create=False)


def test_an_identity_with_another_word_is_damage(tmp_path: Path) -> None:
    """FC19: also when it still reads like one."""
    DataDir(tmp_path / "d", "a", MEMBERS).close()
    identity = tmp_path / "d" / "identity"
    identity.write_text(identity.read_text().replace('"cluster_id": ""', '"cluster_id": "X"'))
    with pytest.raises(RefusedToStart, match="identity of this master is damaged"):
        DataDir(tmp_path / "d", "a", MEMBERS)


def test_the_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: who owns it can read and change it."""
    DataDir(tmp_path / "d", "a", MEMBERS).close()
    mine = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    with pytest.raises(RefusedToStart, match=f"belongs to user {mine}, not to {mine + 1}"):
        DataDir(tmp_path / "d", "a", MEMBERS)


@pytest.mark.parametrize("more", [-1, 1, -40])
def test_a_snapshot_says_that_its_length_is_wrong(more: int) -> None:
    content = serialise(Snapshot(3, 1, b"m", b"data"))
    wrong = content + b"x" if more > 0 else content[:more]
    with pytest.raises(BadSnapshot, match=f"it has {len(wrong)} bytes instead of {len(content)}|ends after"):
        parse(wrong)


def test_a_piece_that_goes_beyond_the_end_is_not_taken(tmp_path: Path) -> None:
    """FC23: a sender cannot make the file larger than it said."""
    content = serialise(Snapshot(3, 1, b"", b"data"))
    receiver = SnapshotStore(tmp_path / "s").receive(Offer(3, 1, len(content), content[-32:]))
    assert receiver.write(0, content + b"more") == 0
    assert receiver.write(0, content) == len(content)
    receiver.abandon()
