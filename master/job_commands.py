"""What the commands about jobs do to the table: accept, cancel, expire, retry, forget; and how a job moves on.

Part of `TaskTable.apply` and bound by its law: pure, never raises, first every check, then every change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from master import attempt_commands, table_snapshot
from master.events import (
    Event,
    JobAccepted,
    JobAlreadyFinished,
    JobFinished,
    JobForgotten,
    JobPublishing,
    Refused,
    StepStarted,
)
from master.ids import MAP, REDUCE, AttemptKey
from master.jobs import CANCELLED, FAILED, JOB_TRANSITIONS, PUBLISHING, QUEUED, Job
from master.specs import next_try, same_job, why_bad
from mr.rpc import job_pb2, table_pb2

if TYPE_CHECKING:
    from master.task_table import TaskTable

REQUESTS_KEPT = 10_000
ENDED_KEPT = 10_000
LIVE_JOBS = 10_000


def submit(table: TaskTable, command: table_pb2.SubmitJob) -> list[Event]:
    """Accepts a job, once for each request and each id (C10)."""
    spec = command.spec
    known = table.request_of(command.request_id) if command.request_id else None
    if known is None and spec.job_id in table.ended:
        known = spec.job_id
    if known is not None:
        if table.owner_of(known) != command.identity:
            return [Refused("another user has made this request or this job", "ID_IN_USE")]
        return [JobAccepted(known, existed=True)]
    job = table.jobs.get(spec.job_id)
    if job is not None:
        if job.owner != command.identity or not same_job(job.spec, spec):
            return [Refused(f"another job has the id {spec.job_id}", "ID_IN_USE")]
        _remember_request(table, command.request_id, "submit", job.id)
        return [JobAccepted(job.id, existed=True)]
    if why := why_bad(spec):
        return [Refused(why, "BAD_SPEC")]
    if spec.output.path in table.outputs:
        holder = table.outputs[spec.output.path]
        return [Refused(f"job {holder} is writing to {spec.output.path}", "OUTPUT_IN_USE")]
    if len(table.live) >= LIVE_JOBS:
        return [Refused(f"{LIVE_JOBS} jobs are queued or running already", "QUEUE_FULL")]
    return _accept(table, command)


def _accept(table: TaskTable, command: table_pb2.SubmitJob) -> list[Event]:
    spec = job_pb2.JobSpec()
    spec.CopyFrom(command.spec)  # else the job would keep its whole entry in memory
    table.jobs_seen += 1
    job = Job(
        spec,
        owner=command.identity,
        request_id=command.request_id,
        index=table.index,
        order=table.jobs_seen,
    )
    job.submitted_ms, job.submitted_uptime_ms = table.now_ms, table.uptime_ms
    table.jobs[job.id] = table.live[job.id] = job
    table.outputs[spec.output.path] = job.id
    if command.request_id:
        table.live_requests[command.request_id] = job.id
    _remember_request(table, command.request_id, "submit", job.id)
    return [JobAccepted(job.id, existed=False), *advance(job)]


def cancel(table: TaskTable, command: table_pb2.CancelJob) -> list[Event]:
    """Ends a job for good; after the end, or a second time, it says how the job ended (T7)."""
    job = table.jobs.get(command.job)
    if job is None:
        ended = table.ended.get(command.job)
        if ended is not None:
            return [JobAlreadyFinished(command.job, ended.state)]
        return [Refused(f"no job {command.job}", "NOT_FOUND")]
    if job.terminal:
        return [JobAlreadyFinished(job.id, job.state)]
    if job.state == PUBLISHING:
        return [Refused("its output is being published, which can't be undone", "PUBLISHING")]
    who = f"cancelled by {command.identity}" if command.identity else "cancelled"
    return finish(table, job, "cancelled", f"{who}: {command.reason}" if command.reason else who)


def retry(table: TaskTable, command: table_pb2.RetryJob) -> list[Event]:
    """A finished job never changes (T8): trying again is a new job with the same spec and its own staging."""
    known = table.request_of(command.request_id) if command.request_id else None
    if known is not None:
        return [JobAccepted(known, existed=True)]
    job = table.jobs.get(command.job)
    if job is None:
        return [Refused(f"no job {command.job}", "NOT_FOUND")]
    if job.state not in (FAILED, CANCELLED):
        return [Refused(f"job {job.id} has neither failed nor been cancelled", "NOT_FAILED")]
    again = table_pb2.SubmitJob(request_id=command.request_id, identity=command.identity)
    again.spec.CopyFrom(job.spec)
    again.spec.job_id = next_try(job.id, table.jobs.keys() | table.ended.keys())
    # only its end is the job's name (mr/output.py): the rest is the output's, which may hold the name, too
    again.spec.staging = job.spec.staging.removesuffix(job.id) + again.spec.job_id
    return submit(table, again)


def expire(table: TaskTable, command: table_pb2.ExpireJob) -> list[Event]:
    """The job's own deadline has passed."""
    job = table.live.get(command.job)
    if job is None or job.state == PUBLISHING:
        return [Refused(f"job {command.job} is past expiring")]
    job.failure = job_pb2.Failure(
        cause=job_pb2.JOB_DEADLINE, message=f"not done within {job.spec.options.deadline_ms / 1000:g} s"
    )
    return finish(table, job, "failed", f"JOB_DEADLINE {job.failure.message}")


def forget_jobs(table: TaskTable, command: table_pb2.ForgetJobs) -> list[Event]:
    """Finished jobs become short records, and the oldest records go (T15). Of none, only the entry's time counts."""
    events: list[Event] = []
    for name in command.jobs:
        job = table.jobs.get(name)
        if job is None or not job.terminal or job.running:
            continue
        del table.jobs[name]
        table.ended[name] = table_snapshot.ended(job)
        events.append(JobForgotten(name))
    while len(table.ended) > ENDED_KEPT:
        table.ended.popitem(last=False)
    return events if events or not command.jobs else [Refused("no such finished jobs", "NOT_FOUND")]


def advance(job: Job) -> list[Event]:
    """Starts the next step when this one is done, and publication after the last."""
    events: list[Event] = []
    while not job.terminal and job.state != PUBLISHING and job.current.done:
        if job.step + 1 < len(job.steps):
            job.step += 1
            events.append(StepStarted(job.id, job.step))
        else:
            job.state = JOB_TRANSITIONS[job.state, "nothing_to_do" if job.state == QUEUED else "tasks_done"]
            events.append(JobPublishing(job.id))
    return events


def finish(table: TaskTable, job: Job, trigger: str, reason: str) -> list[Event]:
    """The end of a job: live attempts are no longer, its output place and request are free (T7, T8)."""
    job.state = JOB_TRANSITIONS[job.state, trigger]
    job.reason, job.ended_ms = reason, table.now_ms
    for number, step in enumerate(job.steps):
        for kind, tasks in ((MAP, step.maps), (REDUCE, step.reduces)):
            for index in list(tasks.live):
                for live in tasks.live[index]:
                    attempt_commands.end(
                        table, job, tasks, AttemptKey(job.id, number, kind, index, live.number), live
                    )
    del table.live[job.id]
    table.outputs.pop(job.spec.output.path, None)
    table.live_requests.pop(job.request_id, None)
    job.shed()
    return [JobFinished(job.id, job.state, reason)]


def _remember_request(table: TaskTable, request_id: str, what: str, subject: str) -> None:
    if not request_id:
        return
    table.requests[request_id] = (what, subject)
    while len(table.requests) > REQUESTS_KEPT:
        table.requests.popitem(last=False)
