"""A worker attaches, for the first time or again: who may, and what its report changes (S1-06). Pure.

The table says what the worker should run and hold, the worker says what it does. Orders that never arrived are sent
again; attempts that are no longer live are cancelled; outputs that nobody needs are dropped; winners' outputs that are
not there any more are lost; jobs that have ended are forgotten, also by a worker that was away when they did (D9). What
runs well goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator

from master import dispatch, orders
from master.desk import Desk
from master.ids import MAP, REDUCE, AttemptKey, key_of
from master.jobs import Job
from master.sessions import Session
from master.workers import LOST, Worker
from mr.rpc import job_pb2, session_pb2, table_pb2
from mr.rpc.session_pb2 import Order
from mr.rpc.table_pb2 import Command

PEERS_TOLD = 100


def attached(desk: Desk, number: int, attach: session_pb2.Attach) -> None:
    """A new stream. Known workers are welcome at once, others when their attach is committed."""
    refusal = why_refused(desk, attach)
    if refusal is not None:
        desk.send_to(number, orders.refuse(*refusal))
        desk.close(number)
        return
    replaced = desk.sessions.open(number, attach, desk.now_s)
    if replaced is not None:
        desk.close(replaced.number)
    known, command = desk.table.workers.get(attach.worker), _command(attach)
    if known is not None and known.state != LOST and known.attach == command:
        welcome(desk, attach.worker, attach.incarnation)
    else:
        desk.proposals.ask(("attach", number), Command(attach=command))


def why_refused(desk: Desk, attach: session_pb2.Attach) -> tuple[str, str] | None:
    """Reason and code, if the worker must not come like this (FT21, FT22)."""
    config, known = desk.config, desk.table.workers.get(attach.worker)
    if attach.cluster_id and config.cluster_id and attach.cluster_id != config.cluster_id:
        return f"this is cluster {config.cluster_id}, not {attach.cluster_id}", "WRONG_CLUSTER"
    if config.version and attach.version and _release(attach.version) != _release(config.version):
        return f"masters are version {config.version}, the worker is {attach.version}", "WRONG_VERSION"
    session = desk.sessions.by_worker.get(attach.worker)
    newest = max(known.incarnation if known else "", session.attach.incarnation if session else "")
    if attach.incarnation < newest:
        return f"a newer life of {attach.worker} has attached", "SUPERSEDED"
    return None


def welcome(desk: Desk, worker: str, incarnation: str) -> None:
    """The worker is in the table: it may get orders."""
    session = desk.sessions.by_worker.get(worker)
    if session is None or session.welcomed or session.attach.incarnation != incarnation:
        return
    session.welcomed = True
    everybody = list(desk.table.workers.values())
    start = session.number % len(everybody)  # others are told of others: nobody is watched by nobody
    ring = everybody[start : start + PEERS_TOLD] + everybody[: max(0, start + PEERS_TOLD - len(everybody))]
    peers = [
        session_pb2.PeerWorker(worker=w.id, address=w.address)
        for w in ring[: len(everybody)]
        if w.state != LOST and w.id != worker
    ]
    greeting = session_pb2.Welcome(
        cluster_id=desk.config.cluster_id,
        leader=desk.config.id,
        heartbeat_ms=int(desk.config.heartbeat_s * 1000),
        lease_ms=int(desk.config.lease_s * 1000),
        peers=peers,
    )
    desk.send(session, Order(index=desk.table.index, welcome=greeting))
    if session.reported:
        reconcile(desk, session)


def reconcile(desk: Desk, session: Session) -> None:
    """Compares what the worker says it runs and holds with what the table says, once a stream."""
    session.reconciled = desk.plan_due = True
    desk.roomy[session.worker] = None
    worker = desk.table.workers[session.worker]
    reported = {key_of(attempt) for attempt in session.attach.running}
    for key in sorted(worker.running - reported - session.told - session.assigned):
        dispatch.send_assign(desk, session, key)
    unwanted: list[tuple[AttemptKey, bool]] = []
    for key in sorted(reported):
        if key not in worker.running:
            unwanted += [(key, True)] if key not in session.told else []
        elif key.kind == REDUCE:
            desk.feeds.subscribe(session, key.job, key.step)
    held = {key_of(attempt) for attempt in session.attach.held}
    needed = set(should_hold(desk, worker))
    unwanted += [(key, False) for key in sorted(held - needed)]
    _drop(desk, session, unwanted)
    for key in sorted(needed - held - session.told):
        desk.lose_output(key, worker.id, job_pb2.OUTPUT_LOST, "the worker came back without it")


def _drop(desk: Desk, session: Session, unwanted: list[tuple[AttemptKey, bool]]) -> None:
    """One order a job where the job is over for this worker, else one a piece."""
    index = desk.table.index
    over = _over(desk, session, [*session.attach.jobs, *(key.job for key, _ in unwanted)])
    for name in over:
        desk.forget_at(name, session.worker)
    for key, running in unwanted:
        if key.job in over:
            continue
        if running:
            desk.send(session, orders.cancel(key, index, "not live"))
        else:
            desk.send(session, orders.discard(key, index))


def _over(desk: Desk, session: Session, reported: list[str]) -> dict[str, None]:
    """Which of these jobs the worker may forget: ended ones, and ones so old that the table has forgotten them.

    Not one that it cleans up right now: that would kill the clean-up, at whose end it is told anyway. Nor a live
    one: the table knows where it ever ran, so its end is told there.
    """
    cleaning = {key.job for key in desk.table.workers[session.worker].running}
    live = desk.table.live
    return {name: None for name in reported if name not in live and name not in cleaning}


def drop_step(desk: Desk, job: Job, step: int) -> None:
    """Every reduce of the step has committed: its map outputs need no disk any more."""
    maps = job.steps[step].maps
    for life in maps.by_life if job.steps[step].reduces.count else ():
        session = desk.sessions.ready(*job.lives[life])
        if session is not None:
            keys = (AttemptKey(job.id, step, MAP, i, maps.winner_attempt[i]) for i in maps.held_by(life))
            desk.send(session, *(orders.discard(key, desk.table.index) for key in keys))


def should_hold(desk: Desk, worker: Worker) -> Iterator[AttemptKey]:
    """The map outputs on that worker's disk that a reduce still needs."""
    for job in desk.table.live.values():
        life = job.life_ids.get((worker.id, worker.incarnation))
        if life is None or not job.current.needs_map_outputs():
            continue
        maps = job.current.maps
        for index in maps.held_by(life):
            yield AttemptKey(job.id, job.step, MAP, index, maps.winner_attempt[index])


def _release(version: str) -> str:
    """The part of a version that must agree: "1" of "1.4.2", "0.3" of "0.3.1"."""
    parts = version.split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def _command(attach: session_pb2.Attach) -> table_pb2.AttachWorker:
    return table_pb2.AttachWorker(
        worker=attach.worker,
        incarnation=attach.incarnation,
        address=attach.address,
        slots=attach.slots,
        labels=attach.labels,
        kinds=attach.kinds,
        host=attach.host,
        memory_bytes=attach.memory_bytes,
        version=attach.version,
        python=attach.python,
        isolation=attach.isolation,
    )
