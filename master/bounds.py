"""How large what a worker reports may be: it travels in a log entry that every master keeps. Pure.

User code chooses the names of counters and the text of exceptions, so a report may have any size. One that is too
large to commit would be sent again for ever; it becomes a failure of the attempt that says why.
"""

from __future__ import annotations

from mr.rpc import job_pb2
from mr.rpc import session_pb2 as pb

REPORT_BYTES = 256 << 10
_TEXT = 8 << 10


def bounded(event: pb.WorkerEvent) -> pb.WorkerEvent:
    """The event, or what stands for it if it is too large for the log."""
    if event.ByteSize() <= REPORT_BYTES:
        return event
    if event.HasField("completed"):
        failure = job_pb2.Failure(
            cause=job_pb2.USER_EXCEPTION,
            message=f"the counters and skipped records of this attempt take {event.ByteSize() >> 10} KiB;"
            f" {REPORT_BYTES >> 10} KiB is the most: use fewer or shorter counter names",
        )
        return pb.WorkerEvent(failed=pb.Failed(attempt=event.completed.attempt, failure=failure))
    if event.HasField("failed"):
        short = job_pb2.Failure()
        short.CopyFrom(event.failed.failure)
        for name in ("message", "traceback", "where", "input", "record"):
            setattr(short, name, getattr(short, name)[:_TEXT])
        return pb.WorkerEvent(failed=pb.Failed(attempt=event.failed.attempt, failure=short))
    return event
