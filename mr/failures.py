"""Exceptions become Failures: one cause of the closed list, the user's own frames, the place in the data.

Whose fault it is follows from where it was raised: an exception with a frame of user code in its traceback is
the user's, one raised by our own files on our own account is the machine's.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from pathlib import Path

from mr.errors import Cause, TaskFailure
from mr.loader import MissingModule, describe_exception, user_frames, user_traceback
from mr.registry import Function, JobFileError
from mr.rpc import job_pb2 as pb
from mr.shuffle.merge import CorruptData

RECORD_LIMIT = 200


class AttemptFailed(Exception):
    """An attempt ended with `failure`; the exception behind it is `__cause__`."""

    def __init__(self, failure: pb.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def short_repr(value: object, limit: int = RECORD_LIMIT) -> str:
    """repr of at most `limit` characters, also of huge values and of those whose repr raises."""
    try:
        if isinstance(value, str | bytes) and len(value) > limit:
            value = value[:limit]
            return repr(value)[: limit - 1] + "…"
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def failure_of(
    error: BaseException,
    *,
    folder: Path | None,
    function: Function | None = None,
    functions: Sequence[Function] = (),
    input: str = "",
    record: str = "",
    record_number: int = 0,
) -> pb.Failure:
    """The Failure for an exception that ended an attempt.

    `folder` is where the user's code lies, `function` what was being called, `functions` whatever may have been
    called instead (a combiner), `input`, `record` and its number say what was in hand.
    """
    frames = list(user_frames(error.__traceback__))
    cause = cause_of(error, has_user_frames=bool(frames))
    where = ""
    for frame, line in frames:
        if folder is None or frame.f_code.co_filename.startswith(f"{folder}{os.sep}"):
            where = f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
    if not where and function is not None and cause in (Cause.BAD_TYPE, Cause.USER_EXCEPTION):
        where = f"{function.place} in {function.call.__name__}"
    called = next((f for f in functions if any(frame.f_code is _code(f) for frame, _ in frames)), function)
    in_combiner = called is not None and called.kind == "combiner"
    failure = pb.Failure(
        cause=int(cause),  # type: ignore[arg-type]  # the numbers of our enum are the protocol's
        message=describe_failure(error),
        traceback=user_traceback(error, folder) if frames else "",
        where=where,
        input=", ".join(filter(None, ("combiner" if in_combiner else "", input))),
        record=record,
        record_number=record_number,
        peak_memory=peak_memory(),
    )
    if isinstance(error, CorruptData):
        failure.fetch_source.task.kind = pb.MAP
        failure.fetch_source.task.index = error.map
        failure.fetch_source.number = error.attempt
    if isinstance(error, TaskFailure):
        failure.where = error.where or failure.where
        failure.input = error.input or failure.input
        failure.record = error.record or failure.record
    return failure


def _code(function: Function) -> object:
    return getattr(function.call, "__code__", None)


def cause_of(error: BaseException, *, has_user_frames: bool) -> Cause:
    """The one cause of an exception."""
    named = getattr(error, "cause", None)
    if isinstance(named, Cause):
        return named
    match error:
        case SystemExit():
            return Cause.USER_EXIT
        case MemoryError():
            return Cause.OUT_OF_MEMORY
        case ModuleNotFoundError() | MissingModule():
            return Cause.MODULE_NOT_FOUND
        case JobFileError():
            return Cause.JOB_FILE_ERROR
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Cause.DISK_FULL
        case _ if has_user_frames:
            return Cause.USER_EXCEPTION
        case OSError():
            return Cause.DISK_ERROR
        case _:
            return Cause.INTERNAL


def load_failure(error: JobFileError) -> pb.Failure:
    """The Failure of code that a worker could not load, though the client could."""
    missing = isinstance(error, MissingModule)
    return pb.Failure(
        cause=pb.MODULE_NOT_FOUND if missing else pb.JOB_FILE_ERROR,
        message=error.plain,
        traceback=error.traceback,
        where=error.where,
        peak_memory=peak_memory(),
    )


def peak_memory() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe_failure(error: BaseException) -> str:
    """One line about an exception, ours or the user's."""
    return error.message if isinstance(error, TaskFailure) else describe_exception(error)
