"""What lies on the leader's desk: what it knows beside the table, and what it is about to say.

Shared by the parts of the leader, each of which has one subject (`dispatch`, `reattach`, `reports`, `leases`). Nothing
here decides. Pure; times are the leader's monotonic seconds.
"""

from __future__ import annotations

from master import orders
from master.attention import Attention
from master.ids import AttemptKey
from master.leader_config import LeaderConfig
from master.leader_events import Action, CloseSession, Send
from master.outputs import Feeds
from master.proposals import Proposals
from master.sessions import Session, Sessions
from master.task_table import TaskTable
from mr.rpc import job_pb2, session_pb2, table_pb2
from mr.rpc.session_pb2 import Order
from mr.rpc.table_pb2 import Command


class Desk:
    """One term of office."""

    def __init__(self, table: TaskTable, config: LeaderConfig) -> None:
        self.table = table
        self.config = config
        self.now_s, self.now_ms = 0.0, 0
        self.sessions = Sessions()
        self.attention = Attention(table, config)
        self.feeds = Feeds(table, self.sessions)
        self.proposals = Proposals(config.batch)
        self.plans: dict[str, job_pb2.SplitPlan] = {}
        self.progress: dict[AttemptKey, session_pb2.Progress] = {}
        self.cleanups: dict[str, None] = {}  # ended jobs whose staging place is still there
        self.plan_due = False  # something changed that may let a task start
        self.dealt_last = ""
        self.roomy: dict[str, None] = {}  # workers that may have a free slot; all others have none
        self.total_slots: int | None = None  # of workers that may get tasks; None: to be counted again
        self.unassigned: dict[str, list[tuple[int, AttemptKey]]] = {}  # orders that wait for a split plan
        self.actions: list[Action] = []
        self._sends: dict[int, list[Order]] = {}

    # -- to say --

    def send(self, session: Session, *new: Order) -> None:
        """Orders for a worker, batched until the event at hand is done with."""
        self.send_to(session.number, *new)

    def send_to(self, number: int, *new: Order) -> None:
        """The same, to a stream that is no session yet."""
        self._sends.setdefault(number, []).extend(new)

    def close(self, number: int) -> None:
        """Ends a stream, after what was said to it."""
        self._deliver(number)
        self.actions.append(CloseSession(number))

    def drain(self) -> list[Action]:
        """All that is to be done now."""
        for number in list(self._sends):
            self._deliver(number)
        actions, self.actions = self.actions, []
        return actions

    def _deliver(self, number: int) -> None:
        if number in self._sends:
            self.actions.append(Send(number, self._sends.pop(number)))

    def cancel_at(self, worker: str, key: AttemptKey, index: int, reason: str) -> None:
        """Tells a worker to stop an attempt, if it is on the line."""
        session = self.sessions.by_worker.get(worker)
        if session is not None and session.welcomed:
            self.send(session, orders.cancel(key, index, reason))

    def forget_at(self, job: str, worker: str) -> None:
        """Tells a worker that a job has ended, if it is on the line."""
        session = self.sessions.by_worker.get(worker)
        if session is not None and session.welcomed:
            session.specs.discard(job)
            self.send(session, orders.forget(job, self.table.index))

    # -- to propose --

    def lose_output(self, key: AttemptKey, worker: str, cause: int, message: str) -> None:
        """A map output is gone."""
        lost = table_pb2.LoseOutput(
            attempt=key.proto(),
            worker=worker,
            cause=cause,  # type: ignore[arg-type]  # an open enum
            message=message[:300],
        )
        self.proposals.ask(("lose output", key), Command(lose_output=lost))

    def revoke(self, key: AttemptKey, cause: int, message: str) -> None:
        """An attempt is to stop."""
        revoke = table_pb2.RevokeAttempt(
            attempt=key.proto(),
            cause=cause,  # type: ignore[arg-type]  # an open enum
            message=message[:300],
        )
        self.proposals.ask(("revoke", key), Command(revoke=revoke))

    def give_up(self, worker: str, incarnation: str, reason: str) -> None:
        """A worker is lost."""
        lose = table_pb2.LoseWorker(worker=worker, incarnation=incarnation, reason=reason)
        self.proposals.ask(("lose worker", worker, incarnation), Command(lose_worker=lose))

    def set_state(self, worker: str, state: int, reason: str, until_ms: int = 0) -> None:
        """A worker is drained, excluded or taken back."""
        change = table_pb2.SetWorkerState(
            worker=worker,
            state=state,  # type: ignore[arg-type]  # an open enum
            reason=reason[:300],
            until_ms=until_ms,
            identity=f"master {self.config.id}",
        )
        self.proposals.ask(("state", worker), Command(set_worker=change))
