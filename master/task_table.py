"""The task table: what all masters agree has happened to every job, task and worker.

A pure state machine. `apply` takes one committed entry and returns the events that each of its commands caused;
equal entries in equal order give an equal table and equal events on every replica. So nothing here reads a clock,
draws a number, logs or touches the network: a time or an id that matters arrives inside the entry.

A command that has become stale (a late completion, a second winner) is no error: it was true when it was proposed.
It changes nothing and yields `Refused`. `apply` never raises: first every check, then every change.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import assert_never

from master import attempt_commands, job_commands, table_snapshot, versions, worker_commands
from master.event_log import event_to_proto
from master.events import (
    ClusterVersionSet,
    Event,
    LeaderChanged,
    Refused,
    job_of,
)
from master.jobs import (
    UINT64_MAX,
    Job,
)
from master.table_check import check
from master.workers import Worker
from mr.rpc import table_pb2


class TaskTable:
    """All of it. Others read its attributes; only `apply` and `restore` change them."""

    def __init__(self) -> None:
        self.index = 0
        self.term = 0
        self.leader = ""
        self.now_ms = 0  # the leaders' wall clocks, never backwards: only to show
        self.uptime_ms = (
            0  # time with a leader in office: deadlines count this, so no clock that jumps ends a job
        )
        self.term_clock_ms = 0  # the last now_ms within this term
        self.cluster_version = 0
        self.jobs: dict[str, Job] = {}
        self.live: dict[str, Job] = {}  # derived: those that are not terminal, in order of acceptance
        self.workers: dict[str, Worker] = {}
        self.requests: OrderedDict[str, tuple[str, str]] = OrderedDict()  # id to (what, subject)
        self.ended: OrderedDict[str, table_pb2.EndedJob] = OrderedDict()  # forgotten jobs
        self.outputs: dict[str, str] = {}  # derived: output path to live job
        self.live_requests: dict[str, str] = {}  # derived: request id to live job
        self.jobs_seen = 0

    # -- the contract of a state machine --

    def apply(self, index: int, entry: table_pb2.Entry) -> list[list[Event]]:
        """Applies one committed entry; one list of events a command."""
        self.index = index
        if entry.term < self.term:
            stale = Refused(f"proposed in term {entry.term}, and term {self.term} has begun", "STALE_TERM")
            return [[stale] for _ in entry.commands]
        self._advance_clock(entry)
        results = []
        for command in entry.commands:
            events = self._apply_one(command)
            self._record(events)
            results.append(events)
        return results

    def snapshot(self) -> Callable[[], bytes]:
        """Copies the state now, compactly; the returned function serialises the copy, on any thread."""
        return table_snapshot.freeze(self)

    def restore(self, data: bytes) -> None:
        """Becomes what `snapshot` serialised. ValueError or AssertionError if the bytes are none."""
        fresh = TaskTable()
        table_snapshot.thaw(fresh, data)
        check(fresh)
        self.__dict__.update(fresh.__dict__)

    def adopt(self, index: int, data: bytes) -> None:
        """Becomes a table saved by another cluster, inside this one's log: its jobs and workers, our index, term,
        leader, clock and version. Histories keep their order; their indexes meant another log. Raises as `restore`
        does, and for a table that was saved at a version that this cluster has not agreed on.
        """
        fresh = TaskTable()
        fresh.restore(data)
        if fresh.cluster_version > max(1, self.cluster_version):
            raise ValueError(
                f"it was saved at version {fresh.cluster_version} of the commands; this cluster is at"
                f" {self.cluster_version}"
            )
        fresh.term, fresh.leader, fresh.term_clock_ms = self.term, self.leader, self.term_clock_ms
        fresh.cluster_version = self.cluster_version
        self.__dict__.update(fresh.__dict__)
        self.index = index
        for job in self.jobs.values():
            for position, kept in enumerate(job.events()):
                kept.index = index
                job.history[position] = kept.SerializeToString(deterministic=True)

    def digest(self) -> bytes:
        """SHA-256 of the state, equal on all replicas at the same index (C6)."""
        return hashlib.sha256(self.snapshot()()).digest()

    def check(self) -> None:
        """Every invariant of the table; AssertionError names the broken one."""
        check(self)

    def find_job(self, text: str) -> str | None:
        """The job of that id or unique prefix; a forgotten one too."""
        if text in self.jobs or text in self.ended:
            return text
        matches = [job for known in (self.jobs, self.ended) for job in known if job.startswith(text)]
        return matches[0] if text and len(matches) == 1 else None

    def owner_of(self, job: str) -> str:
        """Who submitted the job; "" when it is not even history."""
        if job in self.jobs:
            return self.jobs[job].owner
        return self.ended[job].owner if job in self.ended else ""

    def request_of(self, request_id: str) -> str | None:
        """The job that this request id made, if it is remembered."""
        if request_id in self.live_requests:
            return self.live_requests[request_id]
        remembered = self.requests.get(request_id)
        return remembered[1] if remembered else None

    # -- one command --

    def _apply_one(self, command: table_pb2.Command) -> list[Event]:
        kind = command.WhichOneof("kind")
        if kind is not None and versions.SINCE.get(kind, 0) > self.cluster_version:
            return [
                Refused(f"{kind} is of a later version than the cluster's {self.cluster_version}", "VERSION")
            ]
        match kind:
            case "take_office":
                return self._take_office(command.take_office)
            case "submit":
                return job_commands.submit(self, command.submit)
            case "cancel":
                return job_commands.cancel(self, command.cancel)
            case "attach":
                return worker_commands.attach(self, command.attach)
            case "lose_worker":
                return worker_commands.lose_worker(self, command.lose_worker)
            case "assign":
                return attempt_commands.assign(self, command.assign)
            case "complete":
                return attempt_commands.complete(self, command.complete)
            case "fail":
                return attempt_commands.fail(self, command.fail)
            case "lose_output":
                return worker_commands.lose_output(self, command.lose_output)
            case "revoke":
                return attempt_commands.revoke(self, command.revoke)
            case "set_worker":
                return worker_commands.set_worker(self, command.set_worker)
            case "expire":
                return job_commands.expire(self, command.expire)
            case "forget_jobs":
                return job_commands.forget_jobs(self, command.forget_jobs)
            case "set_version":
                return self._set_version(command.set_version)
            case "retry":
                return job_commands.retry(self, command.retry)
            case None:
                return [Refused("an empty command", "EMPTY")]
            case _:
                assert_never(kind)

    def _take_office(self, command: table_pb2.TakeOffice) -> list[Event]:
        previous, self.leader = self.leader, command.leader
        for job in self.live.values():
            job.leader_changes += 1
        return [LeaderChanged(command.leader, self.term, previous)]

    def _set_version(self, command: table_pb2.SetClusterVersion) -> list[Event]:
        if command.version <= self.cluster_version:
            return [Refused(f"the cluster is at version {self.cluster_version} already")]
        self.cluster_version = command.version
        return [ClusterVersionSet(command.version)]

    # -- bookkeeping --

    def _advance_clock(self, entry: table_pb2.Entry) -> None:
        if entry.term == self.term:
            self.uptime_ms = min(UINT64_MAX, self.uptime_ms + max(0, entry.now_ms - self.term_clock_ms))
            self.term_clock_ms = max(self.term_clock_ms, entry.now_ms)
        else:
            self.term, self.term_clock_ms = entry.term, entry.now_ms
        self.now_ms = max(self.now_ms, entry.now_ms)

    def _record(self, events: list[Event]) -> None:
        """Keeps significant events in their job's history; those of the whole cluster in every live job's."""
        for event in events:
            if not event.significant:
                continue
            data = event_to_proto(event, self.index, self.now_ms).SerializeToString(deterministic=True)
            name = job_of(event)
            if name:
                if name in self.jobs:
                    self.jobs[name].history.append(data)
            else:
                for job in self.live.values():
                    job.history.append(data)
