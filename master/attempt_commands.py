"""What the commands about attempts do to the table: assign, complete, fail, revoke.

Part of `TaskTable.apply` and bound by its law: pure, never raises, first every check, then every change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from master import causes, job_commands
from master.columns import COMPLETED, Live, Tasks
from master.events import (
    AttemptEnded,
    AttemptFailed,
    AttemptStarted,
    CleanupGivenUp,
    Event,
    JobStarted,
    MapOutputReady,
    MapsDone,
    Refused,
    TaskCompleted,
    TaskIdle,
    WorkerBarred,
)
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey, key_of
from master.jobs import INT64_MAX, JOB_TRANSITIONS, QUEUED, EndedAttempt, Job
from master.workers import ACTIVE, LOST
from mr.rpc import job_pb2, table_pb2

if TYPE_CHECKING:
    from master.task_table import TaskTable

ATTEMPTS_AT_ONCE = 2  # of one task: the first and one backup (T5)
OTHER_FAILURES = 100  # of one task, by no fault of the user: then repeating won't mend it
CLEANUP_TRIES = 5


def assign(table: TaskTable, command: table_pb2.AssignTask) -> list[Event]:
    """A task gets an attempt on a worker: the next number, and a slot that is free (T5)."""
    key = key_of(command.attempt)
    job, worker = table.jobs.get(key.job), table.workers.get(command.worker)
    if job is None or worker is None:
        return [Refused(f"no such job or worker: {key.job}, {command.worker}", "NOT_FOUND")]
    tasks = next((t for s, k, t in job.runnable() if (s, k) == (key.step, key.kind)), None)
    if tasks is None or key.index >= tasks.count:
        return [Refused(f"{key.text} of {key.job} can't run now")]
    if worker.incarnation != command.incarnation or not worker.free or worker.id in job.bars(key.kind):
        return [Refused(f"{worker.id} can't take a task of {key.job} now", "WORKER_BUSY")]
    if worker.kinds and key.kind not in worker.kinds:
        return [Refused(f"{worker.id} takes no such tasks", "WORKER_BUSY")]
    if key.number != tasks.next_attempt[key.index] + 1:
        return [Refused(f"{key.text} is not the next attempt")]
    others = tasks.live.get(key.index, ())
    if tasks.states[key.index] == COMPLETED or bool(others) != command.backup:
        return [Refused(f"{key.text}: the task is {'busy' if others else 'not idle'}")]
    if len(others) >= ATTEMPTS_AT_ONCE or any(
        job.lives[other.life] == (worker.id, worker.incarnation) for other in others
    ):
        return [Refused(f"{key.text}: enough attempts run")]
    life = job.life(worker.id, worker.incarnation)
    tasks.start(key.index, Live(key.number, life, command.backup, table.index, table.now_ms))
    worker.running.add(key)
    job.running += 1
    job.attempts += 1
    started: list[Event] = [AttemptStarted(key, worker.id, command.backup)]
    if job.state == QUEUED:
        job.state = JOB_TRANSITIONS[QUEUED, "first_attempt"]
        job.started_ms, job.reason = table.now_ms, ""
        return [JobStarted(job.id), *started]
    return started


def complete(table: TaskTable, command: table_pb2.CompleteAttempt) -> list[Event]:
    """An attempt says that it is done: it wins, unless it is late or merged what was lost (T1, T2, T9)."""
    key = key_of(command.attempt)
    found = _live_attempt(table, key, command.worker, command.incarnation)
    if isinstance(found, Refused):
        return [found]
    job, tasks, live = found
    result = command.result
    if key.kind == REDUCE:
        step = job.steps[key.step]
        if not step.maps.done or result.consumed_digest != step.winners_digest():
            return _stale_inputs(table, job, tasks, key, live)
    staged = key.kind == REDUCE or (key.kind == MAP and not job.steps[key.step].reduces.count)
    if staged and not result.file.name:
        return _fail_live(
            table,
            job,
            tasks,
            key,
            live,
            job_pb2.Failure(cause=job_pb2.INTERNAL, message="a result without a file"),
        )
    return _win(table, job, key, live, result, staged=staged)


def _win(
    table: TaskTable, job: Job, key: AttemptKey, live: Live, result: job_pb2.TaskResult, *, staged: bool
) -> list[Event]:
    worker, tasks = job.worker_of(live.life), job.tasks(key.step, key.kind)
    assert tasks is not None, "checked before"
    events: list[Event] = [TaskCompleted(key, worker)]
    losers = tasks.win(key.index, live)
    _free_slot(table, job, key, live)
    for loser in losers:
        lost = key._replace(number=loser.number)
        _free_slot(table, job, lost, loser)
        events.append(AttemptEnded(lost, job.worker_of(loser.life), job_pb2.BACKUP_LOST))
    if key.kind == COMMIT:
        job.manifest_digest = result.manifest_digest
        return [*events, *job_commands.finish(table, job, "published", "")]
    if key.kind == CLEANUP:
        return events
    packed = job.add_counters(result)
    step = job.steps[key.step]
    if staged:
        tasks.files[key.index] = result.file.SerializeToString(deterministic=True)
    else:
        tasks.counters[key.index] = packed
        if result.file.side_files:  # they lie in the staging place, too (P-06)
            sides = job_pb2.OutputFile(side_files=result.file.side_files)
            tasks.files[key.index] = sides.SerializeToString(deterministic=True)
    if key.kind == MAP:
        step.digest = None
        step.bytes_done = min(INT64_MAX, step.bytes_done + max(0, result.counters.get("mr:bytes_in", 0)))
        if not staged:
            step.log.add(key.index, key.number, live.life, lost=False)
            step.add_sizes(key.index, result)
            events.append(MapOutputReady(key, worker, result.index_digest.hex()))
        if step.maps.done:
            events.append(MapsDone(job.id, key.step))
    return [*events, *job_commands.advance(job)]


def _stale_inputs(table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, live: Live) -> list[Event]:
    """A reduce merged a map output that is no longer the winner's: it starts again (T9)."""
    reason = causes.RERUN_REASONS[job_pb2.STALE_INPUTS]
    job.reruns[reason] = job.reruns.get(reason, 0) + 1
    return _fail_live(
        table,
        job,
        tasks,
        key,
        live,
        job_pb2.Failure(cause=job_pb2.STALE_INPUTS, message="it merged a map output that was lost since"),
    )


