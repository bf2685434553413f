"""The Raft log on disk: what was reported durable is there after any crash, or the member refuses to start.

Hazards 3, 5, 6, 7, 8 and 30 of pysyncobj; C2, C8; FC17, FC19, FC20.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consensus.journal import Batch, Hard, Journal, Loaded, align
from consensus.replica import RefusedToStart
from consensus.rocks import RocksStore


class ManualStore:
    """A disk whose owner decides when a batch becomes durable; keeps what a crash would leave."""

    def __init__(self, hard: Hard | None = None, entries: list | None = None) -> None:
        self.durable, self.failed, self.sync_s = 0, None, 0.0
        self.on_durable = lambda: None
        self.hard, self.entries = hard or Hard(), list(entries or [])
        self.taken: list[tuple[Batch, int]] = []

    def load(self) -> Loaded:
        return Loaded(self.hard, list(self.entries))

    def write(self, batch: Batch, ticket: int) -> None:
        self.taken.append((batch, ticket))

    def wait(self, ticket: int) -> None:
        while self.durable < ticket:
            self.land()

    def land(self) -> None:
        """The oldest batch reaches the disk."""
        batch, self.durable = self.taken.pop(0)
        if batch.keep_from is not None:
            self.entries = [entry for entry in self.entries if entry[1] >= batch.keep_from]
        if batch.keep_to is not None:
            self.entries = [entry for entry in self.entries if entry[1] <= batch.keep_to]
        self.entries += batch.entries
        if batch.hard is not None:
            self.hard = batch.hard

    def close(self) -> None:
        pass


def entries(first: int, last: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(b"%d" % index, index, term) for index in range(first, last + 1)]


def filled(count: int, **hard) -> tuple[Journal, ManualStore]:
    store = ManualStore(Hard(**hard), entries(1, count))
    return Journal(store), store


# -- what is durable, and when


def test_nothing_is_durable_before_the_disk_says_so():
    journal, store = filled(3)
    journal.add(b"x", 4, 1)
    assert (journal.written, journal.durable, journal.durable_index) == (1, 0, 3)
    journal.flush()
    assert (journal.written, journal.durable, journal.durable_index) == (1, 0, 3)
    store.land()
    assert (journal.written, journal.durable, journal.durable_index) == (1, 1, 4)


def test_a_vote_is_ordered_with_the_entries_around_it():
    """C2: whoever waits for the vote's ticket also has every entry written before it on disk, and the reverse."""
    journal, store = filled(0)
    journal.add(b"x", 1, 1)
    journal.setCurrentTerm(7, "b")
    vote = journal.written
    journal.flush()
    journal.add(b"y", 2, 7)
    assert journal.written == vote + 1
    store.wait(vote)
    assert (store.hard.term, store.hard.vote, store.entries) == (7, "b", [(b"x", 1, 1)])


def test_a_truncation_takes_durability_back_at_once():
    """An entry that replaces a durable one is not durable because its place was (hazards 2, 6)."""
    journal, store = filled(10)
    journal.deleteEntriesFrom(7)
    assert journal.durable_index == 7
    journal.add(b"new", 8, 2)
    journal.flush()
    assert journal.durable_index == 7
    store.land()
    assert journal.durable_index == 8


def test_a_batch_under_way_does_not_vouch_for_what_was_cut_since():
    journal, store = filled(5)
    journal.add(b"old", 6, 1)
    journal.flush()
    journal.deleteEntriesFrom(3)
    journal.add(b"new", 4, 2)
    journal.add(b"new", 5, 2)
    journal.add(b"new", 6, 2)
    store.land()
    assert journal.durable_index == 3
    journal.sync()
    assert journal.durable_index == 6
    assert store.entries[3:] == [(b"new", 4, 2), (b"new", 5, 2), (b"new", 6, 2)]


def test_cutting_and_filling_again_is_one_atomic_change():
    """Hazard 5: there is no moment at which the disk holds neither the old entries nor the new."""
    journal, store = filled(9)
    journal.clear()
    journal.add(b"base", 20, 3)
    journal.flush()
    assert [ticket for _, ticket in store.taken] == [1]


@pytest.mark.parametrize(("stored", "last", "seen"), [(9, 5, 5), (3, 5, 3), (9, 0, 1), (0, 5, 1)])
def test_the_commit_index_is_clamped_to_the_log(stored, last, seen):
    """Hazard 8: a commit index without its entries would commit whatever comes in their place."""
    journal, _ = filled(last, commit=stored)
    assert journal.getRaftCommitIndex() == seen


def test_flushing_nothing_costs_nothing():
    journal, store = filled(1)
    journal.flush()
    journal.setRaftCommitIndex(1)
    journal.onOneSecondTimer()
    journal.flush()
    assert store.taken == []


