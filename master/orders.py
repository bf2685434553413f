"""The orders that follow from committed entries, as messages. Pure; each says the log index that it follows from."""

from __future__ import annotations

from collections.abc import Iterator

from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey
from master.jobs import Job
from mr.rpc import job_pb2, session_pb2
from mr.rpc.session_pb2 import Order


def assign(
    job: Job, key: AttemptKey, index: int, *, split: job_pb2.Split | None, with_spec: bool, deadline_ms: int
) -> Order:
    """Run this attempt."""
    order = session_pb2.Assign(
        attempt=key.proto(), deadline_ms=deadline_ms, skip=job.deadly_records(key.task)
    )
    if with_spec:
        order.spec.CopyFrom(job.spec)
    if key.kind == MAP and key.step == 0:
        assert split is not None, "a map of the first step has a split"
        order.split.CopyFrom(split)
    elif key.kind == MAP:
        order.source_file.ParseFromString(_source(job, key.step - 1, key.index))
    elif key.kind == REDUCE:
        order.maps = job.steps[key.step].maps.count
    elif key.kind == COMMIT:
        order.files.extend(_published(job))
        for name, value in sorted(job.counters.items()):
            order.counters[name] = value
    else:
        assert key.kind == CLEANUP, "no such kind is ever planned"
    return Order(index=index, assign=order)


def _published(job: Job) -> Iterator[job_pb2.OutputFile]:
    """The files of the last tasks of the last step, and the side files of all winners (P-06)."""
    last = job.steps[-1]
    final = last.reduces if last.reduces.count else last.maps
    yield from map(job_pb2.OutputFile.FromString, final.files)
    for step in job.steps:
        for tasks in (step.maps, step.reduces):
            for data in tasks.files if tasks is not final else ():
                if data and (sides := job_pb2.OutputFile.FromString(data).side_files):
                    yield job_pb2.OutputFile(side_files=sides)


def _source(job: Job, step: int, index: int) -> bytes:
    before = job.steps[step]
    return before.reduces.files[index] if before.reduces.count else before.maps.files[index]


def cancel(key: AttemptKey, index: int, reason: str) -> Order:
    """Kill the attempt, if it runs, and drop what it made."""
    return Order(index=index, cancel=session_pb2.CancelAttempt(attempt=key.proto(), reason=reason))


def settled(key: AttemptKey, index: int, *, accepted: bool, reason: str = "") -> Order:
    """The report is in the log, one way or the other; say it no more."""
    return Order(
        index=index, settled=session_pb2.Settled(attempt=key.proto(), accepted=accepted, reason=reason)
    )


def forget(job: str, index: int) -> Order:
    """The job has ended: drop its scratch, outputs and processes."""
    return Order(index=index, forget=session_pb2.ForgetJob(job=job))


def discard(key: AttemptKey, index: int) -> Order:
    """Nobody needs this map output any more."""
    return Order(index=index, discard=session_pb2.DiscardOutput(attempt=key.proto()))


def refuse(reason: str, code: str) -> Order:
    """Do not come back like this."""
    return Order(refuse=session_pb2.Refuse(reason=reason, code=code))


def outputs(job: Job, step: int, start: int, stop: int, addresses: dict[str, str], index: int) -> Order:
    """Where the map outputs of a step lie: the positions start..stop-1 of its log."""
    message = session_pb2.MapOutputs(job=job.id, step=step, from_sequence=start)
    for map_index, attempt, life, lost in job.steps[step].log.read(start, stop):
        worker = job.worker_of(life)
        message.outputs.add(
            map=map_index, attempt=attempt, worker=worker, address=addresses.get(worker, ""), lost=lost
        )
    return Order(index=index, outputs=message)
