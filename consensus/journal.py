"""The Raft log, term and vote on disk. The only file that names RocksDB's binding.

The law: what was once reported durable is there after any crash, or the member refuses to start; it never
comes back with less and votes. Three things carry it.

`Journal` is pure rules over memory: pysyncobj's journal methods change the list of entries and describe the
change in one open `Batch`. Nothing here waits for a disk. Who must wait (an acknowledgement, a vote, the
leader counting itself) compares `durable` with the value that `written` had when the promise was made.

`Store` is the seam to a disk: batches become durable atomically and in order, each by its ticket.
`RocksStore` writes them on a thread of its own, as many at a time as have gathered (group commit). It syncs
with `flush_wal(True)` and not with `write(sync=True)`: the latter holds the interpreter's lock through the
fsync, so that a slow disk would stop the heartbeats too.

RocksDB forgives a log whose tail is missing, because it cannot know that the tail had been synced. The
watermark, a small file of its own synced at most once a second, knows: a log that ends before it was cut by
something other than a crash. What vanishes beyond the watermark is outside the model (one second of a disk
that lies about fsync).

The caller owes: one thread for everything but `durable`; a `flush` whenever a turn of its loop ends.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, overload

from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions

from consensus.replica import RefusedToStart

log = logging.getLogger("mr.consensus")

Entry = tuple[bytes, int, int]
"""(command, index, term), in pysyncobj's order."""

EXIT_DISK_FULL = 75  # EX_TEMPFAIL: start again when there is room


class JournalFailed(Exception):
    """The disk failed; nothing after the last durable ticket may be promised, and the process must end."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class Hard:
    """What Raft must not forget (figure 2), and the commit index, which it may."""

    term: int = 0
    vote: str | None = None
    commit: int = 1
    # False from the return on an empty disk under an old id until that is proven harmless (design.md, section
    # 10).
    voter: bool = True


@dataclass(slots=True)
class Batch:
    """A change of the log: keep the entries from `keep_from` to `keep_to`, append `entries`, replace `hard`.

    None keeps that side, or the hard state, as it is.
    """

    keep_from: int | None = None
    keep_to: int | None = None
    entries: list[Entry] = field(default_factory=list)
    hard: Hard | None = None

    def __bool__(self) -> bool:
        return (
            bool(self.entries)
            or self.keep_to is not None
            or self.keep_from is not None
            or self.hard is not None
        )


@dataclass(slots=True)
class Loaded:
    """What a store holds when it is opened."""

    hard: Hard
    entries: list[Entry]


class Store(Protocol):
    """Where batches become durable: atomically, in order, each named by its ticket (1, 2, 3, ...)."""

    durable: int
    """The newest ticket on disk. Read by any thread."""
    failed: JournalFailed | None
    """Set once and for ever when the disk failed."""
    on_durable: Callable[[], None]
    """Called on the store's own thread when `durable` or `failed` changed. Only to wake somebody."""
    sync_s: float
    """Recent duration of one sync, in seconds."""

    def load(self) -> Loaded:
        """What is on disk. Raises RefusedToStart."""

    def write(self, batch: Batch, ticket: int) -> None:
        """Takes a batch. Never blocks."""

    def wait(self, ticket: int) -> None:
        """Blocks until `ticket` is durable. Raises JournalFailed."""

    def close(self) -> None:
        """Writes what was taken, if it can, and lets the files go. Idempotent."""


