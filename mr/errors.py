"""The tree of errors, the closed list of causes, and their way over gRPC and back.

An error answers three questions: whose fault is it (its class), may the request still take effect
(`maybe_applied`), and what should the reader do now (`next`). Every class has one process exit code, the
same in `mr run` and `mr submit`. This file imports nothing heavy: grpc and protobuf are imported by the
two functions that need them. Causes of failed attempts are in mr/causes.py and known here too.

    Error
      Usage               2    bad usage, bad job file, bad configuration; nothing was submitted
      NotLeader           3    definite: nothing was written; `leader` says whom to ask. Clients follow it
      Unavailable         3    definite: nothing was written; no leader, or no master answers
      CommitUnknown       3    INDEFINITE: it may yet be applied; retry under the same request id
      NotAllowed          4    not authenticated, or not permitted
      Rejected            5    definite: the task table, or a check before it, said no
      NotFound            6    no such job, task or worker, or a prefix of several
      JobFailed           1    the job ended FAILED; has cause, task, traceback and the attempts
      Cancelled           7    the job ended CANCELLED
      DeadlineExceeded    8    the job's own deadline passed
      TooManySkipped      9    the job is done, but skipped more records than allowed
      WaitTimeout       124    our patience ended; the job goes on. Also a TimeoutError
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mr.causes import CAUSES, Cause, CauseInfo, info

if TYPE_CHECKING:
    import grpc


__all__ = [
    "CAUSES",
    "Cancelled",
    "Cause",
    "CauseInfo",
    "CommitUnknown",
    "DeadlineExceeded",
    "Error",
    "JobFailed",
    "NotAllowed",
    "NotFound",
    "NotLeader",
    "Rejected",
    "Status",
    "TaskFailure",
    "TooManySkipped",
    "Unavailable",
    "Usage",
    "WaitTimeout",
    "before_submit",
    "from_rpc",
    "info",
    "to_status",
]


class Error(Exception):
    """Base of everything `mr` raises on purpose. `str(error)` is one clear line; `next` says what to do."""

    exit_code = 1
    maybe_applied = False
    answered = False  # a master said so, not the connection to it

    def __init__(self, message: str, *, next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        if next:
            self.add_note(next)  # seen in tracebacks too


class Usage(Error):
    """Bad usage, job file or configuration. Nothing was submitted."""

    exit_code = 2


class NotLeader(Error):
    """Definite: nothing was written. `leader` is the id to ask, `address` where it listens."""

    exit_code = 3

    def __init__(self, leader: str | None = None, address: str | None = None, *, message: str = "") -> None:
        known = f"not the leader; ask {leader}" if leader else "not the leader, and none is known"
        super().__init__(message or known)
        self.leader = leader
        self.address = address


class Unavailable(Error):
    """Definite: nothing was written. No leader with a majority, a full queue, or no master answers."""

    exit_code = 3


class CommitUnknown(Error):
    """Indefinite: the request may yet be applied. Retry it under the same request id."""

    exit_code = 3
    maybe_applied = True


class NotAllowed(Error):
    """Not authenticated, or not permitted."""

    exit_code = 4


class Rejected(Error):
    """Definite: refused. `code` names a `Cause`, or is QUOTA, DUPLICATE_ID or CANNOT_PLACE."""

    exit_code = 5

    def __init__(self, message: str, *, code: str = "", next: str = "") -> None:
        super().__init__(
            message, next=next or (CAUSES[Cause[code]].next if code in Cause.__members__ else "")
        )
        self.code = code


class NotFound(Error):
    """No such job, task, worker or blob, or an id prefix that fits several."""

    exit_code = 6


class JobFailed(Error):
    """The job ended FAILED.

    `cause` says why (a `Cause`), `task` which task ("m-107"), `traceback` holds the user's own frames as
    text, `where` and `input` the place in the code and in the data, `story` one line for each attempt.
    """

    def __init__(
        self,
        message: str,
        *,
        job: str = "",
        cause: int = 0,
        task: str = "",
        traceback: str = "",
        where: str = "",
        input: str = "",
        story: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, next=info(cause).next)
        self.job = job
        self.cause = Cause(cause) if cause in Cause._value2member_map_ else Cause.INTERNAL
        self.task = task
        self.traceback = traceback
        self.where = where
        self.input = input
        self.story = story


class Cancelled(Error):
    """The job ended CANCELLED."""

    exit_code = 7


class DeadlineExceeded(Error):
    """The job's own deadline passed; it ended FAILED with the cause JOB_DEADLINE."""

    exit_code = 8


class TooManySkipped(Error):
    """The job is done and its output is there, but more records were skipped than allowed."""

    exit_code = 9


