"""The Raft log, term and vote as rules: what changes, in which order, and what of it is on disk. Pure.

The law: what was once reported durable is there after any crash, or the member refuses to start; it never
comes back with less and votes.

`Journal` is what pysyncobj sees: its methods change the list of entries in memory and describe the change in
one open `Batch`. Nothing here waits for a disk. Who must wait (an acknowledgement, a vote, the leader
counting itself) compares `durable` with the value that `written` had when the promise was made.

`Store` is the seam to a disk, which `consensus/rocks.py` is in a process and the simulation has its own of:
batches become durable atomically and in order, each by its ticket.

The caller owes: one thread for everything but `durable`; a `flush` whenever a turn of its loop ends.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, overload

from consensus.replica import RefusedToStart

Entry = tuple[bytes, int, int]
"""(command, index, term), in pysyncobj's order."""

EXIT_DISK_FULL = 75  # EX_TEMPFAIL: start again when there is room
_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class JournalFailed(Exception):
    """The disk failed; nothing after the last durable ticket may be promised, and the process must end."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def disk_failed(error: Exception, what: str = "") -> JournalFailed:
    """What a failed write means for the process. A full disk is told by text: RocksDB gives nothing else."""
    full = is_full(error)
    reason = "the disk is full" if full else "the disk failed"
    return JournalFailed(f"{reason}: {what}{error}", EXIT_DISK_FULL if full else 1)


def is_full(error: Exception) -> bool:
    """Whether there was no room."""
    return any(text in str(error) for text in _DISK_FULL)


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