def fail(table: TaskTable, command: table_pb2.FailAttempt) -> list[Event]:
    """An attempt says that it failed."""
    key = key_of(command.attempt)
    found = _live_attempt(table, key, command.worker, command.incarnation)
    if isinstance(found, Refused):
        return [found]
    return _fail_live(table, *found[:2], key, found[2], command.failure)


def _fail_live(
    table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, live: Live, failure: job_pb2.Failure
) -> list[Event]:
    cause, worker = failure.cause, job.worker_of(live.life)
    user = cause in causes.USER
    events: list[Event] = [AttemptFailed(key, worker, cause, failure.message[:300], user)]
    tasks.failed_attempts += 1
    tell_story(table, job, key, live, failure, "failed")
    idle = end(table, job, tasks, key, live)
    if key.kind == COMMIT:
        job.reason = f"publishing: {causes.name(cause)} {failure.message[:300]}"  # retried for ever
        return [*events, *idle]
    count = tasks.user_failures if user else tasks.other_failures
    if cause not in causes.HARMLESS:
        count[key.index] = min(65535, count[key.index] + 1)
    if key.kind == CLEANUP:
        if count[key.index] >= CLEANUP_TRIES:
            job.cleanup_given_up = True
            events.append(CleanupGivenUp(job.id, failure.message[:300]))
        return [*events, *idle]
    if cause in causes.EXCLUDES_WORKER and worker not in job.excluded:
        job.excluded[worker] = cause
        events.append(WorkerBarred(job.id, worker, cause))
    if why := why_hopeless(table, job, tasks, key, cause):
        job.failure = _bounded(failure)
        job.failed_task = key.proto()
        return [*events, *job_commands.finish(table, job, "failed", why)]
    return [*events, *idle]


