"""From plan to order: what may be assigned is proposed, what is committed is sent. Pure."""

from __future__ import annotations

from master import orders, planner
from master.desk import Desk
from master.ids import MAP, REDUCE, AttemptKey, TaskKey
from master.leader_events import PlanLoaded
from master.sessions import Session
from master.workers import ACTIVE
from mr.rpc.table_pb2 import Command

STARVING = 100  # jobs without a slot for long that a plan looks at before all others


def plan(desk: Desk, before: list[Command]) -> list[Command]:
    """Assignments for the slots that are free once the commands before them are applied."""
    room = desk.config.batch - len(before)
    if not desk.plan_due or room <= 0:
        return []
    desk.plan_due = False
    table, free = desk.table, free_slots(desk, before)
    situation = planner.Situation(
        free=free,
        total_slots=total_slots(desk),
        planned=lambda job: job.id in desk.plans,
        hosts=lambda task: _hosts(desk, task),
        starved=lambda job: desk.attention.starved(job, desk.now_s),
        now_ms=desk.now_ms,
        jobs=[table.jobs[name] for name in _in_turn(desk)],
        dealt_last=desk.dealt_last,
    )
    planned = planner.plan(table, desk.config, situation)
    chosen = planned.assignments[:room]
    desk.dealt_last = chosen[-1].worker if chosen else desk.dealt_last
    desk.attention.served(planned.jobs, desk.now_s)
    for assignment in chosen:
        free[assignment.worker] -= 1
    spare = {worker: left for worker, left in free.items() if left > 0}
    if spare:
        chosen += desk.attention.backups(spare, desk.progress, desk.now_s)
    return [Command(assign=assignment) for assignment in chosen]


def _in_turn(desk: Desk) -> dict[str, None]:
    """Jobs that may have something to run: who starves first, then by age; ended ones to be cleaned up last."""
    starving = (job for job in desk.attention.starving(desk.now_s, STARVING) if job in desk.table.live)
    return dict.fromkeys([*starving, *desk.table.live, *desk.cleanups])


def free_slots(desk: Desk, before: list[Command]) -> dict[str, int]:
    """Free slots of the workers on the line. A completion that is under way frees one, accepted or
    not; a failure does too, but may say that the worker should have no more."""
    ending: dict[str, int] = {}
    for command in before:
        if command.HasField("complete"):
            name = command.complete.worker
            ending[name] = ending.get(name, 0) + 1
            desk.roomy[name] = None
    free = {}
    for name in list(desk.roomy):
        session, worker = desk.sessions.by_worker.get(name), desk.table.workers.get(name)
        left = 0
        if session is not None and session.reconciled and worker is not None and worker.state == ACTIVE:
            left = worker.slots - len(worker.running) + ending.get(name, 0)
        if left > 0:
            free[name] = left
        else:
            del desk.roomy[name]  # until something ends there, or it attaches
    return free


def total_slots(desk: Desk) -> int:
    """Slots of the workers that may get tasks."""
    if desk.total_slots is None:
        desk.total_slots = planner.total_slots(desk.table.workers.values())
    return desk.total_slots


def _hosts(desk: Desk, task: TaskKey) -> tuple[str, ...]:
    return tuple(desk.plans[task.job].splits[task.index].hosts)


def assigned(desk: Desk, key: AttemptKey) -> None:
    """An assignment is committed: off to its worker, or later, when that attaches again."""
    desk.attention.started(key, desk.now_s)
    job = desk.table.jobs[key.job]
    tasks = job.tasks(key.step, key.kind)
    live = tasks.find(key.index, key.number) if tasks else None
    if live is not None:
        session = desk.sessions.ready(*job.lives[live.life])
        if session is not None:
            send_assign(desk, session, key)


def send_assign(desk: Desk, session: Session, key: AttemptKey) -> None:
    """The order to run a live attempt; it waits for the split plan if that is not here yet."""
    job = desk.table.jobs.get(key.job)
    tasks = job.tasks(key.step, key.kind) if job else None
    live = tasks.find(key.index, key.number) if tasks else None
    if job is None or live is None:
        return
    split = None
    if key.kind == MAP and key.step == 0:
        known = desk.plans.get(key.job)
        if known is None:
            desk.unassigned.setdefault(key.job, []).append((session.number, key))
            return
        split = known.splits[key.index]
    order = orders.assign(
        job,
        key,
        live.index,
        split=split,
        with_spec=job.id not in session.specs,
        deadline_ms=desk.attention.deadline_ms(job, key),
    )
    session.specs.add(job.id)
    session.assigned.add(key)
    desk.send(session, order)
    if key.kind == REDUCE:
        desk.feeds.subscribe(session, key.job, key.step)


def plan_loaded(desk: Desk, event: PlanLoaded) -> None:
    """The split plan of a job is here: its maps may be planned, and orders that waited for it go out."""
    job = desk.table.live.get(event.job)
    if job is None or len(event.plan.splits) != job.spec.maps:
        return
    desk.plans[event.job] = event.plan
    desk.plan_due = True
    for number, key in desk.unassigned.pop(event.job, []):
        session = desk.sessions.by_number.get(number)
        if session is not None:
            send_assign(desk, session, key)
