"""Events as they happen: history first, then live, for as many watchers as are allowed.

The law: a watcher costs bounded memory. One that does not keep up is ended with a note and comes back with
the index it has seen; nothing is lost by that, because events are a function of the log and its indexes are
the same on every master. So watching works on followers, and goes on across leader changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from master.events import Event, Refused, job_of
from master.leader import Leader
from master.machine import AppliedEntry
from master.task_table import TaskTable
from master.views import TERMINAL, event_to_proto, job_status
from mr.errors import Rejected, Unavailable
from mr.rpc import cluster_pb2 as pb

_RING = 20_000  # recent events of all jobs, for those who want task events of the past
_QUEUE = 2_000  # events that a watcher may lag behind
_PROGRESS_S = 0.5


class Watcher:
    """What one watcher is still to be told."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, int, Event]] = deque()
        self._arrived = asyncio.Event()
        self.lost = False

    def put(self, item: tuple[int, int, Event]) -> None:
        """Queues one event; beyond the bound the watcher is lost."""
        if len(self._queue) >= _QUEUE:
            self.lose()
        elif not self.lost:
            self._queue.append(item)
            self._arrived.set()

    def lose(self) -> None:
        """It has missed something: its stream must end."""
        self.lost = True
        self._queue.clear()
        self._arrived.set()

    async def take(self, timeout_s: float) -> list[tuple[int, int, Event]]:
        """What has arrived; empty after `timeout_s` without anything."""
        if not self._arrived.is_set():
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return []
        self._arrived.clear()
        taken = list(self._queue)
        self._queue.clear()
        return taken


class Watch:
    """All watchers of this replica. `leader` gives what the leader knows beside the table, if we lead."""

    def __init__(self, table: TaskTable, leader: Callable[[], Leader | None], *, limit: int) -> None:
        self._table = table
        self._leader = leader
        self._limit = limit
        self._watchers: dict[str, set[Watcher]] = {}
        self._statuses: dict[str, tuple[float, pb.JobStatus | None]] = {}  # of watched jobs, and since when
        self._count = 0
        self._ring: deque[tuple[int, int, Event]] = deque(maxlen=_RING)

    def __len__(self) -> int:
        return self._count

    def applied(self, applied: AppliedEntry) -> None:
        """Hands the entry's events to the ring and to whoever watches."""
        at_ms = applied.entry.now_ms
        for event in (event for events in applied.results for event in events):
            if isinstance(event, Refused):
                continue
            item = (applied.index, at_ms, event)
            self._ring.append(item)
            if not self._watchers:
                continue
            job = job_of(event)
            groups = [self._watchers.get(job, ())] if job else self._watchers.values()
            for watcher in (watcher for group in groups for watcher in group):
                watcher.put(item)

    def restored(self) -> None:
        """The table has jumped: what the ring and the watchers hold has a gap."""
        self._ring.clear()
        for group in self._watchers.values():
            for watcher in group:
                watcher.lose()

    def history(self, job: str, after: int, *, tasks: bool) -> list[pb.JobEvent]:
        """Past events of a job with an index above `after`: the significant ones, and with `tasks` what else
        the ring still has.
        """
        known = self._table.jobs.get(job)
        # A full ring may have dropped a part of its oldest entry: that one is read from the table.
        start = self._ring[0][0] + (len(self._ring) == self._ring.maxlen) if self._ring else 1 << 62
        old = [event for event in (known.events() if known else ()) if after < event.index < start]
        since = max(start, after + 1, known.index if known else 0)  # the cluster's past is not the job's
        recent = (item for item in self._ring if item[0] >= since and _wanted(item[2], job, tasks=tasks))
        return old + [_proto(item) for item in recent]

    async def stream(self, job: str, after: int, *, follow: bool, tasks: bool) -> AsyncIterator[pb.JobEvent]:
        """History, then live until the job ends; the last event carries the status. Raises Unavailable when
        lost.
        """
        with self._watching(job) as watcher:
            events = self.history(job, after, tasks=tasks)
            shown, next_progress = b"", 0.0
            while True:
                for event in events:
                    after = max(after, event.index)
                    yield event
                status = self._status(job)
                if status is None or not follow or status.state in TERMINAL:
                    if status is not None:
                        yield pb.JobEvent(type="Status", text=status.reason, status=status)
                    return
                if time.monotonic() >= next_progress and (now := _fingerprint(status)) != shown:
                    shown, next_progress = now, time.monotonic() + _PROGRESS_S
                    yield pb.JobEvent(type="Progress", text=status.reason, status=status)
                items = await watcher.take(_PROGRESS_S)
                if watcher.lost:
                    raise Unavailable(f"this watcher fell behind: watch again after index {after}")
                events = [
                    _proto(item) for item in items if item[0] > after and _wanted(item[2], job, tasks=tasks)
                ]

    def _status(self, job: str) -> pb.JobStatus | None:
        """The job as it stands, made at most a few times a second however many watch it; its end at once."""
        known, at, status = self._table.jobs.get(job), *self._statuses.get(job, (0.0, None))
        fresh = time.monotonic() - at < _PROGRESS_S / 2
        if status is None or not fresh or (known is not None and known.state != status.state):
            status = job_status(self._table, job, self._leader())
            self._statuses[job] = (time.monotonic(), status)
        made: pb.JobStatus | None = None
        if status is not None:
            made = pb.JobStatus()
            made.CopyFrom(status)
        return made

    @contextmanager
    def _watching(self, job: str) -> Iterator[Watcher]:
        if self._count >= self._limit:
            raise Rejected(
                f"this master already serves {self._limit} watchers",
                code="QUOTA",
                next="watch on another master",
            )
        watcher = Watcher()
        self._watchers.setdefault(job, set()).add(watcher)
        self._count += 1
        try:
            yield watcher
        finally:
            self._count -= 1
            self._watchers[job].discard(watcher)
            if not self._watchers[job]:
                del self._watchers[job]
                self._statuses.pop(job, None)


def _wanted(event: Event, job: str, *, tasks: bool) -> bool:
    return job_of(event) in ("", job) and (tasks or event.significant)


def _proto(item: tuple[int, int, Event]) -> pb.JobEvent:
    index, at_ms, event = item
    return event_to_proto(event, index, at_ms)


def _fingerprint(status: pb.JobStatus) -> bytes:
    """Equal while a watcher would see nothing new."""
    return (
        b"".join(step.SerializeToString() for step in status.steps)
        + bytes([status.state])
        + status.reason.encode()
    )
