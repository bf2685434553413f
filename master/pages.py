"""What the pages pick out of what they read: failed jobs, stragglers, skewed partitions; and how values look.
Pure but for `now_ms`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from master.jobs import Step
from mr import names, units
from mr.errors import info
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2, table_pb2

_SLOW = 20
_SKEW = 2.0  # times the mean
_SKEWED = 5


class Straggler(NamedTuple):
    """A running attempt that has run longest."""

    task: str
    attempt: pb.AttemptInfo
    seconds: float
    times_median: float  # of the running attempts of its kind


class Skewed(NamedTuple):
    """A partition much larger than the others of its step."""

    step: int
    partition: int
    bytes: int
    times_mean: float


def now_ms() -> int:
    """The wall clock, as pages show it."""
    return time.time_ns() // 1_000_000


def failed(jobs: Iterable[pb.JobStatus]) -> list[pb.JobStatus]:
    """Those that failed, the latest first."""
    return sorted((job for job in jobs if job.state == table_pb2.FAILED), key=lambda job: -job.ended_ms)


def running(jobs: Iterable[pb.JobStatus]) -> list[pb.JobStatus]:
    """Those that have not ended."""
    return [job for job in jobs if job.state in (table_pb2.QUEUED, table_pb2.RUNNING, table_pb2.PUBLISHING)]


def stragglers(tasks: Iterable[pb.TaskInfo], now: int) -> list[Straggler]:
    """The running attempts that have run longest, each beside the median of its kind."""
    running_now = [(task.task, a) for task in tasks for a in task.attempts if a.state == "running"]
    ages: dict[int, list[float]] = {}
    for task, attempt in running_now:
        ages.setdefault(task.kind, []).append(_age(attempt, now))
    medians = {kind: statistics.median(found) for kind, found in ages.items()}
    rows = [
        Straggler(
            names.task_text(task),
            attempt,
            _age(attempt, now),
            _age(attempt, now) / max(0.001, medians[task.kind]),
        )
        for task, attempt in running_now
    ]
    return sorted(rows, key=lambda row: -row.seconds)[:_SLOW]


def skewed(steps: Sequence[Step]) -> list[Skewed]:
    """The largest partitions, where they are out of proportion."""
    rows = []
    for number, step in enumerate(steps):
        sizes = step.partition_bytes
        mean = sum(sizes) / len(sizes) if sizes else 0
        rows += [
            Skewed(number, p, size, size / mean)
            for p, size in enumerate(sizes)
            if mean and size > _SKEW * mean
        ]
    return sorted(rows, key=lambda row: -row.bytes)[:_SKEWED]


def joined(lines: Iterable[pb.LogLine]) -> list[tuple[str, str]]:
    """(heading, text) for each attempt's log."""
    texts: dict[str, str] = {}
    for line in lines:
        heading = f"attempt {line.attempt.number} on {line.worker}" if line.worker else ""
        texts[heading] = texts.get(heading, "") + line.data.decode(errors="replace") + line.note
    return list(texts.items())


def _age(attempt: pb.AttemptInfo, now: int) -> float:
    return max(0, now - attempt.started_ms) / 1000


def _state(value: int) -> str:
    return table_pb2.JobState.Name(value)  # type: ignore[arg-type]  # always one of ours


def _cause(value: int) -> str:
    return job_pb2.Cause.Name(value)  # type: ignore[arg-type]  # always one of ours


def _percent(kind: pb.KindStatus) -> int:
    return 100 * kind.completed // kind.total if kind.total else 100


def _clock(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else "-"


def _seconds(ms: float) -> str:
    return units.duration(max(0.0, ms) / 1000)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "state": _state,
    "cause": _cause,
    "advice": lambda cause: info(cause).next,
    "percent": _percent,
    "clock": _clock,
    "duration": units.duration,
    "ms": _seconds,
    "size": units.size,
    "number": units.number,
    "task": names.task_text,
    "hex": lambda data: bytes(data).hex(),
}
