"""What the commands about workers and map outputs do to the table: attach, lose, drain, exclude, output lost.

Part of `TaskTable.apply` and bound by its law: pure, never raises, first every check, then every change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from master import attempt_commands, causes, job_commands
from master.columns import Live, Tasks
from master.events import (
    AttemptEnded,
    Event,
    MapOutputLost,
    Refused,
    TaskIdle,
    WorkerAttached,
    WorkerBarred,
    WorkerLost,
    WorkerStateChanged,
)
from master.ids import CLEANUP, COMMIT, MAP, AttemptKey, key_of
from master.jobs import PUBLISHING, Job
from master.workers import ACTIVE, DRAINING, EXCLUDED, LOST, Worker
from mr.rpc import job_pb2, table_pb2

if TYPE_CHECKING:
    from master.task_table import TaskTable

LOST_WORKERS_KEPT = 500
SLOTS_MOST = 4096


def lose_output(table: TaskTable, command: table_pb2.LoseOutput) -> list[Event]:
    """A completed map goes back to idle if its output is gone and still needed (T3)."""
    key = key_of(command.attempt)
    job = table.live.get(key.job)
    if job is None or key.kind != MAP or key.step >= len(job.steps):
        return [Refused(f"no map output {key.text} of {key.job}", "NOT_FOUND")]
    maps = job.steps[key.step].maps
    if key.index >= maps.count or maps.winner_attempt[key.index] != key.number:
        return [Refused(f"{key.text} is not the winner")]
    if job.worker_of(maps.winner_life[key.index]) != command.worker:
        return [Refused(f"{key.text} does not lie on {command.worker}")]
    if not _outputs_needed(job, key.step):
        return [Refused(f"the output of {key.text} is no longer needed")]
    return _output_gone(job, key, causes.RERUN_REASONS.get(command.cause, "output lost"))


def _outputs_needed(job: Job, step: int) -> bool:
    return job.state not in (PUBLISHING,) and step == job.step and job.steps[step].needs_map_outputs()


def _output_gone(job: Job, key: AttemptKey, reason: str) -> list[Event]:
    step = job.steps[key.step]
    life = step.maps.winner_life[key.index]
    taken_back = job.take_back_counters(step.maps.counters[key.index])
    step.bytes_done = max(0, step.bytes_done - max(0, taken_back.get("mr:bytes_in", 0)))
    step.maps.lose(key.index)
    step.log.add(key.index, key.number, life, lost=True)
    step.digest = None
    job.reruns[reason] = job.reruns.get(reason, 0) + 1
    return [MapOutputLost(key, job.worker_of(life), reason), TaskIdle(key.task)]


def attach(table: TaskTable, command: table_pb2.AttachWorker) -> list[Event]:
    """A worker comes, or comes back; a newer life of it ends the older one (FT21)."""
    if not command.worker or not command.incarnation or not 0 < command.slots <= SLOTS_MOST:
        return [Refused("a worker needs an id, an incarnation and slots", "BAD_WORKER")]
    events: list[Event] = []
    old = table.workers.get(command.worker)
    if old is not None and command.incarnation < old.incarnation:
        return [Refused(f"a newer life of {command.worker} is known", "SUPERSEDED")]
    if old is not None and command.incarnation > old.incarnation and old.state != LOST:
        events += _give_up(table, old, "a newer life of it attached")
    attach = table_pb2.AttachWorker()
    attach.CopyFrom(command)
    worker = Worker(attach, table.now_ms)
    if old is not None:
        worker.follow(old)
    table.workers[worker.id] = worker
    return [*events, WorkerAttached(worker.id, worker.incarnation)]


def lose_worker(table: TaskTable, command: table_pb2.LoseWorker) -> list[Event]:
    """A worker is given up."""
    worker = table.workers.get(command.worker)
    if worker is None or worker.incarnation != command.incarnation or worker.state == LOST:
        return [Refused(f"{command.worker} is not there in that life")]
    events = _give_up(table, worker, command.reason[:300] or "silent")
    lost = [w for w in table.workers.values() if w.state == LOST]
    for forgotten in sorted(lost, key=lambda w: (w.lost_ms, w.id))[: max(0, len(lost) - LOST_WORKERS_KEPT)]:
        del table.workers[forgotten.id]
    return events


def _give_up(table: TaskTable, worker: Worker, reason: str) -> list[Event]:
    """What it ran goes back to idle; what it completed too, where a reduce has yet to commit (S4-20)."""
    events: list[Event] = [WorkerLost(worker.id, worker.incarnation, reason)]
    for key in sorted(worker.running):
        job = table.jobs[key.job]
        tasks = job.tasks(key.step, key.kind)
        live = tasks.find(key.index, key.number) if tasks else None
        if tasks is not None and live is not None:
            events += _lose_attempt(table, job, tasks, key, live, reason)
    for job in list(table.live.values()):
        life = job.life_ids.get((worker.id, worker.incarnation))
        if life is None or not _outputs_needed(job, job.step):
            continue
        maps = job.current.maps
        for index in maps.held_by(life):
            key = AttemptKey(job.id, job.step, MAP, index, maps.winner_attempt[index])
            events += _output_gone(job, key, causes.RERUN_REASONS[job_pb2.WORKER_LOST])
        maps.by_life.pop(life, None)
    worker.state, worker.reason, worker.lost_ms = LOST, reason, table.now_ms
    worker.running = set()
    return events


def _lose_attempt(
    table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, live: Live, reason: str
) -> list[Event]:
    failure = job_pb2.Failure(cause=job_pb2.WORKER_LOST, message=reason)
    attempt_commands.tell_story(table, job, key, live, failure, "lost")
    events: list[Event] = [AttemptEnded(key, job.worker_of(live.life), job_pb2.WORKER_LOST, reason)]
    events += attempt_commands.end(table, job, tasks, key, live)
    if key.kind in (COMMIT, CLEANUP):
        return events
    tasks.other_failures[key.index] = min(65535, tasks.other_failures[key.index] + 1)
    if why := attempt_commands.why_hopeless(table, job, tasks, key, job_pb2.WORKER_LOST):
        job.failure, job.failed_task = failure, key.proto()
        events += job_commands.finish(table, job, "failed", why)
    return events


def set_worker(table: TaskTable, command: table_pb2.SetWorkerState) -> list[Event]:
    """An operator or the leader drains, excludes or includes a worker, for all jobs or for one."""
    worker = table.workers.get(command.worker)
    if worker is None or worker.state == LOST:
        return [Refused(f"no worker {command.worker}", "NOT_FOUND")]
    if command.state not in (ACTIVE, DRAINING, EXCLUDED):
        return [Refused("a worker can be active, draining or excluded", "BAD_STATE")]
    if command.job:
        return _set_worker_for_job(table, command)
    others = any(w.state == ACTIVE for w in table.workers.values() if w is not worker)
    if command.state == EXCLUDED and not others:
        return [Refused(f"{worker.id} is the last active worker", "LAST_WORKER")]
    worker.set_state(command.state, command.reason[:300], command.until_ms)
    return [WorkerStateChanged(worker.id, worker.state, worker.reason)]


def _set_worker_for_job(table: TaskTable, command: table_pb2.SetWorkerState) -> list[Event]:
    job = table.live.get(command.job)
    if job is None:
        return [Refused(f"no live job {command.job}", "NOT_FOUND")]
    if command.state == ACTIVE:
        job.excluded.pop(command.worker, None)
        return [WorkerStateChanged(command.worker, command.state, f"for job {job.id}")]
    left = any(
        w.state == ACTIVE and w.id not in job.excluded and w.id != command.worker
        for w in table.workers.values()
    )
    if not left:
        return [Refused(f"{command.worker} is the last worker for {job.id}", "LAST_WORKER")]
    job.excluded[command.worker] = job_pb2.CAUSE_NONE
    return [WorkerBarred(job.id, command.worker, job_pb2.CAUSE_NONE)]
