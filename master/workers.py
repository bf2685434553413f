"""One worker as the replicas agree on it: who it is, whether it may get tasks, what it runs."""

from __future__ import annotations

from master.ids import AttemptKey
from mr.rpc import table_pb2

ACTIVE = table_pb2.WORKER_ACTIVE
DRAINING = table_pb2.WORKER_DRAINING
EXCLUDED = table_pb2.WORKER_EXCLUDED
LOST = table_pb2.WORKER_LOST_STATE


class Worker:
    """A worker's newest life. `running` is derived from the jobs' live attempts."""

    __slots__ = (
        "attach",
        "attached_ms",
        "excluded",
        "excluded_reason",
        "excluded_until_ms",
        "id",
        "kinds",
        "lost_ms",
        "reason",
        "running",
        "state",
    )

    def __init__(self, attach: table_pb2.AttachWorker, now_ms: int) -> None:
        self.id = attach.worker
        self.attach = attach  # never changed: a new attach replaces it
        self.kinds = frozenset(attach.kinds)  # empty = all
        self.state: int = ACTIVE
        self.reason = ""
        self.excluded = False  # outlives the worker's lives: a bad machine is no better after a restart
        self.excluded_reason = ""
        self.excluded_until_ms = 0  # 0 = until somebody lifts it
        self.attached_ms = now_ms
        self.lost_ms = 0
        self.running: set[AttemptKey] = set()

    def follow(self, old: Worker) -> None:
        """Takes over what outlives an attach; of the same life, also what runs and whether it drains."""
        self.excluded, self.excluded_reason = old.excluded, old.excluded_reason
        self.excluded_until_ms = old.excluded_until_ms
        if old.excluded:
            self.state, self.reason = EXCLUDED, old.excluded_reason
        if old.incarnation == self.incarnation:
            self.running = old.running
            if old.state == DRAINING:
                self.state, self.reason = DRAINING, old.reason

    def set_state(self, state: int, reason: str, until_ms: int) -> None:
        """What an operator or the leader decided."""
        self.state, self.reason = state, reason
        self.excluded = state == EXCLUDED
        self.excluded_reason = reason if self.excluded else ""
        self.excluded_until_ms = until_ms if self.excluded else 0

    @property
    def incarnation(self) -> str:
        """Of its newest life; greater text is newer."""
        return self.attach.incarnation

    @property
    def address(self) -> str:
        """Of its data port, as peers reach it."""
        return self.attach.address

    @property
    def slots(self) -> int:
        """How many attempts it runs at once."""
        return self.attach.slots

    @property
    def free(self) -> int:
        """Slots that a new attempt may take."""
        return max(0, self.slots - len(self.running)) if self.state == ACTIVE else 0
