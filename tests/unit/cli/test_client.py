"""Watching survives broken streams without losing or repeating an event; the end of a job becomes an error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import mr
from mr import errors, outcome
from mr.client import Client, Handle, connect
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2
from tests.unit.cli.fake import FakeMaster, event, job

Start = Callable[..., FakeMaster]
BREAK = errors.Unavailable("the master stops")


def client_of(*masters: FakeMaster, timeout: float = 5.0) -> Client:
    return connect([one.address for one in masters], insecure=True, timeout=timeout)


def history(entries: list[pb.JobEvent], cuts: list[int]) -> Callable[[str, Any], Any]:
    """A master whose n-th watching stream breaks after cuts[n] events; it replays what is newer than `after`."""
    sizes = itertools.chain(cuts, itertools.repeat(len(entries)))

    def script(method: str, request: Any) -> Any:
        if method == "GetJob":
            return job("RUNNING")
        newer = [entry for entry in entries if entry.index > request.after]
        size = next(sizes)
        return newer[:size] if size >= len(newer) else [*newer[:size], BREAK]

    return script


# Several events of one log entry have one index: a stream may break between them.
ENTRIES = [
    event(3, "JobAccepted"),
    event(5, "AttemptStarted"),
    event(5, "AttemptStarted"),
    event(5, "TaskCompleted"),
    event(8, "TaskCompleted"),
    event(9, "TaskCompleted"),
    event(9, "JobFinished", job("SUCCEEDED")),
]


@pytest.mark.parametrize("cuts", [[], [1], [2], [3], [4], [0, 0, 0], [1, 1, 1], [2, 3, 2], [6, 1]], ids=str)
def test_a_broken_stream_loses_and_repeats_nothing(master: Start, cuts: list[int]) -> None:
    one = master(history(ENTRIES, cuts))
    with client_of(one) as client:
        seen = list(Handle(client, "wc-7f3k2").follow())
    assert [(found.index, found.type) for found in seen] == [(entry.index, entry.type) for entry in ENTRIES]


def test_watching_goes_on_at_the_next_leader(master: Start) -> None:
    """The stream to a dead master is taken up at another one (S3-07)."""
    second = master(history(ENTRIES, []))
    first = master(lambda method, request: [*ENTRIES[:3], BREAK] if method == "Watch" else BREAK)
    broken: list[int] = []
    with client_of(first, second) as client:
        seen = list(Handle(client, "wc-7f3k2").follow(on_break=lambda: broken.append(1)))
    assert [found.index for found in seen] == [entry.index for entry in ENTRIES]
    assert broken


def test_a_wait_that_times_out_leaves_the_job_alone(master: Start) -> None:
    one = master(lambda method, request: job("RUNNING") if method == "GetJob" else iter_slowly())
    with client_of(one) as client, pytest.raises(TimeoutError, match="goes on"):
        Handle(client, "wc-7f3k2").wait(timeout=0.3)
    assert one.asked("Cancel") == []


def iter_slowly() -> Any:
    import time

    for _ in range(100):
        time.sleep(0.1)
        yield pb.JobEvent(type="Progress", status=job("RUNNING"))


def failed(cause: int) -> pb.JobStatus:
    status = job("FAILED", reason="m-7 failed 4 times: USER_EXCEPTION")
    status.failure.cause = cause  # type: ignore[assignment]  # a Cause by its number
    status.failure.message = "ValueError: x"
    status.failure.traceback = "Traceback (most recent call last):\n  int('x')\nValueError: x\n"
    status.failed_task.task.CopyFrom(job_pb2.TaskId(job=status.id, kind=job_pb2.MAP, index=7))
    return status


def skipped(count: int, allowed: int) -> pb.JobStatus:
    status = job("SUCCEEDED", skipped=count)
    status.spec.options.skip_bad = allowed
    return status


ENDS = [
    (job("SUCCEEDED"), None, 0),
    (job("RUNNING"), None, 0),
    (failed(mr.Cause.USER_EXCEPTION), mr.JobFailed, 1),
    (job("CANCELLED", reason="enough"), mr.Cancelled, 7),
    (failed(mr.Cause.JOB_DEADLINE), mr.DeadlineExceeded, 8),
    (skipped(3, 10), None, 0),
    (skipped(11, 10), mr.TooManySkipped, 9),
]


@pytest.mark.parametrize(("status", "kind", "code"), ENDS, ids=[f"{row[2]}-{row[1]}" for row in ENDS])
def test_how_a_job_ended(status: pb.JobStatus, kind: type[mr.Error] | None, code: int) -> None:
    """The exit codes of interface.md, from the job's last state."""
    error = outcome.error_of(status)
    assert (type(error) if error else None, outcome.exit_code(status)) == (kind, code)


def test_a_failed_job_raises_with_the_users_own_traceback(master: Start) -> None:
    status = failed(mr.Cause.USER_EXCEPTION)
    one = master(lambda method, request: status if method == "GetJob" else [event(9, "JobFinished", status)])
    with client_of(one) as client, pytest.raises(mr.JobFailed) as raised:
        client.attach("wc").wait()
    assert (raised.value.cause, raised.value.task) == (mr.Cause.USER_EXCEPTION, "m-7")
    assert "int('x')" in raised.value.traceback
    assert "int('x')" in str(raised.value.__cause__)


def test_a_prefix_of_several_names_them(master: Start) -> None:
    found = [job("RUNNING", id="wc-1"), job("FAILED", id="wc-2")]
    one = master(
        lambda method, request: pb.JobList(jobs=found) if method == "ListJobs" else errors.NotFound("no")
    )
    with client_of(one) as client, pytest.raises(mr.NotFound, match="wc-1, wc-2"):
        client.attach("wc")


def test_closing_cancels_nothing_unless_asked(master: Start) -> None:
    """interface.md section 4: handles are ids, not ownership."""
    one = master(lambda method, request: job("RUNNING") if method == "GetJob" else pb.CancelReply())
    with client_of(one) as client:
        client.attach("wc")
    assert one.asked("Cancel") == []
    with client_of(one) as client:
        client._owned.append(client.attach("wc"))
    assert [request.reason for request in one.asked("Cancel")] == ["its client has ended"]


def test_a_job_of_the_prompt_has_no_file_to_send() -> None:
    from mr.client import job_file

    with pytest.raises(mr.Usage, match="define it in one"):
        job_file(type("Nowhere", (), {"file": "<stdin>"})())


def test_a_notebook_shows_the_job_escaped() -> None:
    from mr.notebook import html

    status = failed(mr.Cause.USER_EXCEPTION)
    status.reason = "<script>alert(1)</script>"
    status.steps.add().map.total = 4
    shown = html(status)
    assert "<script>" not in shown
    assert '<progress max="4" value="0">' in shown
