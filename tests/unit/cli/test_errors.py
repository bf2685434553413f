"""Errors answer whose fault, whether it may still have happened, and what to do; gRPC carries all of it."""

from __future__ import annotations

import grpc
import pytest

from mr import errors
from mr.causes import CAUSES, Cause, info
from mr.rpc import job_pb2

FAULTS = {
    "user": "USER_EXCEPTION USER_EXIT NATIVE_SIGNAL OUT_OF_MEMORY TASK_TIMEOUT TOO_MANY_BAD_RECORDS "
    "BAD_RECORD_FORMAT BAD_TYPE",
    "job": "INPUT_MISSING INPUT_CHANGED INPUT_UNREADABLE FUNCTION_NOT_FOUND JOB_FILE_ERROR OUTPUT_UNWRITABLE "
    "OUTPUT_EXISTS OUTPUT_IN_USE",
    "worker": "MODULE_NOT_FOUND PYTHON_MISMATCH PATH_NOT_SHARED",
    "request": "CAUSE_NONE CANCELLED_BY_USER JOB_DEADLINE",
}


def test_the_list_of_causes_is_that_of_the_protocol() -> None:
    assert {cause.name: cause.value for cause in Cause} == dict(job_pb2.Cause.items())


def test_every_cause_says_whose_fault_and_what_next() -> None:
    assert set(CAUSES) == set(Cause)
    assert [c.name for c in Cause if c and not CAUSES[c].next] == []


@pytest.mark.parametrize("cause", list(Cause), ids=lambda cause: cause.name)
def test_whose_fault_each_cause_is(cause: Cause) -> None:
    """T6: what is not in the table is an infrastructure loss and never counts against the user."""
    expected = next((fault for fault, names in FAULTS.items() if cause.name in names.split()), "machine")
    found = info(cause)
    assert found.fault == expected
    assert (found.user, found.fatal, found.excludes_worker, found.infrastructure) == (
        expected == "user",
        expected == "job",
        expected == "worker",
        expected == "machine",
    )


def test_a_cause_of_a_newer_release_is_nobody_elses_fault() -> None:
    assert info(999) is CAUSES[Cause.INTERNAL]


# The table of interface.md section 2.
EXIT_CODES = [
    (errors.JobFailed("x"), 1),
    (errors.Usage("x"), 2),
    (errors.Unavailable("x"), 3),
    (errors.NotLeader("b"), 3),
    (errors.CommitUnknown("x"), 3),
    (errors.NotAllowed("x"), 4),
    (errors.Rejected("x"), 5),
    (errors.NotFound("x"), 6),
    (errors.Cancelled("x"), 7),
    (errors.DeadlineExceeded("x"), 8),
    (errors.TooManySkipped("x"), 9),
    (errors.WaitTimeout("x"), 124),
]


@pytest.mark.parametrize(("error", "code"), EXIT_CODES, ids=lambda value: type(value).__name__)
def test_exit_codes(error: errors.Error, code: int) -> None:
    assert error.exit_code == code


class Failure:
    """What grpc raises, as far as we read it."""

    def __init__(
        self, code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self._parts = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._parts[2]


CARRIED = [
    errors.NotLeader("b", "h2:7070"),
    errors.NotLeader(None),
    errors.Unavailable("no majority", next="see `mr masters`"),
    errors.CommitUnknown("perhaps"),
    errors.NotAllowed("eve may not call Cancel"),
    errors.Rejected("output is in use", code="OUTPUT_IN_USE"),
    errors.Rejected("too many jobs", code="QUOTA", next="wait"),
    errors.NotFound("no job wc", next="mr jobs"),
    errors.Usage("a job has no steps"),
    errors.DeadlineExceeded("late"),
    errors.Error("a bug"),
]


@pytest.mark.parametrize("error", CARRIED, ids=lambda error: f"{type(error).__name__}-{error}")
def test_an_error_survives_the_way_over_grpc(error: errors.Error) -> None:
    status = errors.to_status(error)
    back = errors.from_rpc(Failure(status.code, status.details, status.metadata))
    assert type(back) is type(error)
    assert back.answered, "a master said so"
    assert back.__dict__ == {**error.__dict__, "answered": True}
    assert back.maybe_applied == error.maybe_applied


FROM_GRPC_ITSELF = [
    (
        "a refused connection wrote nothing",
        grpc.StatusCode.UNAVAILABLE,
        "connection refused",
        errors.Unavailable,
    ),
    (
        "nobody at any address: nothing was sent, though the attempt to connect was reset",
        grpc.StatusCode.UNAVAILABLE,
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection reset by peer",
        errors.Unavailable,
    ),
    (
        "a name that nobody knows",
        grpc.StatusCode.UNAVAILABLE,
        "DNS resolution failed for nowhere:7070",
        errors.Unavailable,
    ),
    *(
        ("a broken connection may have written", grpc.StatusCode.UNAVAILABLE, text, errors.CommitUnknown)
        for text in ("Connection reset", "Socket closed", "recvmsg:Connection reset by peer", "GOAWAY", "new")
    ),
    ("a deadline may have written", grpc.StatusCode.DEADLINE_EXCEEDED, "", errors.CommitUnknown),
    ("a cancelled call may have written", grpc.StatusCode.CANCELLED, "", errors.CommitUnknown),
    ("a crash in a handler may have written", grpc.StatusCode.UNKNOWN, "", errors.CommitUnknown),
    ("no credentials", grpc.StatusCode.UNAUTHENTICATED, "", errors.NotAllowed),
    ("an older master", grpc.StatusCode.UNIMPLEMENTED, "", errors.Rejected),
]


@pytest.mark.parametrize(
    ("promise", "code", "details", "kind"), FROM_GRPC_ITSELF, ids=lambda value: str(value)[:40]
)
def test_when_in_doubt_an_error_is_indefinite(
    promise: str, code: grpc.StatusCode, details: str, kind: type[errors.Error]
) -> None:
    assert type(errors.from_rpc(Failure(code, details))) is kind, promise


def test_a_wait_that_times_out_is_pythons_timeout_too() -> None:
    assert isinstance(errors.WaitTimeout("x"), TimeoutError)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.OUTPUT_EXISTS, errors.Rejected),
        (Cause.INPUT_MISSING, errors.Usage),
        (Cause.INPUT_UNREADABLE, errors.Usage),
    ],
)
def test_what_is_found_before_the_submit(cause: Cause, kind: type[errors.Error]) -> None:
    """Exit 5 for an output that exists, 2 for an input that is missing: nothing was submitted."""
    found = errors.before_submit(errors.TaskFailure(cause, "it is"))
    assert type(found) is kind
    assert found.next == CAUSES[cause].next
