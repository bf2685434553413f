"""One job as the replicas agree on it: its tasks, its winners' counters, its story.

A record with the arithmetic that belongs to it; what may happen when is decided in the task table alone.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from master.columns import OutputsLog, Tasks
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, TaskKey
from mr.rpc import cluster_pb2, job_pb2, table_pb2

QUEUED = table_pb2.QUEUED
RUNNING = table_pb2.RUNNING
PUBLISHING = table_pb2.PUBLISHING
SUCCEEDED = table_pb2.SUCCEEDED
FAILED = table_pb2.FAILED
CANCELLED = table_pb2.CANCELLED

# The whole life of a job. SUCCEEDED, FAILED and CANCELLED lead nowhere (T8); PUBLISHING only to success.
JOB_TRANSITIONS: dict[tuple[int, str], int] = {
    (QUEUED, "first_attempt"): RUNNING,
    (QUEUED, "nothing_to_do"): PUBLISHING,  # no input at all: an empty output is published
    (RUNNING, "tasks_done"): PUBLISHING,
    (PUBLISHING, "published"): SUCCEEDED,
    (QUEUED, "failed"): FAILED,
    (RUNNING, "failed"): FAILED,
    (QUEUED, "cancelled"): CANCELLED,
    (RUNNING, "cancelled"): CANCELLED,
}
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})

HISTORY_LENGTH = 256  # significant events kept a job
FAILURES_A_TASK = 16  # attempts kept in a task's story
# The task process died: no exception told which record was to blame, so two deaths must agree on it.
DEATHS = frozenset({job_pb2.NATIVE_SIGNAL, job_pb2.USER_EXIT, job_pb2.OUT_OF_MEMORY})
DEATHS_BEFORE_SKIP = 2
TASKS_WITH_FAILURES = 256  # tasks a job keeps stories of
COUNTER_NAMES = 1000  # a job has no more counters than this: user code chooses the names
PARTITIONS_SUMMED = 256  # maps that report sizes: all of them up to this many partitions, else a sample
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1
DROPPED = "mr:counters_dropped"
_COUNTER = struct.Struct("<Hq")


class EndedAttempt(NamedTuple):
    """One line of a task's story. `state` is "failed" or "lost"; `failure` a serialised Failure."""

    number: int
    worker: str
    started_ms: int
    ended_ms: int
    failure: bytes
    state: str