class Journal:
    """pysyncobj's journal: the log since the last snapshot in memory, every change in the open batch."""

    def __init__(self, store: Store) -> None:
        loaded = store.load()
        self._store = store
        self._log = loaded.entries
        self._hard = replace(loaded.hard)
        # A commit index may outlive the entries it counted (hazard 8): what is not here is not committed
        # here.
        self._hard.commit = max(1, min(self._hard.commit, self._last()))
        self._hard_dirty = False
        self._batch = Batch()
        self._ticket = 0
        self._flying: deque[list[int]] = deque()  # [ticket, last index once it is durable]
        self._durable_index = self._last()
        self.bytes = sum(len(entry[0]) for entry in self._log)
        """Commands in the log, in bytes."""

    # What the consensus asks --------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """The ticket of the newest change, flushed or not."""
        return self._ticket + 1 if self._batch else self._ticket

    @property
    def durable(self) -> int:
        """The newest ticket on disk."""
        return self._store.durable

    @property
    def durable_index(self) -> int:
        """The last index of the log as it is now that is on disk. A truncation lowers it at once."""
        durable = self._store.durable
        while self._flying and self._flying[0][0] <= durable:
            self._durable_index = self._flying.popleft()[1]
        return self._durable_index

    @property
    def failed(self) -> JournalFailed | None:
        """Why the disk can no longer be trusted, or None."""
        return self._store.failed

    @property
    def sync_s(self) -> float:
        """Recent duration of one sync, in seconds."""
        return self._store.sync_s

    def on_durable(self, callback: Callable[[], None]) -> None:
        """`callback` is called on another thread whenever something became durable, or failed."""
        self._store.on_durable = callback

    def flush(self) -> None:
        """Hands the open batch to the disk's thread. Never blocks."""
        if self._batch:
            self._ticket += 1
            self._flying.append([self._ticket, self._last()])
            batch, self._batch = self._batch, Batch()
            self._store.write(batch, self._ticket)

    def sync(self) -> None:
        """Blocks until everything written is durable. Raises JournalFailed."""
        self.flush()
        self._store.wait(self._ticket)

    # pysyncobj's journal ------------------------------------------------------------------------------------

    def add(self, command: bytes, index: int, term: int) -> None:
        """Appends the entry after the last one; any index may be the first."""
        assert not self._log or index == self._log[-1][1] + 1, f"{index} does not follow {self._log[-1][1]}"
        entry = (command, index, term)
        self._log.append(entry)
        self._batch.entries.append(entry)
        self.bytes += len(command)

    def clear(self) -> None:
        """Forgets every entry."""
        self._log = []
        self.bytes = 0
        self._cut_to(0)

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 - pysyncobj's name
        """Forgets the entry at `position` and all after it."""
        if position >= len(self._log):
            return
        index = self._log[position][1]
        self.bytes -= sum(len(entry[0]) for entry in self._log[position:])
        del self._log[position:]
        self._cut_to(index - 1)

    def deleteEntriesTo(self, position: int) -> None:  # noqa: N802 - pysyncobj's name
        """Forgets every entry before `position`."""
        if position <= 0:
            return
        assert position < len(self._log), "the log is never emptied from its front"
        index = self._log[position][1]
        self.bytes -= sum(len(entry[0]) for entry in self._log[:position])
        self._log = self._log[position:]
        self._batch.keep_from = index
        self._batch.entries = [entry for entry in self._batch.entries if entry[1] >= index]

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._log[item]

    def __len__(self) -> int:
        return len(self._log)

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802 - pysyncobj's name
        """Buffers term and vote, in order with the entries. A vote leaves when it is durable, not before."""
        self._hard.term, self._hard.vote = term, voted_for
        self._write_hard()

    def getCurrentTerm(self) -> int:  # noqa: N802 - pysyncobj's name
        """The newest term known."""
        return self._hard.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - pysyncobj's name
        """Who has this member's vote in the current term."""
        return self._hard.vote

    @property
    def voter(self) -> bool:
        """Whether this member may vote and count; False after it came back on an empty disk."""
        return self._hard.voter

    def set_voter(self, voter: bool) -> None:
        """Buffers whether this member may vote, like a term."""
        self._hard.voter = voter
        self._write_hard()

    def setRaftCommitIndex(self, commit: int) -> None:  # noqa: N802 - pysyncobj's name
        """Remembers the commit index; on disk within a second, as Raft can find it out again."""
        if commit != self._hard.commit:
            self._hard.commit = commit
            self._hard_dirty = True

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - pysyncobj's name
        """The newest commit index known; never beyond the last entry."""
        return self._hard.commit

    def onOneSecondTimer(self) -> None:  # noqa: N802 - pysyncobj's name
        """Writes a commit index that changed."""
        if self._hard_dirty:
            self._write_hard()

    def _destroy(self) -> None:
        if self.failed is None:
            self.flush()
        self._store.close()

    def _last(self) -> int:
        return self._log[-1][1] if self._log else 0

    def _write_hard(self) -> None:
        self._batch.hard = replace(self._hard)
        self._hard_dirty = False

    def _cut_to(self, last: int) -> None:
        batch = self._batch
        batch.keep_to = last if batch.keep_to is None else min(last, batch.keep_to)
        batch.entries = [entry for entry in batch.entries if entry[1] <= last]
        self._durable_index = min(self.durable_index, last)
        for flight in self._flying:
            flight[1] = min(flight[1], last)


