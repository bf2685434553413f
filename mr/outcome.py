"""What a job's end means: to a program an exception, to a shell an exit code. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mr import errors
from mr.causes import Cause

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import AttemptInfo, JobStatus

OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class RemoteTraceback(Exception):
    """The traceback in the task process, as the cause of the exception raised here."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0].rstrip()}\n"""'


def state_name(status: JobStatus) -> str:
    """QUEUED, RUNNING, PUBLISHING, SUCCEEDED, FAILED, CANCELLED; UNKNOWN for a state of a newer release."""
    from mr.rpc.table_pb2 import JobState

    try:
        return JobState.Name(status.state).removeprefix("JOB_")
    except ValueError:
        return "UNKNOWN"


def is_over(status: JobStatus) -> bool:
    """Whether the job has ended."""
    return state_name(status) in OVER


def error_of(status: JobStatus) -> errors.Error | None:
    """What the end of the job is raised as; None for success and for jobs that go on. `exit_code` is in
    it."""
    match state_name(status):
        case "CANCELLED":
            return errors.Cancelled(status.reason or f"{status.id} was cancelled")
        case "FAILED":
            return _failed(status)
        case "SUCCEEDED" if status.skipped > status.spec.options.skip_bad:
            return errors.TooManySkipped(
                f"{status.id} is done, but skipped {status.skipped} records;"
                f" {status.spec.options.skip_bad} are allowed",
                next=f"the output is in {status.output}; `mr events {status.id}` names the records",
            )
    return None


def exit_code(status: JobStatus) -> int:
    """The exit code of a command that waited for this job."""
    error = error_of(status)
    return error.exit_code if error else 0


def failed_task(status: JobStatus) -> str:
    """ "m-107", or "" when no single task is to blame."""
    from mr.names import task_text

    return task_text(status.failed_task.task) if status.HasField("failed_task") else ""


def story(status: JobStatus) -> tuple[str, ...]:
    """One line for each attempt of the failed task."""
    return tuple(_line(attempt) for attempt in status.story)


def _line(attempt: AttemptInfo) -> str:
    failure = attempt.failure
    cause = Cause(failure.cause).name if failure.cause in Cause._value2member_map_ else str(failure.cause)
    why = f"  {cause}  {failure.message}" if failure.cause else ""
    return f"#{attempt.attempt.number} on {attempt.worker}  {attempt.state}{why}"


def _failed(status: JobStatus) -> errors.Error:
    failure = status.failure
    if int(failure.cause) == Cause.JOB_DEADLINE:
        text = failure.message or status.reason or f"the deadline of {status.id} has passed"
        return errors.DeadlineExceeded(text, next=errors.info(Cause.JOB_DEADLINE).next)
    error = errors.JobFailed(
        status.reason or failure.message or f"{status.id} failed",
        job=status.id,
        cause=failure.cause,
        task=failed_task(status),
        traceback=failure.traceback,
        where=failure.where,
        input=failure.input,
        story=story(status),
    )
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error
