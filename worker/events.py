"""What can happen to a worker, and what it can do about it.

Events go into `Agent.handle`, actions come out of it. Both are plain frozen records: nothing here does
anything. An `Attempt` is the hashable form of the protocol's `AttemptId`; it is only made of names that are
safe in a path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mr import names
from mr.rpc import job_pb2, session_pb2, task_pb2

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One try at one task. `kind` is a number of the protocol's enum `Kind`."""

    job: str
    step: int
    kind: int
    index: int
    number: int

    @classmethod
    def of(cls, wire: job_pb2.AttemptId) -> Attempt:
        """The attempt that a message names. Raises ValueError for one that no master would send."""
        t = wire.task
        if not safe_name(t.job) or t.kind not in job_pb2.Kind.values() or wire.number < 1:
            raise ValueError(f"not an attempt: job {t.job!r}, kind {t.kind}, number {wire.number}")
        return cls(t.job, t.step, t.kind, t.index, wire.number)

    def wire(self) -> job_pb2.AttemptId:
        """The same attempt as a message."""
        kind = job_pb2.Kind.ValueType(self.kind)
        return job_pb2.AttemptId(
            task=job_pb2.TaskId(job=self.job, step=self.step, kind=kind, index=self.index), number=self.number
        )

    def __str__(self) -> str:
        return f"{self.job} {names.attempt_name(self.wire())}"


def safe_name(name: str) -> bool:
    """Whether a name that came from the network may become part of a path."""
    return _SAFE_NAME.fullmatch(name) is not None


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A stream to a master that may be the leader is up. Session numbers only grow."""

    session: int


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """That stream is gone, whoever ended it."""

    session: int


@dataclass(frozen=True, slots=True)
class Received:
    """A batch of orders came on a session."""

    session: int
    message: session_pb2.MasterMessage


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. `now` is monotonic seconds; the rest goes into heartbeats."""

    now: float
    disk_free: int = 1 << 60
    memory_used: int = 0


@dataclass(frozen=True, slots=True)
class JobPrepared:
    """The job's code is unpacked at `code_dir`, and this worker sees the job's staging place."""

    job: str
    code_dir: str


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """This worker cannot run tasks of the job, or not now; `failure.cause` says which."""

    job: str
    failure: job_pb2.Failure


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """A task process said how far it is."""

    attempt: Attempt
    progress: session_pb2.Progress


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task process finished its attempt; what it wrote is durable under the attempt's own name."""

    attempt: Attempt
    result: job_pb2.TaskResult


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt failed: the task process said so, or died (and the death is classified)."""

    attempt: Attempt
    failure: job_pb2.Failure


@dataclass(frozen=True, slots=True)
class RegionFailure:
    """One map's region could not be had from the worker asked."""

    map: int
    attempt: int
    cause: job_pb2.Cause.ValueType
    message: str


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A `Fetch` is over. Each region asked for is in `fetched` (verified, on local disk) or in `failed`."""

    reduce: Attempt
    worker: str
    fetched: Sequence[task_pb2.Run]
    failed: Sequence[RegionFailure] = ()


@dataclass(frozen=True, slots=True)
class OutputDamaged:
    """A map output of this worker is missing or fails its checksums."""

    attempt: Attempt
    message: str


@dataclass(frozen=True, slots=True)
class PeerSuspected:
    """The failure detector changed its mind about a peer; `agreed` of `asked` others think the same."""

    worker: str
    reachable: bool
    asked: int
    agreed: int


@dataclass(frozen=True, slots=True)
class DrainWanted:
    """This process was asked to end (SIGTERM): finish what runs, take nothing new, then exit."""

    reason: str


Event: TypeAlias = (
    SessionOpened
    | SessionClosed
    | Received
    | Tick
    | JobPrepared
    | PrepareFailed
    | TaskProgress
    | TaskDone
    | TaskFailed
    | FetchEnded
    | OutputDamaged
    | PeerSuspected
    | DrainWanted
)

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Send:
    """Put these on the session, in this order. Dropped if the session is gone: attach says it all again."""

    session: int
    events: Sequence[session_pb2.WorkerEvent]


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End this stream and look for the leader again (`hint` first, if it is not empty)."""

    session: int
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A leader welcomed this worker: keep the cluster id, watch these peers."""

    cluster_id: str
    leader: str
    peers: Sequence[session_pb2.PeerWorker]


@dataclass(frozen=True, slots=True)
class SweepScratch:
    """A leader knows this incarnation: delete scratch of earlier lives, and of other jobs than these."""

    keep: frozenset[str]


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """Fetch, verify, unpack the code; check Python and, if so told, that this worker sees the staging place.

    Answer `JobPrepared` or `PrepareFailed`.
    """

    job: str
    spec: job_pb2.JobSpec
    check_nonce: bool = True


@dataclass(frozen=True, slots=True)
class StartTask:
    """Run the attempt in a task process. Answer any `TaskProgress`, then one `TaskDone` or `TaskFailed`."""

    attempt: Attempt
    spec: job_pb2.JobSpec
    assign: session_pb2.Assign
    code_dir: str
    runs: Sequence[task_pb2.Run] = ()


@dataclass(frozen=True, slots=True)
class KillTask:
    """Kill the attempt's task process with all that it started; stop its fetches. No answer."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class FailTask:
    """The same to an attempt that must not go on; answer `TaskFailed` with this failure and what is known."""

    attempt: Attempt
    failure: job_pb2.Failure


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get these regions, (map, attempt) each, of partition `reduce.index`. Answer one `FetchEnded`."""

    reduce: Attempt
    worker: str
    address: str
    wanted: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class DropScratch:
    """Delete the attempt's own folder (spills, fetched regions, temporary files). Its output stays."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class DropOutput:
    """Delete what the attempt produced: a map's segment here, or its file (`result.file`) in `staging`."""

    attempt: Attempt
    staging: str = ""
    result: job_pb2.TaskResult | None = None


@dataclass(frozen=True, slots=True)
class DropJob:
    """Delete all scratch of the job, end its task processes, drop its code unless another job uses it."""

    job: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """End this process with `code`, saying `reason`. Task processes die with it."""

    code: int
    reason: str


Action: TypeAlias = (
    Send
    | CloseSession
    | Joined
    | SweepScratch
    | PrepareJob
    | StartTask
    | KillTask
    | FailTask
    | Fetch
    | DropScratch
    | DropOutput
    | DropJob
    | Note
    | Exit
)