def why_hopeless(table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, cause: int) -> str:
    """Why this failure ends the job; "" if another attempt may help."""
    task, name = key.task, causes.name(cause)
    if cause in causes.FATAL:
        return f"{task.text}: {name}"
    others = any(w.state != LOST and w.id not in job.excluded for w in table.workers.values())
    if cause in causes.EXCLUDES_WORKER:
        return "" if others else f"no worker can run it: {name}"
    if cause in causes.FATAL_WHEN_AGREED:
        blind = {ended.worker for ended in job.failures.get(task, ()) if _cause_of(ended) == cause}
        seeing = any(w.state == ACTIVE and w.id not in blind for w in table.workers.values())
        return f"{task.text}: {name} on {', '.join(sorted(blind))}" if len(blind) > 1 or not seeing else ""
    if cause in causes.USER:
        times = tasks.user_failures[key.index]
        return f"{task.text} failed {times} times: {name}" if times >= job.max_attempts else ""
    if tasks.other_failures[key.index] > OTHER_FAILURES:
        return f"{task.text} could not be run {tasks.other_failures[key.index]} times: {name}"
    return ""


def revoke(table: TaskTable, command: table_pb2.RevokeAttempt) -> list[Event]:
    """The leader or an operator takes an attempt away; nobody's fault."""
    key = key_of(command.attempt)
    job = table.jobs.get(key.job)
    tasks = job.tasks(key.step, key.kind) if job else None
    live = tasks.find(key.index, key.number) if tasks else None
    if job is None or tasks is None or live is None:
        return [Refused(f"{key.text} of {key.job} is not live")]
    failure = job_pb2.Failure(cause=command.cause, message=command.message[:300])
    tell_story(table, job, key, live, failure, "revoked")
    ended = AttemptEnded(key, job.worker_of(live.life), command.cause, command.message[:300])
    return [ended, *end(table, job, tasks, key, live)]


def _live_attempt(
    table: TaskTable, key: AttemptKey, worker: str, incarnation: str
) -> Refused | tuple[Job, Tasks, Live]:
    job = table.jobs.get(key.job)
    if job is None:
        return Refused(f"no job {key.job}", "NOT_FOUND")
    tasks = job.tasks(key.step, key.kind)
    if tasks is None or key.index >= tasks.count:
        return Refused(f"{key.job} has no {key.task.text}", "NOT_FOUND")
    live = tasks.find(key.index, key.number)
    if live is None:
        if job.terminal:
            return Refused(f"job {key.job} is finished")
        if tasks.states[key.index] == COMPLETED:
            return Refused(f"{key.task.text} already has a winner")
        return Refused(f"attempt {key.number} is not live")
    if job.lives[live.life] != (worker, incarnation):
        return Refused(f"attempt {key.number} belongs to another life of a worker")
    return job, tasks, live


def end(table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, live: Live) -> list[Event]:
    """The attempt is gone, without a winner."""
    _free_slot(table, job, key, live)
    return [TaskIdle(key.task)] if tasks.end(key.index, key.number) else []


def _free_slot(table: TaskTable, job: Job, key: AttemptKey, live: Live) -> None:
    job.running -= 1
    name, incarnation = job.lives[live.life]
    worker = table.workers.get(name)
    if worker is not None and worker.incarnation == incarnation:
        worker.running.discard(key)


def tell_story(
    table: TaskTable, job: Job, key: AttemptKey, live: Live, failure: job_pb2.Failure, state: str
) -> None:
    """Keeps what became of an attempt for `mr status`."""
    ended = EndedAttempt(
        live.number,
        job.worker_of(live.life),
        live.started_ms,
        table.now_ms,
        _bounded(failure).SerializeToString(deterministic=True),
        state,
    )
    job.remember_failure(key.task, ended)


def _bounded(failure: job_pb2.Failure) -> job_pb2.Failure:
    """A failure that is safe to keep: whatever a task process wrote, it is cut to size."""
    kept = job_pb2.Failure()
    kept.CopyFrom(failure)
    kept.message, kept.where, kept.input = failure.message[:500], failure.where[:300], failure.input[:500]
    kept.traceback, kept.record, kept.fetch_worker = (
        failure.traceback[-8192:],
        failure.record[:200],
        failure.fetch_worker[:200],
    )
    return kept


def _cause_of(ended: EndedAttempt) -> int:
    return job_pb2.Failure.FromString(ended.failure).cause