def align(journal: Journal, index: int, term: int) -> bool:
    """Makes the log agree with a snapshot that ends at (`index`, `term`). Before the first turn of the loop.

    A crash may fall between the renaming of a snapshot and the change of the log (hazard 3). True: the log
    holds the snapshot's last entry and goes on from there. False: the log was older, or its tail lost against
    the snapshot that a leader sent; it is empty now, and the caller puts the snapshot's end into it. Raises
    RefusedToStart when entries between the snapshot and the log are missing.
    """
    if len(journal):
        first = journal[0][1]
        if first > index:
            raise damaged("log", f"it begins at entry {first}, but the newest snapshot ends at {index}")
        position = index - first
        if 0 <= position < len(journal) and journal[position][2] == term:
            return True
    journal.clear()
    return False


def damaged(what: str, detail: str) -> RefusedToStart:
    """The refusal of a member whose state on disk cannot be trusted (C2, C8)."""
    return RefusedToStart(
        f"the {what} of this master is damaged: {detail}. It does not start, because a master that forgot an"
        " acknowledged entry or a vote could make the cluster lose one. Move its data directory away"
        " and start it with --replace: it comes back empty, as a non-voter, and is brought up to date."
    )


# On disk ------------------------------------------------------------------

_KEY = struct.Struct(">cQ")
_RECORD = struct.Struct("<IQ")  # checksum of key and rest, term
_HARD = struct.Struct("<IQQ?")  # checksum of the rest, term, commit, voter; then the vote
_FIRST, _PAST = _KEY.pack(b"e", 0), _KEY.pack(b"f", 0)
_HARD_KEY = b"h"
_WATERMARK = struct.Struct("<QQQQ")  # sequence, current term, last index, its term; then their checksum
_SLOT = 512  # a slot never spans two sectors, and the two are written in turn
_WATERMARK_EVERY_S = 1.0
_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def _record(entry: Entry) -> tuple[bytes, bytes]:
    command, index, term = entry
    key = _KEY.pack(b"e", index)
    rest = _RECORD.pack(0, term)[4:] + command
    return key, struct.pack("<I", zlib.crc32(rest, zlib.crc32(key))) + rest


def _read_record(key: bytes, value: bytes) -> Entry:
    checksum, term = _RECORD.unpack_from(value)
    if zlib.crc32(memoryview(value)[4:], zlib.crc32(key)) != checksum:
        raise ValueError("wrong checksum")
    return value[_RECORD.size :], _KEY.unpack(key)[1], term


def _hard_record(hard: Hard) -> bytes:
    rest = _HARD.pack(0, hard.term, hard.commit, hard.voter)[4:] + (
        b"" if hard.vote is None else b"=" + hard.vote.encode()
    )
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _read_hard(value: bytes) -> Hard:
    checksum, term, commit, voter = _HARD.unpack_from(value)
    if zlib.crc32(value[4:]) != checksum:
        raise ValueError("wrong checksum")
    vote = value[_HARD.size :]
    return Hard(term, vote[1:].decode() if vote else None, commit, voter)


