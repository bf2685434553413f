"""Failed fetches: a bad source, or a bad link? (S2-15, FD6, FD7)

Two workers that can't read the same map output accuse its source; so does the source itself when it says that it has
it no longer. One worker alone accuses the link: its reduce is moved. Pure; times are the leader's monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from master.ids import AttemptKey
from mr.rpc import job_pb2

# The source answered, and what it answered is worthless: no second witness is needed.
DAMNING = frozenset({job_pb2.OUTPUT_LOST, job_pb2.DISK_ERROR})


class Verdict(Enum):
    """What a failed fetch calls for."""

    WAIT = "wait"
    LOSE_OUTPUT = "lose output"
    MOVE_REDUCE = "move reduce"


@dataclass(frozen=True, slots=True)
class Report:
    """One failed fetch of `source` by a reduce on worker `by`."""

    source: AttemptKey
    reduce: AttemptKey
    by: str
    cause: int


class Fetches:
    """The failed fetches of the last while."""

    def __init__(self, patience: int, memory_s: float) -> None:
        self._patience = patience
        self._memory_s = memory_s
        self._reports: dict[AttemptKey, list[tuple[float, Report]]] = {}

    def report(self, report: Report, now_s: float, *, movable: bool) -> Verdict:
        """Judges with what was reported before. `movable` when another worker could run the reduce."""
        kept = [(at, r) for at, r in self._reports.get(report.source, []) if now_s - at < self._memory_s]
        kept.append((now_s, report))
        self._reports[report.source] = kept
        if report.cause in DAMNING or len({r.by for _, r in kept}) > 1:
            del self._reports[report.source]
            return Verdict.LOSE_OUTPUT
        times = sum(r.reduce == report.reduce for _, r in kept)
        if report.cause == job_pb2.CORRUPT_DATA:
            # The same bytes twice, fetched anew: the damage is on the source's disk, not on the way.
            return self._settle(report, Verdict.LOSE_OUTPUT) if times > 1 else Verdict.WAIT
        if times < self._patience:
            return Verdict.WAIT
        if movable:
            return Verdict.MOVE_REDUCE  # the report stays: the next worker may be the second witness
        return self._settle(report, Verdict.LOSE_OUTPUT)

    def _settle(self, report: Report, verdict: Verdict) -> Verdict:
        del self._reports[report.source]
        return verdict

    def accusers(self, source_worker_of: dict[AttemptKey, str]) -> dict[str, set[str]]:
        """Worker to the workers that could not read from it lately, for `explain`."""
        found: dict[str, set[str]] = {}
        for source, reports in self._reports.items():
            worker = source_worker_of.get(source)
            if worker:
                found.setdefault(worker, set()).update(r.by for _, r in reports)
        return found

    def forget(self, now_s: float) -> None:
        """Drops what is too old to count."""
        for source in list(self._reports):
            kept = [(at, r) for at, r in self._reports[source] if now_s - at < self._memory_s]
            if kept:
                self._reports[source] = kept
            else:
                del self._reports[source]
