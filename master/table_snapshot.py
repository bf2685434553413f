"""The table as bytes and back: `freeze` copies now, serialises later; `thaw` rebuilds, derived indexes too.

Deterministic: equal tables give equal bytes, whatever path led to them (C6, C7). Columns are little-endian.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from master.columns import Live, OutputsLog, Tasks
from master.ids import AttemptKey, TaskKey
from master.jobs import EndedAttempt, Job, Step
from master.workers import Worker
from mr.rpc import job_pb2, table_pb2

if TYPE_CHECKING:
    from master.task_table import TaskTable

FORMAT = 1


def freeze(table: TaskTable) -> Callable[[], bytes]:
    """Copies the table; what it returns serialises the copy and may run on another thread, once."""
    head = table_pb2.TableSnapshot(
        format=FORMAT,
        index=table.index,
        term=table.term,
        leader=table.leader,
        now_ms=table.now_ms,
        uptime_ms=table.uptime_ms,
        cluster_version=table.cluster_version,
        term_clock_ms=table.term_clock_ms,
        jobs_seen=table.jobs_seen,
    )
    jobs = [_FrozenJob(job) for job in table.jobs.values()]
    workers = [_freeze_worker(worker) for _, worker in sorted(table.workers.items())]
    requests = list(table.requests.items())
    ended_jobs = list(table.ended.values())

    def serialise() -> bytes:
        head.jobs.extend(job.proto() for job in jobs)
        head.workers.extend(workers)
        head.ended.extend(ended_jobs)
        for request_id, (what, subject) in requests:
            head.requests.add(request_id=request_id, what=what, subject=subject)
        return head.SerializeToString(deterministic=True)

    return serialise


def thaw(table: TaskTable, data: bytes) -> None:
    """Fills an empty table from what `freeze` gave. ValueError if it is of another format."""
    head = table_pb2.TableSnapshot.FromString(data)
    if head.format != FORMAT:
        raise ValueError(f"a snapshot of format {head.format}; this release reads format {FORMAT}")
    table.index, table.term, table.leader = head.index, head.term, head.leader
    table.now_ms, table.uptime_ms, table.term_clock_ms = head.now_ms, head.uptime_ms, head.term_clock_ms
    table.cluster_version, table.jobs_seen = head.cluster_version, head.jobs_seen
    for kept in head.workers:
        table.workers[kept.attach.worker] = _thaw_worker(kept)
    for request in head.requests:
        table.requests[request.request_id] = (request.what, request.subject)
    for over in head.ended:
        record = table_pb2.EndedJob()
        record.CopyFrom(over)
        table.ended[record.id] = record
    for packed in head.jobs:
        job = _thaw_job(packed)
        table.jobs[job.id] = job
        if not job.terminal:
            table.live[job.id] = job
            table.outputs[job.spec.output.path] = job.id
            if job.request_id:
                table.live_requests[job.request_id] = job.id
        _list_running(table, job)


def ended(job: Job) -> table_pb2.EndedJob:
    """What is kept of a job that is forgotten."""
    return table_pb2.EndedJob(
        id=job.id,
        name=job.spec.name,
        state=job.state,  # type: ignore[arg-type]  # an open enum
        owner=job.owner,
        submitted_ms=job.submitted_ms,
        started_ms=job.started_ms,
        ended_ms=job.ended_ms,
        reason=job.reason,
        attempts=job.attempts,
        reruns=job.reruns,
        counters=dict(sorted(job.counters.items())[:100]),
        output=job.spec.output.path,
        manifest_digest=job.manifest_digest,
        leader_changes=job.leader_changes,
        queue=job.spec.options.queue,
    )


class _FrozenJob:
    """A copy of one job: columns by memory copy, the rest by small messages."""

    def __init__(self, job: Job) -> None:
        self.head = table_pb2.JobSnapshot(
            state=job.state,  # type: ignore[arg-type]  # an open enum
            reason=job.reason,
            owner=job.owner,
            request_id=job.request_id,
            index=job.index,
            order=job.order,
            submitted_ms=job.submitted_ms,
            started_ms=job.started_ms,
            ended_ms=job.ended_ms,
            submitted_uptime_ms=job.submitted_uptime_ms,
            step=job.step,
            counters=job.counters,
            reruns=job.reruns,
            attempts=job.attempts,
            leader_changes=job.leader_changes,
            manifest_digest=job.manifest_digest,
            failure=job.failure,
            failed_task=job.failed_task,
            excluded={worker: str(cause) for worker, cause in job.excluded.items()},
            cleanup_given_up=job.cleanup_given_up,
        )
        self.spec = job.spec
        self.lives = job.lives[1:]
        self.counter_names = list(job.counter_names)
        self.failures = list(job.failures.items())
        self.history = list(job.history)
        self.steps = [_FrozenStep(step) for step in job.steps]
        self.commit, self.cleanup = job.commit.copy(), job.cleanup.copy()

    def proto(self) -> table_pb2.JobSnapshot:
        head = self.head
        head.spec.CopyFrom(self.spec)
        head.life_workers.extend(worker for worker, _ in self.lives)
        head.life_incarnations.extend(incarnation for _, incarnation in self.lives)
        head.counter_names.extend(self.counter_names)
        head.history.extend(self.history)
        for task, story in self.failures:
            for e in story:
                head.failures.add(
                    attempt=AttemptKey(*task, e.number).proto(),
                    worker=e.worker,
                    started_ms=e.started_ms,
                    ended_ms=e.ended_ms,
                    failure=e.failure,
                    state=e.state,
                )
        head.steps.extend(step.proto() for step in self.steps)
        head.commit.CopyFrom(_pack_tasks(self.commit))
        head.cleanup.CopyFrom(_pack_tasks(self.cleanup))
        return head


class _FrozenStep:
    def __init__(self, step: Step) -> None:
        self.maps, self.reduces, self.log = step.maps.copy(), step.reduces.copy(), step.log.copy()
        self.bytes, self.records = step.partition_bytes[:], step.partition_records[:]
        self.counted, self.bytes_done = bytes(step.counted), step.bytes_done

    def proto(self) -> table_pb2.StepSnapshot:
        return table_pb2.StepSnapshot(
            maps=_pack_tasks(self.maps),
            reduces=_pack_tasks(self.reduces),
            log_map=_little(self.log.maps),
            log_attempt=_little(self.log.attempts),
            log_life=_little(self.log.lives),
            partition_bytes=_little(self.bytes),
            partition_records=_little(self.records),
            counted=self.counted,
            bytes_done=self.bytes_done,
        )


def _pack_tasks(tasks: Tasks) -> table_pb2.TasksSnapshot:
    packed = table_pb2.TasksSnapshot(
        count=tasks.count,
        states=bytes(tasks.states),
        next_attempt=_little(tasks.next_attempt),
        winner_attempt=_little(tasks.winner_attempt),
        winner_life=_little(tasks.winner_life),
        user_failures=_little(tasks.user_failures),
        other_failures=_little(tasks.other_failures),
        failed_attempts=tasks.failed_attempts,
        backups=tasks.backups,
    )
    packed.file_lengths, packed.files = _join(tasks.files)
    packed.counter_lengths, packed.counters = _join(tasks.counters)
    for index in sorted(tasks.live):
        for live in tasks.live[index]:
            packed.live.add(
                task=index,
                number=live.number,
                life=live.life,
                backup=live.backup,
                index=live.index,
                started_ms=live.started_ms,
            )
    return packed


def _thaw_tasks(packed: table_pb2.TasksSnapshot) -> Tasks:
    tasks = Tasks(packed.count)
    tasks.states = bytearray(packed.states)
    tasks.next_attempt = _column("I", packed.next_attempt)
    tasks.winner_attempt = _column("I", packed.winner_attempt)
    tasks.winner_life = _column("I", packed.winner_life)
    tasks.user_failures = _column("H", packed.user_failures)
    tasks.other_failures = _column("H", packed.other_failures)
    tasks.failed_attempts, tasks.backups = packed.failed_attempts, packed.backups
    tasks.files = _split(packed.file_lengths, packed.files)
    tasks.counters = _split(packed.counter_lengths, packed.counters)
    for kept in packed.live:
        live = Live(kept.number, kept.life, kept.backup, kept.index, kept.started_ms)
        tasks.live[kept.task] = (*tasks.live.get(kept.task, ()), live)
    tasks.derive()
    return tasks


def _thaw_job(packed: table_pb2.JobSnapshot) -> Job:
    spec = job_pb2.JobSpec()
    spec.CopyFrom(packed.spec)
    job = Job(spec, owner=packed.owner, request_id=packed.request_id, index=packed.index, order=packed.order)
    job.state, job.reason, job.step = packed.state, packed.reason, packed.step
    job.submitted_ms, job.started_ms, job.ended_ms = packed.submitted_ms, packed.started_ms, packed.ended_ms
    job.submitted_uptime_ms = packed.submitted_uptime_ms
    job.attempts, job.leader_changes = packed.attempts, packed.leader_changes
    job.manifest_digest, job.cleanup_given_up = packed.manifest_digest, packed.cleanup_given_up
    job.counters, job.reruns = dict(packed.counters), dict(packed.reruns)
    job.excluded = {worker: int(cause) for worker, cause in packed.excluded.items()}
    if packed.HasField("failure"):
        job.failure = job_pb2.Failure.FromString(packed.failure.SerializeToString())
    if packed.HasField("failed_task"):
        job.failed_task = job_pb2.AttemptId.FromString(packed.failed_task.SerializeToString())
    for life in zip(packed.life_workers, packed.life_incarnations, strict=True):
        job.life(*life)
    job.counter_names = list(packed.counter_names)
    job.counter_ids = {name: number for number, name in enumerate(job.counter_names)}
    job.history.extend(packed.history)
    for record in packed.failures:
        at = record.attempt.task
        task = TaskKey(at.job, at.step, at.kind, at.index)
        told = EndedAttempt(
            record.attempt.number,
            record.worker,
            record.started_ms,
            record.ended_ms,
            record.failure,
            record.state,
        )
        job.failures[task] = (*job.failures.get(task, ()), told)
    job.steps = [_thaw_step(step) for step in packed.steps]
    job.commit, job.cleanup = _thaw_tasks(packed.commit), _thaw_tasks(packed.cleanup)
    return job


def _thaw_step(packed: table_pb2.StepSnapshot) -> Step:
    step = Step(0, 0)
    step.maps, step.reduces = _thaw_tasks(packed.maps), _thaw_tasks(packed.reduces)
    log = step.log = OutputsLog()
    log.maps, log.attempts = _column("I", packed.log_map), _column("I", packed.log_attempt)
    log.lives = _column("I", packed.log_life)
    step.partition_bytes = _column("Q", packed.partition_bytes)
    step.partition_records = _column("Q", packed.partition_records)
    step.counted, step.bytes_done = bytearray(packed.counted), packed.bytes_done
    step.derive()
    return step


def _list_running(table: TaskTable, job: Job) -> None:
    for step, kind, tasks in job.all_tasks():
        for index, attempts in tasks.live.items():
            for live in attempts:
                job.running += 1
                name, incarnation = job.lives[live.life]
                worker = table.workers.get(name)
                if worker is not None and worker.incarnation == incarnation:
                    worker.running.add(AttemptKey(job.id, step, kind, index, live.number))


def _freeze_worker(worker: Worker) -> table_pb2.WorkerSnapshot:
    return table_pb2.WorkerSnapshot(
        attach=worker.attach,
        state=worker.state,  # type: ignore[arg-type]  # an open enum
        reason=worker.reason,
        attached_ms=worker.attached_ms,
        lost_ms=worker.lost_ms,
        excluded=worker.excluded,
        excluded_reason=worker.excluded_reason,
        excluded_until_ms=worker.excluded_until_ms,
    )


def _thaw_worker(kept: table_pb2.WorkerSnapshot) -> Worker:
    attach = table_pb2.AttachWorker()
    attach.CopyFrom(kept.attach)
    worker = Worker(attach, kept.attached_ms)
    worker.state, worker.reason, worker.lost_ms = kept.state, kept.reason, kept.lost_ms
    worker.excluded, worker.excluded_reason = kept.excluded, kept.excluded_reason
    worker.excluded_until_ms = kept.excluded_until_ms
    return worker


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _column(code: Any, data: bytes) -> array[int]:
    column: array[int] = array(code, data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _join(pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Lengths and content of many small pieces; nothing at all when all are empty."""
    if not any(pieces):
        return _little(array("I", [len(pieces)])), b""
    return _little(array("I", [len(pieces), *map(len, pieces)])), b"".join(pieces)


def _split(lengths: bytes, content: bytes) -> list[bytes]:
    count, *sizes = _column("I", lengths)
    if not sizes:
        return [b""] * count
    pieces, start = [], 0
    for size in sizes:
        pieces.append(content[start : start + size])
        start += size
    return pieces
