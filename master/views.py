"""The table and what the leader knows beside it, as the messages that clients read. Pure and read-only.

`leader` is None on a follower: then there is no progress and nobody is known to be on the line, and all else is the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from master.columns import COMPLETED, IDLE, IN_PROGRESS, STATE_NAMES, Tasks
from master.event_log import event_to_proto
from master.explain import explain
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey, TaskKey, task_named
from master.jobs import TERMINAL, EndedAttempt, Job
from master.task_table import TaskTable
from master.workers import LOST, Worker
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2, table_pb2

if TYPE_CHECKING:
    from master.leader import Leader

__all__ = ["TERMINAL", "event_to_proto", "explain", "job_list", "job_status", "task_list", "worker_list"]

LIST_LIMIT = 1000  # items a page, if the caller names no number
_WORKER_STATES = {
    table_pb2.WORKER_ACTIVE: "active",
    table_pb2.WORKER_DRAINING: "draining",
    table_pb2.WORKER_EXCLUDED: "excluded",
    table_pb2.WORKER_LOST_STATE: "lost",
}


def job_status(table: TaskTable, job_id: str, leader: Leader | None = None) -> pb.JobStatus | None:
    """One job with everything that `mr status` shows; None if there is no such job."""
    job = table.jobs.get(job_id)
    if job is None:
        ended = table.ended.get(job_id)
        return _ended_status(table, ended) if ended is not None else None
    status = _summary(table, job, leader)
    status.steps.extend(_step_status(job, number, leader) for number in range(len(job.steps)))
    for name, value in job.counters.items():
        status.counters[name] = value
    status.spec.CopyFrom(job.spec)
    status.code_digest = job.spec.code_digest
    if job.failure is not None:
        status.failure.CopyFrom(job.failure)
    if job.failed_task is not None:
        status.failed_task.CopyFrom(job.failed_task)
        at = job.failed_task.task
        task = TaskKey(at.job, at.step, at.kind, at.index)
        status.story.extend(_story(task, ended) for ended in job.failures.get(task, ()))
    return status


def job_list(table: TaskTable, request: pb.ListJobsRequest) -> pb.JobList:
    """Jobs newest first, without steps and spec; with `history` the forgotten ones too."""
    wanted, limit = frozenset(request.states), request.limit or LIST_LIMIT
    found = pb.JobList(applied_index=table.index)
    for job in sorted(table.jobs.values(), key=lambda job: -job.order):
        if len(found.jobs) < limit and _matches(job.id, job.state, request.prefix, wanted):
            status = _summary(table, job, None)
            status.steps.extend(_step_status(job, number, None) for number in range(len(job.steps)))
            found.jobs.append(status)
    if request.history:
        for ended in reversed(table.ended.values()):
            if len(found.jobs) < limit and _matches(ended.id, ended.state, request.prefix, wanted):
                found.jobs.append(_ended_status(table, ended))
    return found


def task_list(table: TaskTable, leader: Leader | None, request: pb.ListTasksRequest) -> pb.TaskList:
    """A page of a job's tasks; `total` counts all that match."""
    job = table.jobs.get(request.job)
    found = pb.TaskList()
    if job is None:
        return found
    if request.task:
        key = task_named(job.id, request.task)
        tasks = job.tasks(key.step, key.kind) if key else None
        if key is not None and tasks is not None and key.index < tasks.count:
            found.tasks.append(task_info(job, key, tasks, leader))
            found.total = 1
        return found
    limit = request.limit or LIST_LIMIT
    for key, tasks in _matching_tasks(job, request):
        if request.offset <= found.total < request.offset + limit:
            found.tasks.append(task_info(job, key, tasks, leader))
        found.total += 1
    return found


def task_info(job: Job, key: TaskKey, tasks: Tasks, leader: Leader | None) -> pb.TaskInfo:
    """One task: its state, its attempts, its winner, its split where the leader has the plan."""
    index = key.index
    info = pb.TaskInfo(
        task=key.proto(),
        state=STATE_NAMES[tasks.states[index]],
        winner_worker=job.worker_of(tasks.winner_life[index]),
        winner_attempt=tasks.winner_attempt[index],
        user_failures=tasks.user_failures[index],
    )
    info.attempts.extend(_story(key, ended) for ended in job.failures.get(key, ()))
    for live in tasks.live.get(index, ()):
        attempt = AttemptKey(*key, live.number)
        progress = leader.progress.get(attempt) if leader else None
        info.attempts.add(
            attempt=attempt.proto(),
            worker=job.worker_of(live.life),
            state="running",
            started_ms=live.started_ms,
            backup=live.backup,
            progress=progress,
        )
    if tasks.winner_attempt[index]:
        won = AttemptKey(*key, tasks.winner_attempt[index])
        info.attempts.add(attempt=won.proto(), worker=info.winner_worker, state="won")
    plan = leader.plans.get(job.id) if leader else None
    if plan is not None and key.kind == MAP and key.step == 0:
        info.split.CopyFrom(plan.splits[index])
    return info


def worker_list(table: TaskTable, leader: Leader | None, include_lost: bool = False) -> pb.WorkerList:
    """The workers by id. On the leader, one that is not on the line is "detached" until its lease ends (T14)."""
    found = pb.WorkerList()
    for _, worker in sorted(table.workers.items()):
        if worker.state != LOST or include_lost:
            found.workers.append(_worker_info(table, leader, worker))
    return found


