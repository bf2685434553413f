"""What Prometheus scrapes from a master: prefix `mr_`, base units, no label whose values grow with tasks or
workers.

Counters count what this process applied or did since it started; gauges are read at the scrape. Every master
exports the table as it stands there, so sums over masters make no sense for `mr_jobs` and `mr_tasks`.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from consensus.replica import Leadership
from master import events as ev
from master.columns import IDLE, STATE_NAMES
from master.ids import AttemptKey
from master.machine import AppliedEntry
from master.masters import resident_bytes
from mr.rpc import job_pb2, session_pb2, table_pb2

if TYPE_CHECKING:
    from master.server import Master

disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped there; a time beside every counter that nobody scrapes
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZE_EVERY_S = 15.0


class Metrics:
    """The registry of one master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self.registry = CollectorRegistry()
        self.commit_seconds = Histogram(
            "mr_raft_commit_seconds",
            "From a proposal to its result.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.decision_seconds = Histogram(
            "mr_scheduler_decision_seconds",
            "One turn of the leader.",
            buckets=(0.0001, 0.0005, *_BUCKETS),
            registry=self.registry,
        )
        self._leader_changes = Counter(
            "mr_raft_leader_changes", "Changes of leader seen here.", registry=self.registry
        )
        self._attempts = Counter(
            "mr_task_attempts", "Attempts that ended.", ["kind", "result"], registry=self.registry
        )
        self._reruns = Counter(
            "mr_tasks_rerun", "Completed tasks that ran again.", ["reason"], registry=self.registry
        )
        self._task_seconds = Histogram(
            "mr_task_seconds",
            "From assignment to completion.",
            ["kind"],
            buckets=(*_BUCKETS[5:], 10, 30, 60, 300, 1800),
            registry=self.registry,
        )
        self._fetch_failures = Counter(
            "mr_shuffle_fetch_failures",
            "Map outputs that could not be fetched.",
            ["cause"],
            registry=self.registry,
        )
        self.snapshot_seconds = Histogram(
            "mr_raft_snapshot_seconds",
            "Serialising one snapshot, beside the loop.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._leader: str | None = None
        self._log_bytes: tuple[float, int] = (0.0, 0)
        self._began: dict[AttemptKey, int] = {}  # when it was assigned, by the leaders' clock
        self.registry.register(self)

    def render(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)

    def led(self, leadership: Leadership) -> None:
        """Consensus says who leads."""
        if leadership.leader and leadership.leader != self._leader:
            if self._leader is not None:
                self._leader_changes.inc()
            self._leader = leadership.leader

    def applied(self, applied: AppliedEntry) -> None:
        """Counts an applied entry's events."""
        for event in (event for events in applied.results for event in events):
            match event:
                case ev.AttemptStarted(attempt=attempt):
                    self._began[attempt] = applied.entry.now_ms
                case ev.TaskCompleted(attempt=attempt):
                    self._attempts.labels(_kind(attempt.kind), "won").inc()
                    began = self._began.pop(attempt, applied.entry.now_ms)
                    self._task_seconds.labels(_kind(attempt.kind)).observe(
                        max(0, applied.entry.now_ms - began) / 1000
                    )
                case ev.AttemptFailed(attempt=attempt, user=user):
                    self._began.pop(attempt, None)
                    self._attempts.labels(_kind(attempt.kind), "failed" if user else "lost").inc()
                case ev.AttemptEnded(attempt=attempt):
                    self._began.pop(attempt, None)
                    self._attempts.labels(_kind(attempt.kind), "revoked").inc()
                case ev.JobFinished(job=job):
                    self._began = {key: at for key, at in self._began.items() if key.job != job}
                case ev.MapOutputLost(reason=reason):
                    self._reruns.labels(reason).inc()

    def heard(self, event: session_pb2.WorkerEvent) -> None:
        """A worker said something to the leader."""
        if event.HasField("fetch_failed"):
            self._fetch_failures.labels(job_pb2.Cause.Name(event.fetch_failed.cause)).inc()

    def collect(self) -> Iterator[Metric]:
        """Gauges, read now; prometheus_client calls this."""
        status = self._master.replica.status()
        yield GaugeMetricFamily("mr_raft_term", "Current term.", status.term)
        yield GaugeMetricFamily("mr_raft_is_leader", "1 on the leader.", float(status.role == "leader"))
        yield GaugeMetricFamily("mr_raft_commit_index", "Highest index known to be committed.", status.commit)
        yield GaugeMetricFamily("mr_raft_applied_index", "Highest index applied here.", status.applied)
        yield GaugeMetricFamily("mr_raft_fsync_seconds", "Recent median of one fsync.", status.disk_s)
        yield GaugeMetricFamily("mr_raft_log_entries", "Entries since the last snapshot.", status.log_entries)
        yield GaugeMetricFamily("mr_raft_log_bytes", "Log and snapshots on disk.", self._disk_bytes())
        yield GaugeMetricFamily(
            "mr_master_memory_bytes", "Resident memory of this process.", resident_bytes()
        )
        yield GaugeMetricFamily(
            "mr_master_blob_bytes", "Code bundles and split plans here.", self._master.store.total_bytes
        )
        yield GaugeMetricFamily("mr_master_watchers", "Open Watch streams.", len(self._master.watch))
        yield GaugeMetricFamily(
            "mr_worker_sessions", "Workers attached to this master.", len(self._master.links)
        )
        yield GaugeMetricFamily(
            "mr_internal_errors", "Events that the leader choked on.", self._master.driver.failures
        )
        yield from self._table()

    def _table(self) -> Iterator[Metric]:
        table = self._master.table
        jobs = GaugeMetricFamily("mr_jobs", "Jobs in the table.", labels=["state"])
        tally = Tally(job.state for job in table.jobs.values())
        for state in table_pb2.JobState.values()[1:]:
            jobs.add_metric([table_pb2.JobState.Name(state).lower()], tally[state])
        yield jobs
        tasks = GaugeMetricFamily("mr_tasks", "Tasks of jobs that have not ended.", labels=["kind", "state"])
        counts: Tally[tuple[str, str]] = Tally()
        for job in table.live.values():
            for step in job.steps:
                for kind, column in (("map", step.maps), ("reduce", step.reduces)):
                    for name, count in zip(STATE_NAMES, column.in_state, strict=True):
                        counts[kind, name] += count
        for kind in ("map", "reduce"):
            for name in STATE_NAMES:
                tasks.add_metric([kind, name], counts[kind, name])
        yield tasks
        idle = sum(column.in_state[IDLE] for job in table.live.values() for _, _, column in job.runnable())
        yield GaugeMetricFamily("mr_scheduler_queue_depth", "Tasks that wait for a worker.", idle)

    def _disk_bytes(self) -> int:
        at, size = self._log_bytes
        if time.monotonic() - at > _SIZE_EVERY_S:
            size = sum(_size(path) for path in (self._master.config.data_dir / "raft").rglob("*"))
            self._log_bytes = (time.monotonic(), size)
        return size


def _kind(kind: int) -> str:
    return job_pb2.Kind.Name(kind).lower()  # type: ignore[arg-type]  # always one of ours


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # removed by a compaction meanwhile
