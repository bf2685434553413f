"""From the table to a plan: which jobs take turns, which of their tasks are ready, how many reduces may start early.

Pure: it reads the table and what it is given, and returns commands. Its cost follows free slots and the jobs that are
looked at, never the number of tasks: idle tasks are found by the table's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from master.causes import LASTING
from master.columns import COMPLETED, IDLE, IN_PROGRESS
from master.fair_share import Claim, turns
from master.ids import MAP, REDUCE, AttemptKey, TaskKey
from master.jobs import PUBLISHING, Job
from master.leader_config import LeaderConfig
from master.scheduler import PLACEMENTS, POLICIES, ClusterView, FreeWorker, Placement, ReadyTask, round_robin
from master.task_table import TaskTable
from master.workers import ACTIVE, Worker
from mr.rpc import job_pb2, table_pb2

JOBS_A_USER = 16  # claims looked at a plan: more runnable jobs than that of one user wait for the next plan
AVOID_S = 10.0  # a task waits this long, and no longer, for a worker on which it has not failed
# A disk that is full stays full for a while, and a task has so many tries by no fault of its own and no more: from the
# second failure in a row on it waits, longer each time.
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 250, 30_000
SPARE = 16  # ready tasks offered beyond the free slots, so that one that fits nowhere does not block the rest

Hosts = Callable[[TaskKey], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Situation:
    """What the leader knows beside the table. `free` counts slots of attached workers, as they will be."""

    free: dict[str, int]
    total_slots: int
    planned: Callable[[Job], bool]  # whether the job's split plan is at hand
    hosts: Hosts
    starved: Callable[[str], float]  # seconds without a new slot, if too many
    now_ms: int  # the leader's wall clock, as in the log
    jobs: Iterable[Job]  # that may have something to run, those longest without a slot first within a user
    dealt_last: str = ""


@dataclass(slots=True)
class Planned:
    """What came of it: commands, and the jobs that got something."""

    assignments: list[table_pb2.AssignTask]
    jobs: set[str]


def plan(table: TaskTable, config: LeaderConfig, now: Situation) -> Planned:
    """Assignments for the free slots."""
    slots = sum(now.free.values())
    result = Planned([], set())
    if not slots:
        return result
    queues: dict[str, list[ReadyTask]] = {}
    claims = []
    for job, wants in _claims(table, config, now, slots):
        queues[job.id] = wants
        options = job.spec.options
        claims.append(
            Claim(
                job.id,
                options.queue,
                job.owner,
                options.priority,
                job.order,
                job.running - _waiting(job),
                len(wants),
                now.starved(job.id),
            )
        )
    if not claims:
        return result
    held_by_queue, held_by_user = _held(table)
    order = turns(claims, slots + SPARE, held_by_queue, held_by_user)
    ready = round_robin(order, queues)
    view = ClusterView(
        tuple(_free_workers(table, config, now)), tuple(ready), now.dealt_last, PLACEMENTS[config.placement]
    )
    for placement in _place(table, config, view):
        result.assignments.append(_command(table, placement))
        result.jobs.add(placement.task.job)
    return result


def _place(table: TaskTable, config: LeaderConfig, view: ClusterView) -> list[Placement]:
    """Each job is placed by its own policy; nearly always that is one policy, and one call."""
    names = {table.jobs[r.task.job].spec.options.policy or config.policy for r in view.ready}
    placed: list[Placement] = []
    left = {worker.id: worker.free for worker in view.workers}
    for name in sorted(names):
        mine = tuple(
            r for r in view.ready if (table.jobs[r.task.job].spec.options.policy or config.policy) == name
        )
        workers = tuple(
            FreeWorker(w.id, w.host, left[w.id], w.kinds, w.runs) for w in view.workers if left[w.id] > 0
        )
        policy = POLICIES.get(name, POLICIES["locality"])()
        for placement in policy.plan(ClusterView(workers, mine, view.dealt_last, view.allows)):
            left[placement.worker] -= 1
            placed.append(placement)
    return placed


def _claims(
    table: TaskTable, config: LeaderConfig, now: Situation, slots: int
) -> Iterator[tuple[Job, list[ReadyTask]]]:
    looked_at: dict[tuple[str, str], int] = {}
    early = int(now.total_slots * config.reduce_share) - waiting_reduces(table)
    for job in now.jobs:
        user = (job.spec.options.queue, job.owner)
        if looked_at.get(user, 0) >= JOBS_A_USER:
            continue
        ready = _ready(table, config, now, job, slots + SPARE, early)
        if ready:
            looked_at[user] = looked_at.get(user, 0) + 1
            yield job, ready


def _ready(
    table: TaskTable, config: LeaderConfig, now: Situation, job: Job, most: int, early: int
) -> list[ReadyTask]:
    """The job's tasks that may be assigned, in the order in which it wants them."""
    if job.terminal or job.state == PUBLISHING:
        return [
            ReadyTask(TaskKey(job.id, step, kind, index), (), frozenset(job.bars(kind)))
            for step, kind, tasks in job.runnable()
            for index in tasks.idle(most)
            if not paused_ms(job, TaskKey(job.id, step, kind, index), now.now_ms)
        ]
    step = job.current
    if job.step == 0 and step.maps.count and not now.planned(job):
        return []
    maps = [_ready_task(table, now, job, MAP, index) for index in _rested(job, now, MAP, most)]
    allowed = min(most, reduces_allowed(job, config, now.total_slots, early))
    reduces = [_ready_task(table, now, job, REDUCE, index) for index in _rested(job, now, REDUCE, allowed)]
    # While maps wait, `reduces_allowed` has held the reduces to their share, so they may go first.
    return reduces + maps if maps else reduces