class Crashes(RuleBasedStateMachine):
    """Any history of changes, landings and crashes: what was durable survives, and nothing else changes."""

    @initialize()
    def begin(self) -> None:
        self.store = ManualStore()
        self.journal = Journal(self.store)
        self.history: list[tuple[int, list, int, str | None]] = [
            (0, [], 0, None)
        ]  # (ticket, log, term, vote)

    def note(self) -> None:
        journal = self.journal
        state = (journal.written, journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId())
        if self.history[-1][0] == journal.written:
            self.history.pop()
        self.history.append(state)

    @rule(count=st.integers(1, 4), term=st.integers(1, 9))
    def add(self, count: int, term: int) -> None:
        first = self.journal[-1][1] + 1 if len(self.journal) else 1
        for index in range(first, first + count):
            self.journal.add(b"%d.%d" % (index, term), index, term)
        self.note()

    @rule(data=st.data())
    @precondition(lambda self: len(self.journal) > 1)
    def cut(self, data) -> None:
        position = data.draw(st.integers(1, len(self.journal) - 1))
        (self.journal.deleteEntriesFrom if data.draw(st.booleans()) else self.journal.deleteEntriesTo)(
            position
        )
        self.note()

    @rule(index=st.integers(1, 50))
    def replace_by_snapshot(self, index: int) -> None:
        self.journal.clear()
        self.journal.add(b"base", index, 9)
        self.note()

    @rule(term=st.integers(1, 99), vote=st.sampled_from([None, "a", "b"]))
    def vote(self, term: int, vote: str | None) -> None:
        self.journal.setCurrentTerm(term, vote)
        self.note()

    @rule()
    def flush(self) -> None:
        self.journal.flush()

    @rule()
    @precondition(lambda self: self.store.taken)
    def land(self) -> None:
        self.store.land()

    @rule()
    def crash(self) -> None:
        self.store.taken.clear()
        expected = next(state for state in reversed(self.history) if state[0] <= self.store.durable)
        self.store.durable = 0
        self.journal = Journal(self.store)
        journal = self.journal
        found = (journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId())
        assert found == expected[1:]
        self.history = [(0, *expected[1:])]

    @invariant()
    def durable_index_is_honest(self) -> None:
        if not hasattr(self, "journal"):
            return
        index = self.journal.durable_index
        on_disk = {entry[1]: entry for entry in self.store.entries}
        for entry in self.journal[:]:
            assert entry[1] > index or on_disk.get(entry[1]) == entry

    @invariant()
    def bytes_are_counted(self) -> None:
        if hasattr(self, "journal"):
            assert self.journal.bytes == sum(len(entry[0]) for entry in self.journal[:])


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- the log and the newest snapshot (hazard 3)


@pytest.mark.parametrize(
    ("log", "snapshot", "kept"),
    [
        (entries(1, 9), (5, 1), True),  # a crash before the log was trimmed
        (entries(5, 9), (5, 1), True),  # trimmed
        (entries(3, 9), (5, 1), True),  # trimmed but for a tail
        (entries(1, 4), (5, 1), False),  # a crash after a received snapshot was renamed: the log is older
        (entries(1, 4) + entries(5, 9, term=2), (5, 3), False),  # our tail lost against the leader's snapshot
        ([], (5, 1), False),
        ([], (1, 0), False),  # a fresh member
    ],
)
def test_align_makes_the_log_continue_the_snapshot(log, snapshot, kept):
    journal = Journal(ManualStore(entries=log))
    assert align(journal, *snapshot) is kept
    assert journal[:] == (log if kept else [])


def test_a_gap_between_snapshot_and_log_is_damage():
    journal = Journal(ManualStore(entries=entries(7, 9)))
    with pytest.raises(RefusedToStart, match="begins at entry 7, but the newest snapshot ends at 5"):
        align(journal, 5, 1)


# -- on a real disk


def make(directory: Path, count: int = 200, *, vote: str | None = "b") -> None:
    """What a killed process leaves of a log of `count` entries, term 3, all of it durable."""
    living = directory.with_name(directory.name + "-living")
    living.mkdir()
    store = RocksStore(living, create=True)
    journal = Journal(store)
    journal.setCurrentTerm(3, vote)
    for entry in entries(1, count):
        journal.add(*entry)
        if entry[1] % 50 == 0:
            journal.sync()
    journal.sync()
    store._watermark.write()  # a second has passed
    shutil.copytree(living, directory, dirs_exist_ok=True)
    journal._destroy()
    shutil.rmtree(living)


def reopen(directory: Path) -> tuple[list, int, str | None, bool]:
    store = RocksStore(directory, create=False)
    try:
        journal = Journal(store)
        return journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.voter
    finally:
        store.close()


@pytest.mark.parametrize("vote", [None, "", "b", "ü" * 40])
def test_what_was_written_is_read(tmp_path, vote):
    make(tmp_path, vote=vote)
    assert reopen(tmp_path) == (entries(1, 200), 3, vote, True)


def test_every_change_survives_a_reopening(tmp_path):
    make(tmp_path)
    journal = Journal(RocksStore(tmp_path, create=False))
    journal.deleteEntriesTo(99)
    journal.deleteEntriesFrom(51)
    journal.add(b"new", 151, 4)
    journal.set_voter(False)
    journal.setCurrentTerm(4, None)
    journal._destroy()
    assert reopen(tmp_path) == ([*entries(100, 150), (b"new", 151, 4)], 4, None, False)


