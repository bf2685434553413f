"""Who a worker is: what it says of itself on every attach. Immutable for one incarnation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from worker.events import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One life of one worker. `incarnation` is new at every start; a later one sorts after an earlier one."""

    worker: str
    incarnation: str
    address: str = ""
    slots: int = 1
    memory_bytes: int = 0
    labels: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
    host: str = ""
    version: str = ""
    python: str = ""
    isolation: str = "none"
    incarnation_ms: int = 0

    def attach(
        self, cluster_id: str, term: int, running: Iterable[Attempt], held: Iterable[Attempt]
    ) -> session.WorkerEvent:
        """The first message of a session: who this is, what it runs and what it keeps."""
        return session.WorkerEvent(
            attach=session.Attach(
                worker=self.worker,
                incarnation=self.incarnation,
                cluster_id=cluster_id,
                version=self.version,
                address=self.address,
                slots=self.slots,
                memory_bytes=self.memory_bytes,
                labels=self.labels,
                kinds=[job.Kind.ValueType(kind) for kind in self.kinds],
                host=self.host,
                python=self.python,
                isolation=self.isolation,
                highest_term=term,
                running=[attempt.wire() for attempt in running],
                held=[attempt.wire() for attempt in held],
                incarnation_ms=self.incarnation_ms,
            )
        )