def _rested(job: Job, now: Situation, kind: int, most: int) -> list[int]:
    """The first idle tasks of the job's step that need not wait."""
    waiting = {
        task.index
        for task, story in job.failures.items()
        if (task.step, task.kind) == (job.step, kind)
        and story[-1].ended_ms + LONGEST_PAUSE_MS > now.now_ms  # which is cheap to see
        and paused_ms(job, task, now.now_ms)
    }
    tasks = job.current.maps if kind == MAP else job.current.reduces
    return [index for index in tasks.idle(most + len(waiting)) if index not in waiting][:most]


def paused_ms(job: Job, task: TaskKey, now_ms: int) -> int:
    """How long the task still waits after its last failures; 0 when it need not. The end of a failure that another
    leader, whose clock was far ahead, put into the log holds nothing up (FC21)."""
    times = 0
    story = job.failures.get(task, ())
    for ended in reversed(story):
        if ended.state != "failed" or job_pb2.Failure.FromString(ended.failure).cause not in LASTING:
            break
        times += 1
    if times < 2:
        return 0
    left_ms = story[-1].ended_ms + min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << times - 2) - now_ms
    return left_ms if 0 < left_ms <= LONGEST_PAUSE_MS else 0


def reduces_allowed(job: Job, config: LeaderConfig, total_slots: int, early: int) -> int:
    """How many more reduces may start now (S1-14): all once no map is idle; before that a growing share of the
    slots, never so many that maps starve, none at all when there is a single slot."""
    step = job.current
    waiting, reduces = step.reduces.in_state[IDLE], step.reduces.in_state
    maps, count = step.maps.in_state, step.maps.count
    if not waiting or maps[COMPLETED] == count:
        return waiting
    eager = POLICIES.get(job.spec.options.policy or config.policy, POLICIES["locality"]).eager_reduces
    if not eager and maps[COMPLETED] < count * config.slow_start:
        return 0
    if total_slots < 2:
        return 0
    if not maps[IDLE]:
        # Maps still run, none waits: a slot that a failed map needs again is left to it.
        return min(waiting, max(0, total_slots - maps[IN_PROGRESS]))
    if config.placement:
        return 0  # a reduce that waits on a machine would bar it to maps
    share = 1.0 if eager else maps[COMPLETED] / count
    target = int(total_slots * config.reduce_share * share)
    return max(0, min(waiting, early, target - reduces[IN_PROGRESS]))


def _waiting(job: Job) -> int:
    """Its reduces that wait for maps that have no slot: they are no share of the slots, or their own maps would be the
    last to get one (T13)."""
    step = job.current
    return step.reduces.in_state[IN_PROGRESS] if step.maps.in_state[IDLE] and job.state != PUBLISHING else 0


