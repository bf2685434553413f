"""Who is silent for too long, who may leave, whose exclusion is over (S4-19). Pure.

Leases run on the leader's monotonic clock only, and from its taking office: a follower knows nothing of silence. When
the leader itself was away, nobody could be heard, and nobody is to blame.
"""

from __future__ import annotations

from master import reattach
from master.desk import Desk
from master.events import WorkerStateChanged
from master.sessions import Session
from master.workers import ACTIVE, DRAINING, EXCLUDED, LOST, Worker
from mr.rpc import session_pb2
from mr.rpc.session_pb2 import Order

STALL_S = 2.0  # a gap between ticks longer than this was the leader's own pause, not the workers' silence


def forgive(desk: Desk, gap_s: float) -> None:
    """Time has jumped by that much since the last tick."""
    if gap_s > STALL_S:
        desk.sessions.forgive(gap_s)


def watch(desk: Desk) -> None:
    """Looks at every worker."""
    heard = desk.sessions.heard
    for worker in desk.table.workers.values():
        if worker.state == LOST:
            heard.pop(worker.id, None)
            continue
        silent_s = desk.now_s - heard.setdefault(worker.id, desk.now_s)
        session = desk.sessions.by_worker.get(worker.id)
        if silent_s > desk.config.lease_s:
            desk.give_up(worker.id, worker.incarnation, f"silent for {silent_s:.1f} s")
            if session is not None:
                desk.sessions.close(session.number)
                desk.close(session.number)
        elif worker.state == EXCLUDED and 0 < worker.excluded_until_ms <= desk.now_ms:
            desk.set_state(worker.id, ACTIVE, "")
        elif worker.state == DRAINING and session is not None and not session.dismissed:
            _dismiss(desk, session, worker)


def _dismiss(desk: Desk, session: Session, worker: Worker) -> None:
    """A draining worker may leave when it runs nothing and nobody needs what it holds."""
    if session.reconciled and not worker.running and next(reattach.should_hold(desk, worker), None) is None:
        session.dismissed = True
        desk.send(session, Order(index=desk.table.index, drain=session_pb2.DrainOrder(drain=True)))


def state_changed(desk: Desk, event: WorkerStateChanged) -> None:
    """An operator or the leader spoke; one that was told that it may leave is perhaps wanted again."""
    desk.total_slots = None
    desk.roomy[event.worker] = None
    session = desk.sessions.by_worker.get(event.worker)
    if session is not None and session.dismissed and event.state == ACTIVE:
        session.dismissed = False
        desk.send(session, Order(index=desk.table.index, drain=session_pb2.DrainOrder(drain=False)))


def session_closed(desk: Desk, number: int) -> None:
    """A stream is gone. The lease goes on, unless the worker was told that it may leave."""
    session = desk.sessions.close(number)
    if session is not None and session.dismissed:
        desk.give_up(session.worker, session.attach.incarnation, "drained")
