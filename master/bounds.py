"""How large what a worker reports may be: it travels in a log entry that every master keeps. Pure.

User code chooses the names of counters and the text of exceptions, so a report may have any size. One that is too
large to commit would be sent again for ever; it becomes a failure of the attempt that says why.
"""

from __future__ import annotations

from google.protobuf.message import Message

from mr.rpc import job_pb2
from mr.rpc import session_pb2 as pb

REPORT_BYTES = 256 << 10
LABELS = 64
_TEXT = 8 << 10


def bounded(event: pb.WorkerEvent) -> pb.WorkerEvent:
    """The event, or what stands for it if it is too large for the log."""
    kind = event.WhichOneof("kind")
    if kind == "heartbeat" or event.ByteSize() <= _TEXT:  # a heartbeat never reaches the log
        return event
    if kind == "completed":
        return event if event.ByteSize() <= REPORT_BYTES else _too_large(event)
    short = pb.WorkerEvent()
    short.CopyFrom(event)
    match kind:
        case "failed":
            for name in ("message", "traceback", "where", "input", "record"):
                _cut(short.failed.failure, name)
        case "fetch_failed":
            _cut(short.fetch_failed, "message")
        case "output_lost":
            _cut(short.output_lost, "message")
        case "drain":
            _cut(short.drain, "reason")
    return short


def why_too_large(attach: pb.Attach) -> str:
    """Why a worker with this much to say about itself is not let in; "" for a reasonable one."""
    texts = (
        attach.worker,
        attach.incarnation,
        attach.address,
        attach.host,
        attach.version,
        attach.python,
        attach.isolation,
    )
    if len(attach.labels) > LABELS or any(len(text) > 255 for text in (*texts, *attach.labels)):
        return f"a worker has at most {LABELS} labels, and no name of it is longer than 255 characters"
    return ""


def _too_large(event: pb.WorkerEvent) -> pb.WorkerEvent:
    failure = job_pb2.Failure(
        cause=job_pb2.USER_EXCEPTION,
        message=f"the counters and skipped records of this attempt take {event.ByteSize() >> 10} KiB;"
        f" {REPORT_BYTES >> 10} KiB is the most: use fewer or shorter counter names",
    )
    return pb.WorkerEvent(failed=pb.Failed(attempt=event.completed.attempt, failure=failure))


def _cut(message: Message, name: str) -> None:
    setattr(message, name, getattr(message, name)[:_TEXT])
