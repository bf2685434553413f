"""Why a job is where it is: one cause from a closed list, in words, with what to do next. Pure.

The table alone answers most of it; `leader` (None on a follower) adds what only the leader knows: who is on the line,
how far attempts are, which are slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from master import causes
from master.columns import COMPLETED, IDLE, IN_PROGRESS
from master.jobs import CANCELLED, FAILED, PUBLISHING, SUCCEEDED, Job
from master.planner import paused_ms, total_slots
from master.task_table import TaskTable
from master.workers import ACTIVE, DRAINING, EXCLUDED
from mr.causes import info
from mr.rpc import cluster_pb2, job_pb2, table_pb2

if TYPE_CHECKING:
    from master.leader import Leader

# Every cause that `explain` can give, beside the causes of failure of a job that failed.
CAUSES = (
    "SUCCEEDED",
    "CANCELLED",
    "NOT_FOUND",
    "NO_WORKERS",
    "WORKERS_AWAY",
    "WORKERS_BARRED",
    "WAITING_FOR_PLAN",
    "WAITING_FOR_SLOTS",
    "PUBLISH_RETRIED",
    "PUBLISHING",
    "OUTPUTS_UNREACHABLE",
    "MAPS_RERUN",
    "STALLED",
    "STRAGGLER",
    "TASKS_RETRIED",
    "RUNNING",
)
STALL_FACTOR = 5  # nothing done for this many medians: the job stalls (S2-14)
STALL_LEAST_S = 30.0


def explain(table: TaskTable, leader: Leader | None, job_id: str) -> cluster_pb2.Explanation:
    """One cause for the state of a job."""
    job = table.jobs.get(job_id)
    if job is None:
        ended = table.ended.get(job_id)
        if ended is None:
            return _because("NOT_FOUND", f"there is no job {job_id}", next_step="mr jobs")
        state = table_pb2.JobState.Name(ended.state)
        return _because(state, f"it ended {state} and is history: {ended.reason}")
    if job.terminal:
        return _ended(job)
    return (
        _nobody(table, leader, job)
        or _publishing(job)
        or _waiting(table, leader, job)
        or _troubled(leader, job)
        or _running(job)
    )


def _ended(job: Job) -> cluster_pb2.Explanation:
    if job.state == SUCCEEDED:
        return _because(
            "SUCCEEDED", f"its output is in {job.spec.output.path}", next_step=f"mr results {job.id}"
        )
    if job.state == CANCELLED:
        return _because("CANCELLED", job.reason)
    assert job.state == FAILED, "the third terminal state"
    failure = job.failure or job_pb2.Failure()
    details = [line for line in (failure.message, failure.where, failure.input) if line]
    return _because(causes.name(failure.cause), job.reason, *details, next_step=f"mr status {job.id}")


def _nobody(table: TaskTable, leader: Leader | None, job: Job) -> cluster_pb2.Explanation | None:
    """No worker may run anything of it."""
    if job.running:
        return None
    active = [w for w in table.workers.values() if w.state == ACTIVE]
    if not active:
        others = [
            f"{w.id} is {'draining' if w.state == DRAINING else 'excluded'}: {w.reason}"
            for w in table.workers.values()
            if w.state in (DRAINING, EXCLUDED)
        ]
        return _because("NO_WORKERS", "no worker takes tasks", *others, next_step="mr workers")
    if all(w.id in job.excluded for w in active):
        barred = [f"{worker}: {causes.name(cause)}" for worker, cause in sorted(job.excluded.items())]
        return _because(
            "WORKERS_BARRED", "no worker that is left can run this job", *barred, next_step="mr workers"
        )
    if leader is not None and leader.ready and not any(w.id in leader.sessions.by_worker for w in active):
        return _because(
            "WORKERS_AWAY", f"{len(active)} workers are known, none is on the line", next_step="mr workers"
        )
    return None


def _publishing(job: Job) -> cluster_pb2.Explanation | None:
    if job.state != PUBLISHING:
        return None
    if job.commit.failed_attempts:
        return _because("PUBLISH_RETRIED", job.reason, f"{job.commit.failed_attempts} tries so far")
    return _because("PUBLISHING", "its output is being moved into place")


def _waiting(table: TaskTable, leader: Leader | None, job: Job) -> cluster_pb2.Explanation | None:
    maps, reduces = job.current.maps.in_state, job.current.reduces.in_state
    if leader is not None and leader.ready and job.step == 0 and maps[IDLE] and job.id not in leader.plans:
        return _because("WAITING_FOR_PLAN", "the leader is fetching its split plan")
    if job.running or not (maps[IDLE] or reduces[IDLE]):
        return None
    if leader is not None and (pausing := _pausing(job, leader.desk.now_ms)):
        return pausing
    slots = total_slots(table.workers.values())
    holders = sorted((other for other in table.live.values() if other.running), key=lambda j: -j.running)
    busy = sum(other.running for other in holders)
    if busy < slots:
        return _because(
            "WAITING_FOR_SLOTS", f"its tasks are about to be assigned: {busy} of {slots} slots are busy"
        )
    lines = [f"{other.id} of {other.owner or 'nobody'} holds {other.running}" for other in holders[:5]]
    return _because(
        "WAITING_FOR_SLOTS",
        f"all {slots} slots are taken by {len(holders)} jobs",
        *lines,
        next_step="mr jobs",
    )


def _pausing(job: Job, now_ms: int) -> cluster_pb2.Explanation | None:
    """A task of it waits, because it failed again and again by no fault of the job."""
    for task, story in reversed(job.failures.items()):
        left_ms = paused_ms(job, task, now_ms)
        if left_ms:
            last = job_pb2.Failure.FromString(story[-1].failure)
            return _because(
                "TASKS_RETRIED",
                f"{task.text} is tried again in {left_ms / 1000:.0f} s after {causes.name(last.cause)}",
                last.message,
                next_step=info(last.cause).next,
            )
    return None


def _troubled(leader: Leader | None, job: Job) -> cluster_pb2.Explanation | None:
    """It runs, but something holds it up."""
    step, lost = job.current, sum(job.reruns.values())
    if leader is not None:
        unreachable = leader.attention.unreachable(leader.now_s)
        holders = (
            {job.worker_of(life) for life in step.maps.by_life}
            if step.reduces.in_state[IN_PROGRESS]
            else set()
        )
        pairs = [
            f"{of} can't be reached by {', '.join(sorted(by))}"
            for of, by in sorted(unreachable.items())
            if of in holders
        ]
        if pairs and not step.reduces.done:
            return _because(
                "OUTPUTS_UNREACHABLE", "reduces can't fetch some map outputs", *pairs, next_step="mr workers"
            )
    if lost and step.reduces.in_state[IN_PROGRESS] and step.log and not step.maps.done and _rerunning(job):
        reasons = [f"{reason}: {count}" for reason, count in sorted(job.reruns.items())]
        left = step.maps.count - step.maps.in_state[COMPLETED]
        return _because("MAPS_RERUN", f"{left} maps run (again) before the reduces can go on", *reasons)
    if leader is not None:
        held_up = _slow(leader, job)
        if held_up is not None:
            return held_up
    if job.failures:
        task, story = next(reversed(job.failures.items()))
        last = job_pb2.Failure.FromString(story[-1].failure)
        tasks = job.tasks(task.step, task.kind)
        if tasks is not None and not tasks.winner_attempt[task.index]:
            return _because(
                "TASKS_RETRIED",
                f"{task.text} is tried again after {causes.name(last.cause)} on {story[-1].worker}",
                last.message,
                next_step=f"mr tasks {job.id}",
            )
    return None


def _rerunning(job: Job) -> bool:
    return any(lost for _, _, _, lost in job.current.log.read(0, len(job.current.log)))


def _slow(leader: Leader, job: Job) -> cluster_pb2.Explanation | None:
    slow = leader.attention.stragglers(job, leader.progress, leader.now_s)
    lines = [f"{key.text} for {leader.attention.elapsed(key, leader.now_s):.0f} s" for key in slow[:5]]
    last = leader.attention.last_done_s.get(job.id)
    groups = [g for (name, _, _), g in leader.attention.groups.items() if name == job.id and len(g.durations)]
    median = max((g.durations.median for g in groups), default=0.0)
    if last is not None and leader.now_s - last > max(STALL_LEAST_S, STALL_FACTOR * median):
        quiet = leader.now_s - last
        return _because(
            "STALLED", f"no task was completed for {quiet:.0f} s", *lines, next_step=f"mr tasks {job.id}"
        )
    if slow and not job.current.maps.in_state[IDLE] and not job.current.reduces.in_state[IDLE]:
        return _because(
            "STRAGGLER", f"{len(slow)} slow tasks are left", *lines, next_step=f"mr tasks {job.id}"
        )
    return None


def _running(job: Job) -> cluster_pb2.Explanation:
    step = job.current
    maps, reduces = step.maps, step.reduces
    text = (
        f"maps {maps.in_state[COMPLETED]}/{maps.count}, reduces {reduces.in_state[COMPLETED]}/{reduces.count}"
    )
    if len(job.steps) > 1:
        text = f"step {job.step + 1} of {len(job.steps)}: {text}"
    return _because("RUNNING", f"{text}, {job.running} running")


def _because(cause: str, text: str, *details: str, next_step: str = "") -> cluster_pb2.Explanation:
    return cluster_pb2.Explanation(
        cause=cause, text=text, details=[line for line in details if line], next=next_step
    )