class Step:
    """The tasks of one step, where its map outputs lie, and how much goes to each partition."""

    __slots__ = (
        "bytes_done",
        "counted",
        "digest",
        "log",
        "maps",
        "partition_bytes",
        "partition_records",
        "reduces",
        "sample_every",
    )

    def __init__(self, maps: int, reduces: int) -> None:
        self.maps = Tasks(maps)
        self.reduces = Tasks(reduces)
        self.log = OutputsLog()
        summed = bytes(8 * reduces)
        self.partition_bytes = array("Q", summed)
        self.partition_records = array("Q", summed)
        self.counted = bytearray(maps)  # maps whose sizes are in the sums: a re-run map is not added twice
        self.sample_every = max(1, reduces // PARTITIONS_SUMMED)
        self.bytes_done = 0
        self.digest: bytes | None = None  # derived: of the winners, until one changes

    def winners_digest(self) -> bytes:
        """What a reduce must have consumed (T9); computed once for all reduces of a step."""
        if self.digest is None:
            self.digest = self.maps.winners_digest()
        return self.digest

    def add_sizes(self, index: int, result: job_pb2.TaskResult) -> None:
        """Adds one map's sizes to the sums over partitions, once a map, and only every `sample_every`-th."""
        sizes, records = result.partition_bytes, result.partition_records
        if self.counted[index] or index % self.sample_every or len(sizes) != self.reduces.count:
            return
        self.counted[index] = 1
        for partition, size in enumerate(sizes):
            self.partition_bytes[partition] = min(UINT64_MAX, self.partition_bytes[partition] + size)
        if len(records) == self.reduces.count:
            for partition, number in enumerate(records):
                self.partition_records[partition] = min(
                    UINT64_MAX, self.partition_records[partition] + number
                )

    def derive(self) -> None:
        """Rebuilds what follows from the rest, after a restore."""
        self.sample_every = max(1, self.reduces.count // PARTITIONS_SUMMED)
        self.digest = None

    def needs_map_outputs(self) -> bool:
        """Whether some reduce has yet to commit what it merged."""
        return not self.reduces.done

    @property
    def done(self) -> bool:
        """Whether every task of the step is completed."""
        return self.maps.done and self.reduces.done


class Job:
    """A job. `step` is the current one; later steps wait for it, earlier ones are history."""

    __slots__ = (
        "attempts",
        "cleanup",
        "cleanup_given_up",
        "commit",
        "counter_ids",
        "counter_names",
        "counters",
        "ended_ms",
        "excluded",
        "failed_task",
        "failure",
        "failures",
        "history",
        "id",
        "index",
        "leader_changes",
        "life_ids",
        "lives",
        "manifest_digest",
        "order",
        "owner",
        "reason",
        "request_id",
        "reruns",
        "running",
        "spec",
        "started_ms",
        "state",
        "step",
        "steps",
        "submitted_ms",
        "submitted_uptime_ms",
    )

    def __init__(self, spec: job_pb2.JobSpec, *, owner: str, request_id: str, index: int, order: int) -> None:
        self.id = spec.job_id
        self.spec = spec  # never changed after this
        self.owner = owner
        self.request_id = request_id
        self.index = index
        self.order = order
        self.state: int = QUEUED
        self.reason = ""
        self.submitted_ms = self.started_ms = self.ended_ms = 0
        self.submitted_uptime_ms = 0
        self.step = 0
        self.steps: list[Step] = []
        maps = spec.maps
        for step in spec.steps:
            self.steps.append(Step(maps, step.reduces))
            maps = step.reduces or maps  # step k+1 maps over the output of step k, one map per file
        self.commit = Tasks(1)
        self.cleanup = Tasks(1)
        self.cleanup_given_up = False
        self.counters: dict[str, int] = {}
        self.reruns: dict[str, int] = {}
        self.attempts = 0
        self.leader_changes = 0
        self.manifest_digest = b""
        self.failure: job_pb2.Failure | None = None
        self.failed_task: job_pb2.AttemptId | None = None
        self.lives: list[tuple[str, str]] = [("", "")]  # number to (worker, incarnation); 0 = none
        self.life_ids: dict[tuple[str, str], int] = {}  # derived
        self.counter_names: list[str] = []
        self.counter_ids: dict[str, int] = {}  # derived
        self.excluded: dict[str, int] = {}  # worker to cause
        self.failures: dict[TaskKey, tuple[EndedAttempt, ...]] = {}
        self.history: deque[bytes] = deque(maxlen=HISTORY_LENGTH)
        self.running = 0  # derived: live attempts

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self.state in TERMINAL

    @property
    def max_attempts(self) -> int:
        """User failures of one task that fail the job."""
        return self.spec.options.max_attempts or 4

    @property
    def current(self) -> Step:
        """The step whose tasks may run."""
        return self.steps[self.step]

    def tasks(self, step: int, kind: int) -> Tasks | None:
        """The tasks of one kind in one step, if there are such; commit and cleanup belong to step 0."""
        if kind in (MAP, REDUCE):
            if step < len(self.steps):
                return self.steps[step].maps if kind == MAP else self.steps[step].reduces
        elif step == 0 and kind == COMMIT:
            return self.commit
        elif step == 0 and kind == CLEANUP:
            return self.cleanup
        return None

    def all_tasks(self) -> Iterator[tuple[int, int, Tasks]]:
        """(step, kind, tasks) of everything there is."""
        for number, step in enumerate(self.steps):
            yield number, MAP, step.maps
            yield number, REDUCE, step.reduces
        yield 0, COMMIT, self.commit
        yield 0, CLEANUP, self.cleanup

    def runnable(self) -> list[tuple[int, int, Tasks]]:
        """(step, kind, tasks) that may be assigned in this state of the job, maps before reduces."""
        if self.state in (QUEUED, RUNNING):
            step = self.current
            return [(self.step, MAP, step.maps), (self.step, REDUCE, step.reduces)]
        if self.state == PUBLISHING:
            return [(0, COMMIT, self.commit)]
        if self.state in (FAILED, CANCELLED) and not self.cleanup_given_up:
            return [(0, CLEANUP, self.cleanup)]
        return []

    def life(self, worker: str, incarnation: str) -> int:
        """The number of a worker's life in this job's columns; a new one at its first attempt."""
        number = self.life_ids.get((worker, incarnation))
        if number is None:
            number = len(self.lives)
            self.lives.append((worker, incarnation))
            self.life_ids[worker, incarnation] = number
        return number

    def bars(self, kind: int) -> set[str]:
        """Workers that get no task of that kind: to publish or clean up, a worker need only see the place."""
        if kind in (COMMIT, CLEANUP):
            return {worker for worker, cause in self.excluded.items() if cause == job_pb2.PATH_NOT_SHARED}
        return set(self.excluded)

    def worker_of(self, life: int) -> str:
        """The worker of that life; "" for none."""
        return self.lives[life][0]

    def add_counters(self, result: job_pb2.TaskResult) -> bytes:
        """Adds a winner's counters; returns them packed, so that a lost winner's can be taken back (T11)."""
        packed = bytearray()
        for given in sorted(result.counters):
            full = given not in self.counter_ids and len(self.counter_names) >= COUNTER_NAMES
            name, value = (DROPPED, 1) if full else (given, result.counters[given])
            number = self.counter_ids.get(name)
            if number is None:
                number = self.counter_ids[name] = len(self.counter_names)
                self.counter_names.append(name)
            packed += _COUNTER.pack(number, value)
            self.counters[name] = _clamp(self.counters.get(name, 0) + value)
        return bytes(packed)

    def take_back_counters(self, packed: bytes) -> dict[str, int]:
        """Takes back what `add_counters` packed, and says what that was."""
        taken: dict[str, int] = {}
        for number, value in _COUNTER.iter_unpack(packed):
            name = self.counter_names[number]
            self.counters[name] = _clamp(self.counters[name] - value)
            taken[name] = value
        return taken

    def remember_failure(self, task: TaskKey, ended: EndedAttempt) -> None:
        """Keeps the task's story, bounded: the newest attempts of the tasks that failed last."""
        story = self.failures.pop(task, ())
        if len(self.failures) >= TASKS_WITH_FAILURES:
            del self.failures[next(iter(self.failures))]
        self.failures[task] = (*story, ended)[-FAILURES_A_TASK:]

    def deadly_records(self, task: TaskKey) -> list[int]:
        """Records on which the task's process died twice: skipped from now on, if the job allows it (P-07)."""
        if not self.spec.options.skip_bad:
            return []
        failures = (job_pb2.Failure.FromString(ended.failure) for ended in self.failures.get(task, ()))
        deaths = Counter(f.record_number for f in failures if f.cause in DEATHS and f.record_number)
        return sorted(record for record, times in deaths.items() if times >= DEATHS_BEFORE_SKIP)

    def events(self) -> list[cluster_pb2.JobEvent]:
        """The significant events so far, oldest first, bounded."""
        return [cluster_pb2.JobEvent.FromString(data) for data in self.history]

    def shed(self) -> None:
        """After the end nobody fetches or merges any more: what only that needed is dropped (T15)."""
        for step in self.steps:
            step.log = OutputsLog()
            step.counted = bytearray(step.maps.count)
            for tasks in (step.maps, step.reduces):
                tasks.files = [b""] * tasks.count
                tasks.counters = [b""] * tasks.count


def _clamp(value: int) -> int:
    return max(-INT64_MAX, min(INT64_MAX, value))
