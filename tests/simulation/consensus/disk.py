"""A disk that forgets: what was not synced is lost at a crash, except for a prefix that chance decides.

`SimStore` stands where `RocksStore` stands: batches become durable in order, some time after they were
written. `SimJournal` is the real journal that dies at a chosen operation. `SimShelf` keeps real snapshot
files, as bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consensus import records
from consensus.fence import Entry
from consensus.journal import Batch, Hard, Journal, Loaded
from consensus.replica import RefusedToStart
from consensus.snapshots import BadSnapshot, Snapshot, parse, serialise
from consensus.watermark import Watermark


class Crash(BaseException):
    """The process dies here. Not an Exception, so that nothing on the way can swallow it."""


class SimStore:
    """One member's disk. It survives its process: `open` begins the next life."""

    def __init__(self, rng: random.Random, at: Callable[[float, Callable[[], None]], None]) -> None:
        self.entries: list[Entry] = []  # durable
        self.hard = Hard()
        self.snapshot: bytes | None = None  # the snapshot file, durable
        self.latency = (0.0002, 0.002)
        self.slow_until = 0.0
        self.mark = Hard(), 0, 0  # what the watermark file says: hard state, last index and its term
        self._marked_at = 0.0
        self.crash_in: int | None = None  # journal operations until the process dies
        self.dead = True
        self.life = 0
        self.rng = rng
        self.durable = 0
        self.failed = None
        self.sync_s = 0.0
        self.on_durable: Callable[[], None] = lambda: None
        self.now: Callable[[], float] = lambda: 0.0
        self._at = at
        self._pending: list[tuple[Batch, int]] = []
        self._syncing = False

    def open(self) -> None:
        self.dead, self.durable, self.crash_in = False, 0, None
        self._pending, self._syncing = [], False
        self.life += 1

    def operation(self) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                raise Crash

    # -- the store of a journal

    def load(self) -> Loaded:
        return Loaded(
            Hard(self.hard.term, self.hard.vote, self.hard.commit, self.hard.voter), list(self.entries)
        )

    def write(self, batch: Batch, ticket: int) -> None:
        self.operation()
        self._pending.append((batch, ticket))
        self._sync()

    def _sync(self) -> None:
        if self._syncing or not self._pending:
            return
        self._syncing = True
        count, life = len(self._pending), self.life
        slow = 0.3 if self.now() < self.slow_until else 0.0
        self._at(slow + self.rng.uniform(*self.latency), lambda: self._synced(count, life))

    def _synced(self, count: int, life: int) -> None:
        if self.dead or life != self.life:
            return
        for batch, ticket in self._pending[:count]:
            self._keep(batch)
            self.durable = ticket
        del self._pending[:count]
        self._syncing = False
        self._sync()
        self.on_durable()

    def _keep(self, batch: Batch) -> None:
        entries = self.entries
        if batch.keep_from is not None and entries and entries[0][1] < batch.keep_from:
            entries = [e for e in entries if e[1] >= batch.keep_from]
        if batch.keep_to is not None and entries and entries[-1][1] > batch.keep_to:
            entries = [e for e in entries if e[1] <= batch.keep_to]
        self.entries = [*entries, *batch.entries] if entries is self.entries else entries + batch.entries
        if batch.hard is not None:
            self.hard = batch.hard
        self._remember(None if batch.keep_to is None else batch.keep_to)

    def _remember(self, cut_to: int | None) -> None:
        """What the real watermark remembers: at once when the log is cut, else at most once a second."""
        hard, last, _ = self.mark
        if cut_to is not None and cut_to < last:
            self.mark = hard, cut_to, 0
        if self.now() - self._marked_at >= 1.0:
            self._marked_at = self.now()
            self.mark = (self.hard, *(self.entries[-1][1:] if self.entries else (0, 0)))

    def wait(self, ticket: int) -> None:
        """Before the first turn of a node: nothing else runs, so the disk is simply on time."""
        for batch, written in self._pending:
            self._keep(batch)
            self.durable = written
        self._pending = []
        assert self.durable >= ticket

    def close(self) -> None:
        pass

    def crash(self, *, power: bool = False) -> None:
        """Some prefix of what was not synced survives: a kill may keep all of it, a power cut nothing."""
        self.dead = True
        for batch, _ in self._pending[: 0 if power else self.rng.randint(0, len(self._pending))]:
            self._keep(batch)
        self._pending = []

    # -- damage

    def holds(self, index: int, term: int) -> bool:
        """The entry, or a snapshot that covers it, is on this disk."""
        if self.snapshot is not None and parse_index(self.snapshot) >= index:
            return True
        position = index - self.entries[0][1] if self.entries else -1
        return 0 <= position < len(self.entries) and self.entries[position][2] == term

    def flip(self) -> bool:
        """Flips one bit of a record, a vote or a snapshot. True when the real readers notice."""
        what = self.rng.choice(["entry", "hard", *(["snapshot"] if self.snapshot else [])])
        try:
            if what == "entry" and self.entries:
                key, value = records.pack_entry(self.rng.choice(self.entries))
                records.read_entry(key, self._flipped(value))
            elif what == "hard":
                records.read_hard(self._flipped(records.pack_hard(self.hard)))
            elif what == "snapshot" and self.snapshot:
                parse(self._flipped(self.snapshot))
            else:
                return True
        except (ValueError, BadSnapshot, UnicodeDecodeError):
            return True
        return False

    def truncate(self) -> bool:
        """Cuts the log, or sets the term back, behind the watermark. True when the real check notices."""
        hard, last, last_term = self.mark
        watermark = Watermark.__new__(Watermark)  # without its file
        watermark._term, watermark._last, watermark._last_term = hard.term, last, last_term
        watermark.check(self.hard, self.entries)  # sound before
        first = self.entries[0][1] if self.entries else 1
        term, cut = self.hard.term, self.entries
        if last > first and self.rng.random() < 0.7:
            cut = self.entries[: self.rng.randrange(last - first)]
        elif hard.term > 0:
            term = self.rng.randrange(hard.term)
        else:
            return True
        try:
            watermark.check(Hard(term), cut)
        except RefusedToStart:
            return True
        return False

    def _flipped(self, data: bytes) -> bytes:
        position = self.rng.randrange(len(data))
        return data[:position] + bytes([data[position] ^ 1 << self.rng.randrange(8)]) + data[position + 1 :]

    def lose(self) -> None:
        """The disk is replaced by an empty one; whoever lives here next has no vote."""
        self.entries, self.hard, self.snapshot = [], Hard(voter=False), None
        self.mark = Hard(), 0, 0