def _worker_info(table: TaskTable, leader: Leader | None, worker: Worker) -> pb.WorkerInfo:
    attach = worker.attach
    info = pb.WorkerInfo(
        id=worker.id,
        incarnation=worker.incarnation,
        address=attach.address,
        host=attach.host,
        state=_WORKER_STATES.get(worker.state, "lost"),  # type: ignore[call-overload]  # an open enum
        reason=worker.reason,
        slots=worker.slots,
        busy=len(worker.running),
        memory_bytes=attach.memory_bytes,
        labels=attach.labels,
        version=attach.version,
        held_outputs=_held(table, worker),
        python=attach.python,
        isolation=attach.isolation,
        until_ms=worker.excluded_until_ms,
        attached_ms=worker.attached_ms,
    )
    if leader is not None and leader.ready and worker.state != LOST:
        session = leader.sessions.by_worker.get(worker.id)
        if session is not None:
            info.disk_free_bytes = session.disk_free_bytes
        elif info.state == "active":
            info.state, info.reason = "detached", "not on the line"
        heard = leader.sessions.heard.get(worker.id)
        if heard is not None:
            info.last_seen_ms = max(0, int((leader.now_s - heard) * 1000))
    return info


def _held(table: TaskTable, worker: Worker) -> int:
    """Map outputs on its disk that a reduce still needs."""
    total = 0
    for job in table.live.values():
        life = job.life_ids.get((worker.id, worker.incarnation))
        if life is not None and job.current.needs_map_outputs():
            total += len(job.current.maps.by_life.get(life, ()))
    return total


def _matches(job_id: str, state: int, prefix: str, wanted: frozenset[int]) -> bool:
    return job_id.startswith(prefix) and (not wanted or state in wanted)


def _matching_tasks(job: Job, request: pb.ListTasksRequest) -> Iterator[tuple[TaskKey, Tasks]]:
    states = frozenset(request.states)
    for step, kind, tasks in job.all_tasks():
        if kind in (COMMIT, CLEANUP) and not tasks.next_attempt[0]:
            continue  # not tried yet: nothing to show
        if request.any_kind or kind == request.kind:
            for index, state in enumerate(tasks.states):
                if not states or STATE_NAMES[state] in states:
                    yield TaskKey(job.id, step, kind, index), tasks


def _summary(table: TaskTable, job: Job, leader: Leader | None) -> pb.JobStatus:
    return pb.JobStatus(
        id=job.id,
        name=job.spec.name,
        state=job.state,  # type: ignore[arg-type]  # an open enum
        owner=job.owner,
        queue=job.spec.options.queue,
        priority=job.spec.options.priority,
        submitted_ms=job.submitted_ms,
        started_ms=job.started_ms,
        ended_ms=job.ended_ms,
        reruns=job.reruns,
        attempts=job.attempts,
        leader_changes=job.leader_changes,
        output=job.spec.output.path,
        manifest_digest=job.manifest_digest.hex(),
        reason=job.reason if job.terminal else explain(table, leader, job.id).text,
        applied_index=table.index,
        term=table.term,
        leader=table.leader,
        skipped=max(0, job.counters.get("mr:records_skipped", 0)),
    )


def _step_status(job: Job, number: int, leader: Leader | None) -> pb.StepStatus:
    step = job.steps[number]
    maps, reduces = _kind_status(step.maps), _kind_status(step.reduces)
    maps.bytes_done = step.bytes_done
    if number == 0:
        maps.bytes_total = job.spec.input_bytes
    if leader is not None and step.reduces.live:
        running = [
            AttemptKey(job.id, number, REDUCE, index, live.number)
            for index, attempts in step.reduces.live.items()
            for live in attempts
        ]
        fetched = [leader.progress[key].fetched for key in running if key in leader.progress]
        reduces.fetched = min(fetched, default=0)
    return pb.StepStatus(step=number, map=maps, reduce=reduces)


def _kind_status(tasks: Tasks) -> pb.KindStatus:
    return pb.KindStatus(
        total=tasks.count,
        idle=tasks.in_state[IDLE],
        in_progress=tasks.in_state[IN_PROGRESS],
        completed=tasks.in_state[COMPLETED],
        failed_attempts=tasks.failed_attempts,
        backups=tasks.backups,
    )


def _story(task: TaskKey, ended: EndedAttempt) -> pb.AttemptInfo:
    return pb.AttemptInfo(
        attempt=AttemptKey(*task, ended.number).proto(),
        worker=ended.worker,
        state=ended.state,
        failure=job_pb2.Failure.FromString(ended.failure),
        started_ms=ended.started_ms,
        ended_ms=ended.ended_ms,
    )


def _ended_status(table: TaskTable, ended: table_pb2.EndedJob) -> pb.JobStatus:
    return pb.JobStatus(
        id=ended.id,
        name=ended.name,
        state=ended.state,
        owner=ended.owner,
        queue=ended.queue,
        submitted_ms=ended.submitted_ms,
        started_ms=ended.started_ms,
        ended_ms=ended.ended_ms,
        reason=ended.reason,
        attempts=ended.attempts,
        reruns=ended.reruns,
        counters=ended.counters,
        output=ended.output,
        manifest_digest=ended.manifest_digest.hex(),
        leader_changes=ended.leader_changes,
        applied_index=table.index,
        term=table.term,
        leader=table.leader,
    )
