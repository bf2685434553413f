"""The task table as consensus' state machine: committed bytes in, events out to whoever listens.

The law: what `apply` does to the table is a function of the bytes alone; listeners see every applied entry once, in
log order, on the loop, after the table has changed and before the next entry is applied. So whoever is told of an
entry reads a table that stands exactly there. A listener may not change the table and may not raise.

A saved table comes back through the log like everything else (`Entry.restore`), into a cluster that has never had a
job: so every master restores the same bytes at the same index, and nobody touches a master's files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from master.events import Event, Refused, TableRestored
from master.task_table import TaskTable
from master.versions import refuse_newer
from mr.rpc import table_pb2 as pb


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    """One applied entry: what it said, and one list of events for each of its commands."""

    index: int
    entry: pb.Entry
    results: list[list[Event]]


class Machine:
    """`consensus.replica.StateMachine` over a `TaskTable`."""

    def __init__(self, table: TaskTable, snapshot_taken: Callable[[float], None] = lambda _: None) -> None:
        self.table = table
        self._snapshot_taken = snapshot_taken  # told on that other thread how long serialising took, seconds
        self.applied = 0  # index of the last applied entry
        self._parts: list[bytes] = []  # of a restore under way
        self._digest = b""
        self._listeners: list[Callable[[AppliedEntry], None]] = []
        self._on_restore: list[Callable[[], None]] = []

    def listen(
        self, applied: Callable[[AppliedEntry], None], restored: Callable[[], None] | None = None
    ) -> None:
        """Calls `applied` after every entry, `restored` after the table was replaced as a whole."""
        self._listeners.append(applied)
        if restored:
            self._on_restore.append(restored)

    def apply(self, index: int, command: bytes) -> AppliedEntry:
        """Applies one entry; one list of events per command. Bytes that are no entry change nothing, on every
        replica alike. Raises TooNew at the entry from which on only a newer release knows what to do.
        """
        try:
            entry = pb.Entry.FromString(command)
        except DecodeError:
            unread = Refused(f"entry {index} is not readable by this release")
            return AppliedEntry(index, pb.Entry(), [[unread]])
        results = self.table.apply(index, entry)
        refuse_newer(self.table.cluster_version)
        self.applied = index
        if entry.HasField("restore"):
            results.append([self._take_part(index, entry)])
        applied = AppliedEntry(index, entry, results)
        for listener in self._listeners:
            listener(applied)
        return applied

    def snapshot(self) -> Callable[[], bytes]:
        """Copies the state now; the function it returns serialises the copy on another thread."""
        table, parts, digest = self.table.snapshot(), list(self._parts), self._digest

        def serialise() -> bytes:
            began = time.perf_counter()
            saved = pb.MasterSnapshot(table=table(), parts=parts, digest=digest)
            data = saved.SerializeToString(deterministic=True)
            self._snapshot_taken(time.perf_counter() - began)
            return data

        return serialise

    def restore(self, data: bytes) -> None:
        """Replaces the state. Raises what `TaskTable.restore` raises, and TooNew."""
        saved = pb.MasterSnapshot.FromString(data)
        self.table.restore(saved.table)
        refuse_newer(self.table.cluster_version)
        self._parts, self._digest = list(saved.parts), saved.digest
        self.applied = self.table.index
        self._tell_restored()

    def _take_part(self, index: int, entry: pb.Entry) -> Event:
        """One piece of a saved table; the last one makes it ours. A piece out of turn ends the restore."""
        part, parts = entry.restore, self._parts
        fits = (
            part.number == len(parts)
            and part.number < part.parts
            and part.digest == (self._digest or part.digest)
        )
        if part.number == 0:  # a new try begins
            parts.clear()
            fits = True
        if entry.term < self.table.term or not fits:
            return self._give_up("a piece of the restore came out of turn; start it again")
        if self.table.jobs_seen:
            return self._give_up("this cluster has had jobs: a snapshot is restored into a fresh one only")
        parts.append(part.data)
        self._digest = part.digest
        if len(parts) < part.parts:
            return TableRestored(done=False, jobs=0)
        data = b"".join(parts)
        if hashlib.sha256(data).digest() != part.digest:
            return self._give_up("the snapshot does not match its digest")
        try:
            self.table.adopt(index, data)
        except Exception as error:  # whatever is wrong with the bytes, it is wrong on every replica alike
            return self._give_up(f"the snapshot is not readable: {error}"[:200])
        self._parts, self._digest = [], b""
        self._tell_restored()
        return TableRestored(done=True, jobs=len(self.table.jobs))

    def _give_up(self, reason: str) -> Event:
        self._parts, self._digest = [], b""
        return Refused(reason, "RESTORE")

    def _tell_restored(self) -> None:
        for restored in self._on_restore:
            restored()
