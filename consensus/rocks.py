"""The log on RocksDB. The only file that names its binding.

Batches are written on a thread of its own, as many at a time as have gathered (group commit), each as one
atomic write. They are synced with `flush_wal(True)` and not with `write(sync=True)`: the latter holds the
interpreter's lock through the fsync, so that a slow disk would stop the heartbeats too.

After an error nothing is tried again: after a failed fsync nobody knows what is on disk.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions

from consensus.journal import (
    EXIT_DISK_FULL,
    Batch,
    Entry,
    Hard,
    JournalFailed,
    Loaded,
    damaged,
    disk_failed,
    is_full,
)
from consensus.records import (
    FIRST_KEY,
    HARD_KEY,
    PAST_KEY,
    entry_index,
    entry_key,
    pack_entry,
    pack_hard,
    read_entry,
    read_hard,
)
from consensus.replica import RefusedToStart
from consensus.urgency import make_urgent
from consensus.watermark import Watermark


class RocksStore:
    """A store in RocksDB under `directory`. `create` makes an empty one; else a missing one is damage."""

    def __init__(self, directory: Path, *, create: bool) -> None:
        self.durable = 0
        self.failed: JournalFailed | None = None
        self.on_durable: Callable[[], None] = lambda: None
        self.sync_s = 0.0
        self._directory = directory
        self._db = self._open(create)
        self._watermark = Watermark(directory / "watermark", create=create)
        self._no_sync = WriteOptions()
        self._queue: queue.SimpleQueue[tuple[Batch, int] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._ends = (0, 0, 0)  # current term, last index and its term, of what was written
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)

    def load(self) -> Loaded:
        """What is on disk. Raises RefusedToStart when that is less than was once synced, or altered."""
        try:
            entries, value = self._read()
            hard = Hard() if value is None else read_hard(value)
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
        for key, value in self._db.items(from_key=FIRST_KEY):
            assert isinstance(key, bytes)  # the database is opened raw
            assert isinstance(value, bytes)
            if key[:1] != b"e":
                break
            try:
                entry = read_entry(key, value)
            except (ValueError, struct.error) as error:
                raise ValueError(f"entry {entry_index(key)} has a {error}") from error
            if entries and entry[1] != entries[-1][1] + 1:
                raise ValueError(f"entry {entry[1]} follows {entries[-1][1]}")
            entries.append(entry)
        return entries, self._db.get(HARD_KEY)

    def _run(self) -> None:
        make_urgent()
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
            with self._changed:
                self.failed = disk_failed(error)
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
            change.delete_range(FIRST_KEY, entry_key(batch.keep_from))
        if batch.keep_to is not None:
            change.delete_range(entry_key(batch.keep_to + 1), PAST_KEY)
            if batch.keep_to < last:
                # First the watermark: a crash in between leaves a log that is longer than it must be.
                self._watermark.lower(batch.keep_to)
                last, last_term = batch.keep_to, 0
        for entry in batch.entries:
            change.put(*pack_entry(entry))
        if batch.entries:
            _, last, last_term = batch.entries[-1]
        if batch.hard is not None:
            change.put(HARD_KEY, pack_hard(batch.hard))
            term = batch.hard.term
        self._db.write(change, self._no_sync)
        self._ends = term, last, last_term
