"""What one applied command caused: the only way in which anything learns of a change of the task table.

Equal on every replica. `text` is one line for people; `significant` events are kept in the job's replicated
history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from master import causes
from master.ids import AttemptKey, TaskKey
from mr.rpc import job_pb2, table_pb2


class Event:
    """Base of all events."""

    __slots__ = ()
    significant: ClassVar[bool] = False

    @property
    def type(self) -> str:
        """The name in `JobEvent.type`."""
        return type(self).__name__

    @property
    def text(self) -> str:
        """One line for people."""
        return self._text()

    def _text(self) -> str:
        return self.type


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The command was stale or impossible: nothing changed. `code` is for programs, `reason` for people."""

    reason: str
    code: str = "STALE"

    def _text(self) -> str:
        return f"refused: {self.reason}"


@dataclass(frozen=True, slots=True)
class LeaderChanged(Event):
    """A master took office in `term`."""

    leader: str
    term: int
    previous: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"leader {self.leader} took office in term {self.term}" + (
            f" after {self.previous}" if self.previous and self.previous != self.leader else ""
        )


@dataclass(frozen=True, slots=True)
class JobAccepted(Event):
    """The job is in the table; `existed` when an earlier try of the same request had put it there."""

    job: str
    existed: bool
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"job {self.job} " + ("was accepted before" if self.existed else "accepted")


@dataclass(frozen=True, slots=True)
class JobStarted(Event):
    """Its first attempt was assigned."""

    job: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"job {self.job} started"


@dataclass(frozen=True, slots=True)
class StepStarted(Event):
    """Its maps may be assigned from now on."""

    job: str
    step: int
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"step {self.step} started"


@dataclass(frozen=True, slots=True)
class MapsDone(Event):
    """Every map of the step is completed; said again after a loss was made good."""

    job: str
    step: int
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"all maps of step {self.step} are completed"


@dataclass(frozen=True, slots=True)
class JobPublishing(Event):
    """Every task is completed: from here the job can't fail or be cancelled."""

    job: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"job {self.job} publishes its output"


@dataclass(frozen=True, slots=True)
class JobFinished(Event):
    """Terminal: it never changes again (T8)."""

    job: str
    state: int
    reason: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        name = table_pb2.JobState.Name(self.state)  # type: ignore[arg-type]  # always one of ours
        return f"job {self.job} {name}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class JobAlreadyFinished(Event):
    """A cancel came after the end, or a second time: nothing changed."""

    job: str
    state: int

    def _text(self) -> str:
        return f"job {self.job} had ended"


@dataclass(frozen=True, slots=True)
class JobForgotten(Event):
    """Retention: only a short record is left."""

    job: str

    def _text(self) -> str:
        return f"job {self.job} became history"


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """A task was assigned."""

    attempt: AttemptKey
    worker: str
    backup: bool

    def _text(self) -> str:
        return f"{self.attempt.text} on {self.worker}" + (" (backup)" if self.backup else "")


@dataclass(frozen=True, slots=True)
class TaskCompleted(Event):
    """The attempt won its task: the one commit of T1."""

    attempt: AttemptKey
    worker: str

    def _text(self) -> str:
        return f"{self.attempt.text} completed on {self.worker}"


@dataclass(frozen=True, slots=True)
class MapOutputReady(Event):
    """A map output may be fetched (S1-07). `digest` is that of its index file, hex."""

    attempt: AttemptKey
    worker: str
    digest: str

    def _text(self) -> str:
        return f"map output {self.attempt.text} is ready on {self.worker}"


@dataclass(frozen=True, slots=True)
class MapOutputLost(Event):
    """A completed map goes back to idle because its output is gone and still needed."""

    attempt: AttemptKey
    worker: str
    reason: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"map output {self.attempt.text} on {self.worker} lost: {self.reason}"


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """The attempt failed; `user` when it eats the task's budget (T6)."""

    attempt: AttemptKey
    worker: str
    cause: int
    message: str
    user: bool
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return (
            f"{self.attempt.text} on {self.worker} failed: {causes.name(self.cause)} {self.message}".rstrip()
        )


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """The attempt ended without a verdict on the user's code: its worker was lost, or it lost a race, or moved."""

    attempt: AttemptKey
    worker: str
    cause: int
    message: str = ""

    def _text(self) -> str:
        return (
            f"{self.attempt.text} on {self.worker} ended: {causes.name(self.cause)} {self.message}".rstrip()
        )


@dataclass(frozen=True, slots=True)
class TaskIdle(Event):
    """The task waits again for a worker."""

    task: TaskKey

    def _text(self) -> str:
        return f"{self.task.text} is idle again"


@dataclass(frozen=True, slots=True)
class WorkerBarred(Event):
    """A worker gets no more tasks of this job."""

    job: str
    worker: str
    cause: int
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"{self.worker} gets no more tasks of this job: {causes.name(self.cause)}"


@dataclass(frozen=True, slots=True)
class WorkerAttached(Event):
    """A worker is known, or known anew."""

    worker: str
    incarnation: str

    def _text(self) -> str:
        return f"worker {self.worker} attached"


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """A worker was given up; what it ran and what it held is accounted for in the events that follow."""

    worker: str
    incarnation: str
    reason: str

    def _text(self) -> str:
        return f"worker {self.worker} lost: {self.reason}"


@dataclass(frozen=True, slots=True)
class WorkerStateChanged(Event):
    """An operator or the leader drained, excluded or included a worker."""

    worker: str
    state: int
    reason: str

    def _text(self) -> str:
        name = table_pb2.WorkerState.Name(self.state)  # type: ignore[arg-type]  # always one of ours
        return f"worker {self.worker} {name.removeprefix('WORKER_').lower()}" + (
            f": {self.reason}" if self.reason else ""
        )


@dataclass(frozen=True, slots=True)
class ClusterVersionSet(Event):
    """Commands of this version may be proposed from now on."""

    version: int


@dataclass(frozen=True, slots=True)
class TableRestored(Event):
    """A piece of a saved table arrived; with the last one (`done`) the table is that one."""

    done: bool
    jobs: int

    def _text(self) -> str:
        return (
            f"a saved table with {self.jobs} jobs is restored"
            if self.done
            else "a piece of a saved table arrived"
        )


@dataclass(frozen=True, slots=True)
class CleanupGivenUp(Event):
    """The staging place of a failed or cancelled job could not be removed."""

    job: str
    message: str
    significant: ClassVar[bool] = True

    def _text(self) -> str:
        return f"left-over files could not be removed: {self.message}"


def job_of(event: Event) -> str:
    """The job an event is about; "" when it is about the cluster."""
    attempt = getattr(event, "attempt", None)
    if attempt is not None:
        return str(attempt.job)
    task = getattr(event, "task", None)
    return str(task.job) if task is not None else str(getattr(event, "job", ""))


def attempt_of(event: Event) -> AttemptKey | None:
    """The attempt an event is about, if any."""
    return getattr(event, "attempt", None)


def worker_of(event: Event) -> str:
    """The worker an event is about; "" when none."""
    return str(getattr(event, "worker", ""))


def is_map(attempt: AttemptKey) -> bool:
    """Whether it is an attempt of a map."""
    return attempt.kind == job_pb2.MAP