def test_a_wait_ends_when_the_disk_is_done_and_wakes_the_waiter(tmp_path):
    journal = Journal(RocksStore(tmp_path, create=True))
    woken = []
    journal.on_durable(lambda: woken.append(journal.durable))
    for index in range(1, 50):
        journal.add(b"x", index, 1)
        journal.flush()
    journal.sync()
    assert journal.durable_index == 49
    assert woken[-1] == 49
    assert len(woken) < 49 or woken == sorted(woken)
    journal._destroy()


def wal(directory: Path) -> Path:
    """The write-ahead log that holds the newest records."""
    path = max((directory / "rocks").glob("*.log"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes().rstrip(b"\0"))  # RocksDB allocates ahead
    return path


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def cut_half(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def compacted(directory: Path) -> None:
    """Moves everything into a table file, as RocksDB does when a database is opened again."""
    reopen(directory)


def only(directory: Path, pattern: str) -> Path:
    return max((directory / "rocks").glob(pattern), key=lambda path: path.stat().st_size)


DAMAGE = {
    "log truncated": lambda d: cut_half(wal(d)),
    "log emptied": lambda d: wal(d).write_bytes(b""),
    "log deleted": lambda d: wal(d).unlink(),
    "bit flipped early in the log": lambda d: flip(wal(d), 300),
    "bit flipped in the middle of the log": lambda d: flip(wal(d), wal(d).stat().st_size // 2),
    "bit flipped in the vote record": lambda d: flip(wal(d), wal(d).read_bytes().index(b"=b") + 1),
    "bit flipped in a table": lambda d: (compacted(d), flip(only(d, "*.sst"), 200)),
    "table deleted": lambda d: (compacted(d), only(d, "*.sst").unlink()),
    "bit flipped in the manifest": lambda d: (compacted(d), flip(only(d, "MANIFEST-*"), 60)),
    "manifest deleted": lambda d: only(d, "MANIFEST-*").unlink(),
    "CURRENT deleted": lambda d: (d / "rocks" / "CURRENT").unlink(),
    "CURRENT emptied": lambda d: (d / "rocks" / "CURRENT").write_bytes(b""),
    "database deleted": lambda d: shutil.rmtree(d / "rocks"),
    "watermark deleted": lambda d: (d / "watermark").unlink(),
    "watermark overwritten": lambda d: (d / "watermark").write_bytes(b"\0" * 1024),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_before_the_first_vote(tmp_path, damage):
    """FC19, FC20: the damaged member says what to do and never takes part with less than it promised."""
    make(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(RefusedToStart, match=r"(?s)damaged.*--replace") as caught:
        reopen(tmp_path)
    assert "\n" not in str(caught.value).split("RocksDB says")[0], "one message"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path_factory, data):
    """Wherever the bit is, the member starts with exactly what was written, or not at all."""
    directory = tmp_path_factory.mktemp("flip")
    make(directory, 60)
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.stat().st_size]
    path = data.draw(st.sampled_from([p for p in files if not p.name.startswith(("LOG", "LOCK", "OPTIONS"))]))
    flip(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    try:
        found = reopen(directory)
    except RefusedToStart:
        return
    finally:
        shutil.rmtree(directory)
    assert found == (entries(1, 60), 3, "b", True)


def test_a_torn_tail_that_was_never_synced_is_no_damage(tmp_path):
    """A crash in the middle of a write leaves part of a record: nobody was promised it."""
    make(tmp_path)
    with open(wal(tmp_path), "ab") as file:
        file.write(struct.pack("<IHB", 0x12345678, 500, 1) + b"torn")
    assert reopen(tmp_path)[0] == entries(1, 200)


def test_a_legal_truncation_lowers_the_watermark_first(tmp_path):
    """A conflict cuts the log below what was durable; the next start must not call that damage."""
    make(tmp_path)
    journal = Journal(RocksStore(tmp_path, create=False))
    journal.deleteEntriesFrom(9)
    journal.sync()
    journal._store._watermark.close()  # what a kill would leave: no last watermark
    shutil.copytree(tmp_path, tmp_path.with_name("after"))
    assert reopen(tmp_path.with_name("after"))[0] == entries(1, 9)
    journal._store._db.close()


def test_a_million_entries_open_in_one_go(tmp_path):
    """1,000,000 entries since the last snapshot (issue 3, part 4); the bench says in how many seconds."""
    journal = Journal(RocksStore(tmp_path, create=True))
    for index in range(1, 1_000_001):
        journal.add(b"entry", index, 1)
        if index % 10_000 == 0:
            journal.flush()
    journal._destroy()
    log = reopen(tmp_path)[0]
    assert (len(log), log[0], log[-1]) == (1_000_000, (b"entry", 1, 1), (b"entry", 1_000_000, 1))