class RocksStore:
    """A store in RocksDB under `directory`. `create` makes an empty one; else a missing one is damage."""

    def __init__(self, directory: Path, *, create: bool) -> None:
        self.durable = 0
        self.failed: JournalFailed | None = None
        self.on_durable: Callable[[], None] = lambda: None
        self.sync_s = 0.0
        self._directory = directory
        self._db = self._open(create)
        self._watermark = _Watermark(directory / "watermark", create=create)
        self._no_sync = WriteOptions()
        self._queue: queue.SimpleQueue[tuple[Batch, int] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._ends = (0, 0, 0)  # current term, last index and its term, of what was written
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)

    def load(self) -> Loaded:
        """What is on disk. Raises RefusedToStart when that is less than was once synced, or altered."""
        try:
            entries, value = self._read()
            hard = Hard() if value is None else _read_hard(value)
        except (ValueError, struct.error) as error:
            raise damaged("log", str(error)) from error
        except Exception as error:
            raise damaged("log", f"RocksDB says: {error}") from error
        self._watermark.check(hard, entries)
        last = entries[-1] if entries else (b"", 0, 0)
        self._ends = (hard.term, last[1], last[2])
        self._thread.start()
        return Loaded(hard, entries)

    def write(self, batch: Batch, ticket: int) -> None:
        """Takes a batch. Never blocks."""
        self._queue.put((batch, ticket))

    def wait(self, ticket: int) -> None:
        """Blocks until `ticket` is durable. Raises JournalFailed."""
        with self._changed:
            self._changed.wait_for(lambda: self.durable >= ticket or self.failed is not None)
        if self.durable < ticket:
            assert self.failed is not None
            raise self.failed

    def close(self) -> None:
        """Writes what was taken, if it can, and lets the files go. Idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._watermark.close()
        self._db.close()

    def _open(self, create: bool) -> Rdict:
        options = Options(raw_mode=True)
        # Never by itself: a store whose CURRENT was deleted must not be taken for an empty one (FC20).
        options.create_if_missing(create)
        options.set_error_if_exists(create)
        options.set_paranoid_checks(True)
        options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
        options.set_write_buffer_size(64 << 20)
        options.set_max_write_buffer_number(4)
        options.set_keep_log_file_num(4)
        try:
            return Rdict(str(self._directory / "rocks"), options=options)
        except Exception as error:
            if is_full(error):
                raise RefusedToStart(f"no room for the log: {error}", EXIT_DISK_FULL) from error
            raise damaged("log", f"RocksDB says: {error}") from error

    def _read(self) -> tuple[list[Entry], bytes | None]:
        entries: list[Entry] = []
        for key, value in self._db.items(from_key=_FIRST):
            assert isinstance(key, bytes)  # the database is opened raw
            assert isinstance(value, bytes)
            if key[:1] != b"e":
                break
            try:
                entry = _read_record(key, value)
            except (ValueError, struct.error) as error:
                raise ValueError(f"entry {_KEY.unpack(key)[1]} has a {error}") from error
            if entries and entry[1] != entries[-1][1] + 1:
                raise ValueError(f"entry {entry[1]} follows {entries[-1][1]}")
            entries.append(entry)
        return entries, self._db.get(_HARD_KEY)

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._watermark.due_s())
            except queue.Empty:
                if not self._guarded(self._watermark.write):
                    return
                continue
            batches = [item]
            while not self._queue.empty():
                batches.append(self._queue.get())
            taken = [entry for entry in batches if entry is not None]
            if not self._guarded(lambda: self._commit(taken)):  # noqa: B023 - called at once
                return
            if len(taken) < len(batches):
                self._guarded(self._watermark.write)
                return

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Runs `work`. An error is for ever: after a failed fsync nobody knows what is on disk."""
        try:
            work()
        except Exception as error:
            full = is_full(error)
            reason = "the disk is full" if full else "the disk failed"
            with self._changed:
                self.failed = JournalFailed(f"{reason}: {error}", EXIT_DISK_FULL if full else 1)
                self._changed.notify_all()
            self.on_durable()
            return False
        return True

    def _commit(self, batches: list[tuple[Batch, int]]) -> None:
        if not batches:
            return
        for batch, _ in batches:
            self._put(batch)
        started = time.monotonic()
        self._db.flush_wal(True)
        self.sync_s += (time.monotonic() - started - self.sync_s) / 8
        with self._changed:
            self.durable = batches[-1][1]
            self._changed.notify_all()
        self.on_durable()
        self._watermark.advance(*self._ends)

    def _put(self, batch: Batch) -> None:
        term, last, last_term = self._ends
        change = WriteBatch(raw_mode=True)
        if batch.keep_from is not None:
            change.delete_range(_FIRST, _KEY.pack(b"e", batch.keep_from))
        if batch.keep_to is not None:
            change.delete_range(_KEY.pack(b"e", batch.keep_to + 1), _PAST)
            if batch.keep_to < last:
                # First the watermark: a crash in between leaves a log that is longer than it must be.
                self._watermark.lower(batch.keep_to)
                last, last_term = batch.keep_to, 0
        for entry in batch.entries:
            change.put(*_record(entry))
        if batch.entries:
            _, last, last_term = batch.entries[-1]
        if batch.hard is not None:
            change.put(_HARD_KEY, _hard_record(batch.hard))
            term = batch.hard.term
        self._db.write(change, self._no_sync)
        self._ends = term, last, last_term


