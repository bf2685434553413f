"""Finds a record again by its number: what a dead task process had in hand, as a user can look it up (P-07)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mr import formats, position
from mr.failures import short_repr
from mr.formats import Batch
from mr.rpc import job_pb2 as pb
from mr.rpc import task_pb2


def batches(request: task_pb2.RunAttempt) -> Iterator[Batch]:
    """The records of a map: of step 0's split, or of one output of the step before. Raises InputError."""
    if request.HasField("source_file"):
        path = Path(request.spec.staging, "attempts", request.source_file.name)
        size = path.stat()
        piece = pb.Piece(path=str(path), end=size.st_size, size=size.st_size, mtime_ns=size.st_mtime_ns)
        return formats.input_format("pairs").read(pb.Split(pieces=[piece], bytes=size.st_size))
    chosen = request.spec.input
    return formats.input_format(chosen.format, dict(chosen.options)).read(request.split)


def place(batch: Batch, at: int, number: int) -> tuple[str, str]:
    """("/data/07.txt byte 88213 (record 1203)", repr of the record)."""
    return f"{batch.path} byte {batch.offset(at)} (record {number})", short_repr(batch.values[at])


def locate(request: task_pb2.RunAttempt, number: int) -> tuple[str, str]:
    """(where, repr) of record `number` of an attempt; of a reduce, which group it was. Never raises."""
    if request.attempt.task.kind != pb.MAP:
        return f"partition {request.attempt.task.index} (group {number})", ""
    seen = 0
    try:
        for batch in batches(request):
            if number <= seen + len(batch.values):
                return place(batch, number - seen - 1, number)
            seen += len(batch.values)
    except Exception:  # the input may be what killed the process
        return f"record {number}", ""
    return f"record {number}", ""


def at_record(failure: pb.Failure, request: task_pb2.RunAttempt) -> pb.Failure:
    """The same failure, naming the record that the dead process had in hand, if it had one (P-07)."""
    at = position.read(Path(request.attempt_dir))
    if at is not None and at.record:
        failure.record_number = at.record
        failure.input, failure.record = locate(request, at.record)
    return failure