class WaitTimeout(Error, TimeoutError):
    """Waiting ended, the job did not: it goes on."""

    exit_code = 124


class TaskFailure(Exception):
    """Inside a task process: an attempt failed for a cause of the list. Becomes its `Failure`."""

    def __init__(
        self, cause: int, message: str, *, where: str = "", input: str = "", record: str = ""
    ) -> None:
        super().__init__(message)
        self.cause = Cause(cause)
        self.message = message
        self.where = where
        self.input = input
        self.record = record


def before_submit(failure: TaskFailure) -> Error:
    """What a failure is when it is found before anything was submitted: Rejected for outputs, else Usage."""
    if failure.cause.name.startswith("OUTPUT_"):
        return Rejected(failure.message, code=failure.cause.name)
    return Usage(failure.message, next=info(failure.cause).next)


DETAIL_KEY = "mr-error-bin"

# Class -> name of the gRPC status code; the enum is looked up where grpc is imported.
_STATUS: Mapping[type[Error], str] = {
    Usage: "INVALID_ARGUMENT",
    NotLeader: "FAILED_PRECONDITION",
    Unavailable: "UNAVAILABLE",
    CommitUnknown: "UNKNOWN",
    NotAllowed: "PERMISSION_DENIED",
    Rejected: "ABORTED",
    NotFound: "NOT_FOUND",
    DeadlineExceeded: "DEADLINE_EXCEEDED",
}
# How gRPC begins when it had no connection on which to send a call; anything else may have been sent.
_NEVER_SENT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "connection refused",
    "dns resolution failed",
    "errors resolving",
    "empty address list",
)
_BY_NAME: Mapping[str, type[Error]] = {kind.__name__: kind for kind in _STATUS}


@dataclass(frozen=True, slots=True)
class Status:
    """An error as gRPC carries it: `await context.abort(s.code, s.details, s.metadata)`."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, bytes], ...]


def to_status(error: Error) -> Status:
    """The gRPC status of `error`, with everything a client needs in the trailing metadata."""
    import grpc

    from mr.rpc.cluster_pb2 import ErrorDetail

    kind = next((k for k in type(error).__mro__ if k in _STATUS), None)
    detail = ErrorDetail(
        kind=kind.__name__ if kind else "Error",
        message=error.message,
        next=error.next,
        maybe_applied=error.maybe_applied,
        code=error.code if isinstance(error, Rejected) else "",
    )
    if isinstance(error, NotLeader):
        detail.leader = error.leader or ""
        detail.leader_address = error.address or ""
    code = grpc.StatusCode[_STATUS[kind]] if kind else grpc.StatusCode.INTERNAL
    return Status(code, error.message, ((DETAIL_KEY, detail.SerializeToString()),))


def from_rpc(failure: Any) -> Error:
    """The error that a failed call (`grpc.RpcError`, sync or aio) stands for.

    Without our details it came from gRPC itself. Then only a connection that never opened is definite (`_NEVER_SENT`):
    a broken stream ("Socket closed", a reset, or whatever the next release calls it), a cancelled call or a deadline
    may have left the request in some log.
    """
    from mr.rpc.cluster_pb2 import ErrorDetail

    for key, value in failure.trailing_metadata() or ():
        if key == DETAIL_KEY:
            said = _from_detail(ErrorDetail.FromString(value))
            said.answered = True
            return said
    text = str(failure.details() or failure.code())
    match failure.code().name:
        case "UNAVAILABLE":
            return Unavailable(text) if text.lower().startswith(_NEVER_SENT) else CommitUnknown(text)
        case "UNAUTHENTICATED" | "PERMISSION_DENIED":
            return NotAllowed(text)
        case "NOT_FOUND":
            return NotFound(text)
        case "INVALID_ARGUMENT":
            return Usage(text)
        case "UNIMPLEMENTED":
            return Rejected(
                f"the master does not know this call: {text}", next="run masters and clients of one version"
            )
        case "RESOURCE_EXHAUSTED":
            return Rejected(text, code="QUOTA")
        case _:
            return CommitUnknown(text)


def _from_detail(detail: Any) -> Error:
    kind = _BY_NAME.get(detail.kind)
    if kind is NotLeader:
        return NotLeader(detail.leader or None, detail.leader_address or None, message=detail.message)
    if kind is Rejected:
        return Rejected(detail.message, code=detail.code, next=detail.next)
    if kind is None:
        return (
            CommitUnknown(detail.message) if detail.maybe_applied else Error(detail.message, next=detail.next)
        )
    return kind(detail.message, next=detail.next)