class _Watermark:
    """The last index, its term and the current term that were once durable; two slots, written in turn."""

    def __init__(self, path: Path, *, create: bool) -> None:
        try:
            flags = os.O_RDWR | os.O_DSYNC | (os.O_CREAT if create else 0)
            self._file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            raise damaged("log", f"{path} is missing") from None
        self._sequence, self._term, self._last, self._last_term = self._read(path, create)
        self._written_at = time.monotonic()
        self._dirty = False
        if create:
            self.write()

    def check(self, hard: Hard, entries: list[Entry]) -> None:
        """Raises RefusedToStart when less is there than was durable."""
        last = entries[-1][1] if entries else 0
        if hard.term < self._term:
            raise damaged("vote", f"term {self._term} was on disk, and now it is {hard.term}")
        if last < self._last:
            raise damaged("log", f"it reached entry {self._last}, and now it ends at {last}")
        if self._last and self._last_term and entries and entries[0][1] <= self._last:
            term = entries[self._last - entries[0][1]][2]
            if term != self._last_term:
                raise damaged(
                    "log", f"entry {self._last} was of term {self._last_term}, and now it is of {term}"
                )

    def due_s(self) -> float | None:
        """Seconds until the file should be written; None while it is up to date."""
        return max(0.0, self._written_at + _WATERMARK_EVERY_S - time.monotonic()) if self._dirty else None

    def advance(self, term: int, last: int, last_term: int) -> None:
        """What is durable now; on disk within a second."""
        if (term, last, last_term) != (self._term, self._last, self._last_term):
            self._term, self._last, self._last_term = term, last, last_term
            self._dirty = True
        if self._dirty and time.monotonic() >= self._written_at + _WATERMARK_EVERY_S:
            self.write()

    def lower(self, last: int) -> None:
        """The log is about to be cut: durable before this returns."""
        if last < self._last:
            self._last, self._last_term = last, 0
            self.write()

    def write(self) -> None:
        """Writes the older of the two slots."""
        self._sequence += 1
        content = _WATERMARK.pack(self._sequence, self._term, self._last, self._last_term)
        os.pwrite(self._file, content + struct.pack("<I", zlib.crc32(content)), self._sequence % 2 * _SLOT)
        self._written_at = time.monotonic()
        self._dirty = False

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, path: Path, create: bool) -> tuple[int, int, int, int]:
        found = []
        for slot in (0, 1):
            content = os.pread(self._file, _WATERMARK.size + 4, slot * _SLOT)
            if len(content) == _WATERMARK.size + 4 and zlib.crc32(content[:-4]) == int.from_bytes(
                content[-4:], "little"
            ):
                found.append(_WATERMARK.unpack_from(content))
        if found:
            return max(found)
        if not create:
            raise damaged("log", f"{path} cannot be read")
        return 0, 0, 0, 0


def is_full(error: Exception) -> bool:
    """Whether there was no room: by text, as RocksDB gives nothing else."""
    return any(text in str(error) for text in _DISK_FULL)
