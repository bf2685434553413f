"""Who is on the line: one record a worker's stream, and since when each worker has been silent.

Records only; the leader decides. Times are the leader's monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from master.ids import AttemptKey
from mr.rpc import session_pb2


@dataclass(slots=True)
class Session:
    """One attached stream. `reconciled` once what the worker reported and what the table says have been compared."""

    number: int
    attach: session_pb2.Attach
    welcomed: bool = False  # its attach is committed: it may get orders
    reported: bool = False  # its first heartbeat came: the re-attach report is complete
    reconciled: bool = False
    dismissed: bool = False  # told that it may leave
    assigned: set[AttemptKey] = field(default_factory=set)  # sent on this stream
    told: set[AttemptKey] = field(default_factory=set)  # completed or failed, as heard on this stream
    specs: set[str] = field(default_factory=set)  # jobs whose spec this stream has carried
    cursors: dict[tuple[str, int], int] = field(
        default_factory=dict
    )  # next MapOutputs sequence, by (job, step)
    disk_free_bytes: int = 0
    memory_used_bytes: int = 0

    @property
    def worker(self) -> str:
        """The worker's id."""
        return self.attach.worker


class Sessions:
    """All streams, by number and by worker: the newest stream of a worker is the one that counts."""

    def __init__(self) -> None:
        self.by_number: dict[int, Session] = {}
        self.by_worker: dict[str, Session] = {}
        self.heard: dict[str, float] = {}  # worker to when it was last heard, stream or not

    def open(self, number: int, attach: session_pb2.Attach, now_s: float) -> Session | None:
        """Takes a new stream; returns the one that it replaces."""
        replaced = self.by_worker.get(attach.worker)
        session = Session(number, attach)
        session.cursors = {(c.job, c.step): c.sequence for c in attach.cursors}
        self.by_number[number] = session
        self.by_worker[attach.worker] = session
        self.heard[attach.worker] = now_s
        if replaced is not None:
            del self.by_number[replaced.number]
        return replaced

    def close(self, number: int) -> Session | None:
        """The stream is gone; its worker's lease goes on."""
        session = self.by_number.pop(number, None)
        if session is not None and self.by_worker.get(session.worker) is session:
            del self.by_worker[session.worker]
        return session

    def ready(self, worker: str, incarnation: str) -> Session | None:
        """The stream of that life of a worker, if it may get orders."""
        session = self.by_worker.get(worker)
        if session is None or not session.welcomed or session.attach.incarnation != incarnation:
            return None
        return session

    def forgive(self, seconds: float) -> None:
        """The leader itself was away that long: nobody could be heard."""
        for worker in self.heard:
            self.heard[worker] += seconds
