"""The task table as consensus' state machine: committed bytes in, events out to whoever listens.

The law: what `apply` does to the table is a function of the bytes alone; listeners see every applied entry
once, in log order, on the loop, after the table has changed and before the next entry is applied. So whoever
is told of an entry reads a table that stands exactly there. A listener may not change the table and may not
raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from master.events import Event, Refused
from master.task_table import TaskTable
from mr.rpc import table_pb2 as pb


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    """One applied entry: what it said, and one list of events for each of its commands."""

    index: int
    entry: pb.Entry
    results: list[list[Event]]


class Machine:
    """`consensus.replica.StateMachine` over a `TaskTable`."""

    def __init__(self, table: TaskTable) -> None:
        self.table = table
        self.applied = 0  # index of the last applied entry
        self._listeners: list[Callable[[AppliedEntry], None]] = []
        self._on_restore: list[Callable[[], None]] = []

    def listen(
        self, applied: Callable[[AppliedEntry], None], restored: Callable[[], None] | None = None
    ) -> None:
        """Calls `applied` after every entry, `restored` after the table was replaced by a snapshot."""
        self._listeners.append(applied)
        if restored:
            self._on_restore.append(restored)

    def apply(self, index: int, command: bytes) -> AppliedEntry:
        """Applies one entry; one list of events per command. Bytes that are no entry change nothing, on every
        replica alike.
        """
        try:
            entry = pb.Entry.FromString(command)
        except DecodeError:
            unread = Refused(reason=f"entry {index} is not readable by this release")
            return AppliedEntry(index, pb.Entry(), [[unread]])
        results = self.table.apply(index, entry)
        self.applied = index
        applied = AppliedEntry(index, entry, results)
        for listener in self._listeners:
            listener(applied)
        return applied

    def snapshot(self) -> Callable[[], bytes]:
        """Copies the table now; the function it returns serialises the copy on another thread."""
        return self.table.snapshot()

    def restore(self, data: bytes) -> None:
        """Replaces the table."""
        self.table.restore(data)
        self.table.check()
        self.applied = self.table.index
        for restored in self._on_restore:
            restored()