def parse_index(file: bytes) -> int:
    """The index in a snapshot file that is known to be sound."""
    return int.from_bytes(file[23:31], "little")


class SimJournal(Journal):
    """The real journal; every change may be the last thing the process does, and is shown to the checker."""

    def __init__(self, store: SimStore, added: Callable[[Entry, Entry | None], None]) -> None:
        super().__init__(store)
        self._disk, self._added = store, added

    def add(self, command: bytes, index: int, term: int) -> None:
        self._disk.operation()
        self._added((command, index, term), self[-1] if len(self) else None)
        super().add(command, index, term)

    def clear(self) -> None:
        self._disk.operation()
        super().clear()

    def deleteEntriesFrom(self, position: int) -> None:
        self._disk.operation()
        super().deleteEntriesFrom(position)

    def deleteEntriesTo(self, position: int) -> None:
        self._disk.operation()
        super().deleteEntriesTo(position)

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self._disk.operation()
        super().setCurrentTerm(term, voted_for)


@dataclass(frozen=True, slots=True)
class SimFile:
    """A snapshot as the node sees it."""

    index: int
    term: int
    size: int
    checksum: bytes
    content: bytes


class SimShelf:
    """The snapshots of one life of a member."""

    def __init__(self, store: SimStore) -> None:
        self._store = store
        self._files: dict[int, SimFile] = {}
        self._latest: SimFile | None = None
        self._arriving: tuple[tuple[int, int, int, bytes], bytearray] | None = None
        self._load()

    def _load(self) -> None:
        if self._store.snapshot is not None:
            content = self._store.snapshot
            whole = parse(content)
            self._latest = SimFile(whole.index, whole.term, len(content), content[-32:], content)
            self._files = {whole.index: self._latest}

    def latest(self) -> SimFile | None:
        return self._latest

    def piece(self, index: int, offset: int, length: int) -> bytes | None:
        file = self._files.get(index)
        return None if file is None else file.content[offset : offset + length]

    def put(self, snapshot: tuple[int, int, int, bytes], offset: int, data: bytes) -> int:
        if self._arriving is None or self._arriving[0] != snapshot:
            self._arriving = (snapshot, bytearray())
        buffer = self._arriving[1]
        if offset == len(buffer):
            buffer += data
        return len(buffer)

    def install(self, snapshot: tuple[int, int, int, bytes]) -> bool:
        assert self._arriving is not None
        content, self._arriving = bytes(self._arriving[1]), None
        try:
            whole = parse(content)
        except BadSnapshot:
            return False
        if (whole.index, whole.term, len(content), content[-32:]) != snapshot:
            return False
        self._place(content)
        return True

    def write(self, index: int, term: int, data: bytes) -> None:
        self._place(serialise(Snapshot(index, term, b"", data)))

    def read(self) -> Snapshot | None:
        return None if self._latest is None else parse(self._latest.content)

    def _place(self, content: bytes) -> None:
        whole = parse(content)
        if self._latest is None or whole.index > self._latest.index:
            self._store.snapshot = content
            self._load()


def any_of(rng: random.Random, items: Any) -> Any:
    """A choice that does not depend on the order of a set."""
    return rng.choice(sorted(items))
