"""What workers report of attempts and fetches: into the log if it can still matter, answered at once if not. Pure.

A worker repeats a report until it is settled; it is settled only by what is in the table. "Accepted" is never read
from the fate of one command, for a report may be in the log twice: it means that the attempt is its task's winner.
"""

from __future__ import annotations

from master import orders, planner
from master.desk import Desk
from master.events import AttemptFailed, Event, Refused
from master.fetches import Report, Verdict
from master.ids import MAP, REDUCE, AttemptKey, key_of
from master.sessions import Session
from master.workers import ACTIVE, EXCLUDED
from mr.rpc import job_pb2, session_pb2, table_pb2
from mr.rpc.table_pb2 import Command


def reported(desk: Desk, session: Session, word: session_pb2.WorkerEvent) -> None:
    """A completion or a failure."""
    done = word.HasField("completed")
    key = key_of(word.completed.attempt if done else word.failed.attempt)
    session.told.add(key)
    life = (session.worker, session.attach.incarnation)
    job = desk.table.jobs.get(key.job)
    tasks = job.tasks(key.step, key.kind) if job else None
    live = tasks.find(key.index, key.number) if tasks else None
    if job is None or live is None or job.lives[live.life] != life:
        accepted = has_won(desk, key, life)
        desk.send(session, orders.settled(key, desk.table.index, accepted=accepted, reason="not live"))
        return
    worker, incarnation = life
    desk.plan_due = True  # its slot may be given away in the same entry
    if done:
        complete = table_pb2.CompleteAttempt(
            attempt=word.completed.attempt,
            worker=worker,
            incarnation=incarnation,
            result=word.completed.result,
        )
        if key.kind == MAP and key.index % job.steps[key.step].sample_every:
            complete.result.ClearField("partition_bytes")
            complete.result.ClearField("partition_records")
        desk.proposals.ask(("report", key), Command(complete=complete))
    else:
        fail = table_pb2.FailAttempt(
            attempt=word.failed.attempt,
            worker=worker,
            incarnation=incarnation,
            failure=word.failed.failure,
        )
        desk.proposals.ask(("report", key), Command(fail=fail))


def answer(desk: Desk, command: Command, results: list[Event], index: int) -> None:
    """Tells a worker what became of its report, once that is applied."""
    if command.HasField("complete"):
        report: table_pb2.CompleteAttempt | table_pb2.FailAttempt = command.complete
    elif command.HasField("fail"):
        report = command.fail
    else:
        return
    session = desk.sessions.ready(report.worker, report.incarnation)
    if session is not None:
        key = key_of(report.attempt)
        accepted = has_won(desk, key, (report.worker, report.incarnation))
        reason = next((r.text for r in results if isinstance(r, Refused | AttemptFailed)), "")
        desk.send(session, orders.settled(key, index, accepted=accepted, reason=reason))


def has_won(desk: Desk, key: AttemptKey, life: tuple[str, str]) -> bool:
    """Whether the attempt, in that life of a worker, is its task's winner."""
    job = desk.table.jobs.get(key.job)
    tasks = job.tasks(key.step, key.kind) if job else None
    return (
        job is not None
        and tasks is not None
        and key.index < tasks.count
        and tasks.winner_attempt[key.index] == key.number
        and job.lives[tasks.winner_life[key.index]] == life
    )


def fetch_failed(desk: Desk, session: Session, said: session_pb2.FetchFailed) -> None:
    """A reduce can't read a map output: lose the output, move the reduce, or let it try again."""
    source, reduce = key_of(said.source), key_of(said.reduce)
    worker = desk.table.workers.get(session.worker)
    job = desk.table.live.get(source.job)
    if job is None or worker is None or reduce not in worker.running or source.step != job.step:
        return
    maps = job.current.maps
    if source.index >= maps.count or maps.winner_attempt[source.index] != source.number:
        return  # lost already; the reduce hears of it by its feed
    avoid = planner.avoided(desk.table, job, reduce.task, desk.now_ms) | {session.worker}
    movable = any(w.state == ACTIVE and w.id not in avoid for w in desk.table.workers.values())
    holder = job.worker_of(maps.winner_life[source.index])
    report = Report(source, reduce, session.worker, said.cause)
    verdict = desk.attention.fetches.report(report, desk.now_s, movable=movable)
    if verdict is Verdict.LOSE_OUTPUT:
        desk.lose_output(source, holder, said.cause or job_pb2.FETCH_FAILED, said.message)
        strike(desk, holder, 1, f"{session.worker} and others can't read from it")
    elif verdict is Verdict.MOVE_REDUCE:
        why = f"{session.worker} can't read from {holder}: {said.message}"
        desk.revoke(reduce, job_pb2.FETCH_FAILED, why)


def damaged_input(desk: Desk, event: AttemptFailed) -> None:
    """A reduce that reads its own worker's map outputs where they stand found one damaged: that output is lost, whoever
    tries (D7). One that was fetched is fetched again by the next attempt."""
    key, job = event.attempt, desk.table.live.get(event.attempt.job)
    story = job.failures.get(key.task) if job is not None else None
    if job is None or not story or key.kind != REDUCE or key.step != job.step:
        return
    failure = job_pb2.Failure.FromString(story[-1].failure)
    maps, source = job.current.maps, failure.fetch_source
    index = source.task.index
    if index >= maps.count or not source.number or maps.winner_attempt[index] != source.number:
        return
    if job.worker_of(maps.winner_life[index]) == event.worker:
        lost = AttemptKey(key.job, key.step, MAP, index, source.number)
        desk.lose_output(lost, event.worker, event.cause, failure.message)


def strike(desk: Desk, worker: str, weight: int, why: str) -> None:
    """Excludes a worker for a while after enough strikes, but never more than half of them."""
    if not desk.attention.strike(worker, weight, desk.now_s):
        return
    workers = desk.table.workers.values()
    active = sum(w.state == ACTIVE for w in workers)
    excluded = sum(w.state == EXCLUDED for w in workers) + desk.proposals.asked("state")
    if active > 1 and excluded < (active + excluded) // 2:
        until_ms = 0 if desk.config.exclude_for_good else desk.now_ms + int(desk.config.exclude_s * 1000)
        desk.set_state(worker, EXCLUDED, why, until_ms)