def waiting_reduces(table: TaskTable) -> int:
    """Reduces that hold a slot while maps of their step are not done."""
    return sum(
        job.current.reduces.in_state[IN_PROGRESS]
        for job in table.live.values()
        if job.running and job.state != PUBLISHING and not job.current.maps.done
    )


def deadlocked(table: TaskTable, total_slots: int, free: int) -> list[AttemptKey]:
    """Reduces to revoke, because maps they wait for wait for their slots: the youngest first, as few as needed."""
    idle_maps = [
        job
        for job in table.live.values()
        if job.state != PUBLISHING and job.current.maps.in_state[IDLE] and job.current.reduces.live
    ]
    if not idle_maps:
        return []
    blocked = waiting_reduces(table)
    at_work = sum(job.running for job in table.live.values()) - blocked
    short = max(1, total_slots // 2) - at_work
    if short <= 0 or (free > 0 and at_work):
        return []
    victims = [
        (live.index, AttemptKey(job.id, job.step, REDUCE, index, live.number))
        for job in idle_maps
        for index, attempts in job.current.reduces.live.items()
        for live in attempts
    ]
    wanted = min(short, sum(job.current.maps.in_state[IDLE] for job in idle_maps))
    return [key for _, key in sorted(victims, reverse=True)[:wanted]]


def _ready_task(table: TaskTable, now: Situation, job: Job, kind: int, index: int) -> ReadyTask:
    task = TaskKey(job.id, job.step, kind, index)
    hosts = now.hosts(task) if kind == MAP and job.step == 0 else ()
    return ReadyTask(task, hosts, avoided(table, job, task, now.now_ms))


def avoided(table: TaskTable, job: Job, task: TaskKey, now_ms: int) -> frozenset[str]:
    """Workers that must not or should not get the task: barred from the job, or it failed there just now, unless
    that leaves nobody. Not for ever: the others may be busy with something that never ends."""
    since = now_ms - AVOID_S * 1000
    story = job.failures.get(task, ())
    failed = {ended.worker for ended in story if ended.state != "lost"}
    if story and story[-1].ended_ms < since:
        failed = set()
    if not failed:
        return frozenset(job.excluded)
    avoid = failed | job.excluded.keys()
    left = any(w.state == ACTIVE and w.id not in avoid for w in table.workers.values())
    return frozenset(avoid if left else job.excluded)


def _held(table: TaskTable) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    by_queue: dict[str, int] = {}
    by_user: dict[tuple[str, str], int] = {}
    for job in table.live.values():
        if job.running:
            queue = job.spec.options.queue
            by_queue[queue] = by_queue.get(queue, 0) + job.running
            by_user[queue, job.owner] = by_user.get((queue, job.owner), 0) + job.running
    return by_queue, by_user


def _free_workers(table: TaskTable, config: LeaderConfig, now: Situation) -> Iterator[FreeWorker]:
    for name in sorted(now.free):
        worker = table.workers[name]
        runs = _runs(worker) if config.placement else {}
        yield FreeWorker(name, worker.attach.host, now.free[name], worker.kinds, runs)


def _runs(worker: Worker) -> dict[tuple[str, int], int]:
    counts: dict[tuple[str, int], int] = {}
    for key in worker.running:
        counts[key.job, key.kind] = counts.get((key.job, key.kind), 0) + 1
    return counts


def _command(table: TaskTable, placement: Placement) -> table_pb2.AssignTask:
    job, step, kind, index = placement.task
    tasks = table.jobs[job].tasks(step, kind)
    assert tasks is not None, "planned a task that is not there"
    number = tasks.next_attempt[index] + 1
    worker = table.workers[placement.worker]
    return table_pb2.AssignTask(
        attempt=AttemptKey(job, step, kind, index, number).proto(),
        worker=worker.id,
        incarnation=worker.incarnation,
        backup=False,
    )


def total_slots(workers: Iterable[Worker]) -> int:
    """Slots of the workers that may get tasks."""
    return sum(worker.slots for worker in workers if worker.state == ACTIVE)
