"""The worker's half of the protocol, without sockets, processes, files or a clock.

`Agent.handle` takes one event (what the leader, a task process, a fetch or the timer did) and returns the
actions to carry out. `worker/runtime.py` carries them out and feeds the outcome back as the next event; it
decides nothing. A test, or the simulation, plays the runtime. Here is whom the worker listens to and what it
says; what it has in hand is `worker/workload.py`.

Laws. An order of a term older than the highest seen is refused (C12). The leader's silence kills no work: only
the answer to a re-attach decides (S1-06). Nothing that comes from the network raises: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from mr.rpc import session_pb2 as session
from worker.events import (
    Action,
    Attempt,
    CloseSession,
    DrainWanted,
    Event,
    Exit,
    FetchEnded,
    JobPrepared,
    Joined,
    Note,
    OutputDamaged,
    PeerSuspected,
    PrepareFailed,
    Received,
    Send,
    SessionClosed,
    SessionOpened,
    SweepScratch,
    TaskDone,
    TaskFailed,
    TaskProgress,
    Tick,
)
from worker.identity import Identity
from worker.workload import REPORT_AGAIN_S, Step, Workload

# A leader that does not answer heartbeats for this many of their periods is looked for elsewhere.
SILENT_HEARTBEATS = 5
# How long a worker told to end keeps map outputs that reduces may still want; Kubernetes' default is 30 s.
DRAIN_GRACE_S = 25.0
# Refusals that are no orders of a leader: another cluster's terms say nothing here.
_REFUSED_IN_ANY_TERM = frozenset({"WRONG_CLUSTER", "WRONG_VERSION", "NOT_ALLOWED"})

EXIT_DRAINED = 0
EXIT_NOT_ALLOWED = 4
EXIT_REFUSED = 5


class Agent:
    """Decides what one worker does. `now` is monotonic seconds, as in every `Tick`."""

    def __init__(self, identity: Identity, cluster_id: str = "", now: float = 0.0) -> None:
        self.identity = identity
        self.cluster_id = cluster_id
        self.term = 0
        self.session: int | None = None
        self.leader = ""
        self.leaving: str | None = None  # why this process is to end
        self.load = Workload(identity.slots, identity.kinds)
        self.load.now = now
        self._memory_used = 0
        self._heartbeat_s = 1.0
        self._heartbeat_at = 0.0
        self._heartbeats = 0
        self._heard_at = 0.0
        self._leave_by = 0.0
        self._swept = False

    def handle(self, event: Event) -> list[Action]:
        """One event in, the actions that follow from it out, to be carried out in this order."""
        actions = self._addressed(self._steps(event))
        if self.leaving is not None and self._idle():
            actions.append(Exit(EXIT_DRAINED, self.leaving))
        return actions

    def check(self) -> None:
        """What holds after every event; for tests."""
        self.load.check()

    def _steps(self, event: Event) -> list[Step]:
        match event:
            case SessionOpened():
                return self._attach(event.session)
            case SessionClosed():
                if event.session == self.session:
                    self.session, self.leader = None, ""
                return []
            case Received():
                return self._received(event)
            case Tick():
                return self._tick(event)
            case JobPrepared():
                return self.load.prepared(event)
            case PrepareFailed():
                return self.load.prepare_failed(event)
            case TaskProgress():
                if event.attempt in self.load.work:
                    self.load.work[event.attempt].progress = event.progress
                return []
            case TaskDone():
                return self.load.done(event)
            case TaskFailed():
                return self.load.failed(event.attempt, event.failure)
            case FetchEnded():
                return self.load.fetch_ended(event)
            case OutputDamaged():
                return self.load.damaged(event)
            case PeerSuspected():
                suspicion = session.Suspicion(
                    worker=event.worker, reachable=event.reachable, asked=event.asked, agreed=event.agreed
                )
                return [session.WorkerEvent(suspicion=suspicion)]
            case DrainWanted():
                self.leaving, self.load.draining = event.reason, True
                self._leave_by = self.load.now + DRAIN_GRACE_S
                return [self._drain_request()]
            case _:
                assert_never(event)

    def _addressed(self, steps: Iterable[Step]) -> list[Action]:
        """Neighbouring events become one Send on the session; without one they are said on the next attach."""
        actions: list[Action] = []
        neighbours: list[session.WorkerEvent] = []
        for step in steps:
            if not isinstance(step, session.WorkerEvent):
                actions.append(step)
                neighbours = []
                continue
            if not neighbours and self.session is not None:
                actions.append(Send(self.session, neighbours))
            neighbours.append(step)
        return actions

    # ------------------------------------------------------------ the session

    def _attach(self, number: int) -> list[Step]:
        """Who this is, what it runs, keeps and has finished, and which jobs left something here. The heartbeat
        says that the report is complete: what the leader misses in it, is not here.
        """
        self.session, self.leader = number, ""
        self._heard_at = self._heartbeat_at = self.load.now
        attach = self.identity.attach(self.cluster_id, self.term, self.load.work, sorted(self.load.held))
        attach.attach.cursors.extend(self.load.cursors())
        attach.attach.jobs.extend(sorted(self.load.jobs))
        leaving = [self._drain_request()] if self.leaving is not None else []
        return [attach, *self.load.repeat_reports(0.0), *leaving, self._heartbeat()]

    def _received(self, event: Received) -> list[Step]:
        if event.session != self.session:
            return []
        message = event.message
        self._heard_at = self.load.now
        for order in message.orders:  # whom to ask, and who we are, are no orders of a leader
            if order.HasField("redirect"):
                return [CloseSession(event.session, "not the leader", order.redirect.leader)]
            if order.HasField("refuse") and order.refuse.code in _REFUSED_IN_ANY_TERM:
                return self._refused(event.session, order.refuse)
        if message.term < self.term:
            return [CloseSession(event.session, f"its term {message.term} is older than {self.term}")]
        self.term = message.term
        steps: list[Step] = []
        for order in message.orders:
            try:
                steps += self._order(event.session, order)
            except ValueError as error:  # a malformed order is refused; the rest of the batch stands
                steps.append(Note(f"refused a malformed order: {error}"))
        return steps

    def _order(self, number: int, order: session.Order) -> list[Step]:
        match order.WhichOneof("kind"):
            case "welcome":
                return self._welcome(number, order.welcome)
            case "assign":
                return self.load.assign(order.index, order.assign)
            case "cancel":
                return self.load.cancel(Attempt.of(order.cancel.attempt))
            case "settled":
                return self.load.settled(Attempt.of(order.settled.attempt), accepted=order.settled.accepted)
            case "outputs":
                steps = self.load.learn(order.outputs)
                if steps is None:
                    why = f"map outputs of job {order.outputs.job} are missing in between"
                    return [CloseSession(number, why)]
                return steps
            case "forget":
                return self.load.forget(order.index, order.forget.job)
            case "drain":
                self.load.draining = order.drain.drain or self.leaving is not None
                if self.leaving is not None and order.drain.drain:
                    self.load.held.clear()  # nobody needs them: the leader says so by this order
                return []
            case "refuse":
                return self._refused(number, order.refuse)
            case "discard":
                return self.load.discard(Attempt.of(order.discard.attempt))
            case _:
                return []  # a newer master's order: unknown fields are no reason to die

    def _welcome(self, number: int, welcome: session.Welcome) -> list[Step]:
        if self.cluster_id not in {"", welcome.cluster_id}:
            why = f"this worker belongs to cluster {self.cluster_id}, not to {welcome.cluster_id}"
            return self._refused(number, session.Refuse(reason=why))
        self.cluster_id, self.leader = welcome.cluster_id, welcome.leader
        self._heartbeat_s = max(0.05, welcome.heartbeat_ms / 1000) if welcome.heartbeat_ms else 1.0
        steps: list[Step] = [Joined(welcome.cluster_id, welcome.leader, list(welcome.peers))]
        if not self._swept:
            self._swept = True
            steps.append(SweepScratch(frozenset(self.load.jobs)))
        return steps

    def _refused(self, number: int, refuse: session.Refuse) -> list[Step]:
        code = EXIT_NOT_ALLOWED if refuse.code == "NOT_ALLOWED" else EXIT_REFUSED
        return [CloseSession(number, refuse.reason), Exit(code, refuse.reason or "refused by the master")]

    # ------------------------------------------------------------ time

    def _tick(self, tick: Tick) -> list[Step]:
        self.load.now, self.load.disk_free, self._memory_used = tick.now, tick.disk_free, tick.memory_used
        steps = [*self.load.overdue(), *self.load.advance()]
        if self.session is None:
            return steps
        if tick.now - self._heard_at > SILENT_HEARTBEATS * self._heartbeat_s:
            return [*steps, CloseSession(self.session, "no answer from the master")]
        if tick.now - self._heartbeat_at >= self._heartbeat_s:
            self._heartbeat_at = tick.now
            steps.append(self._heartbeat())
        return [*steps, *self.load.repeat_reports(REPORT_AGAIN_S)]

    def _heartbeat(self) -> session.WorkerEvent:
        self._heartbeats += 1
        return session.WorkerEvent(
            heartbeat=session.Heartbeat(
                progress=self.load.progress(),
                disk_free_bytes=self.load.disk_free,
                memory_used_bytes=self._memory_used,
                sequence=self._heartbeats,
            )
        )

    # ------------------------------------------------------------ leaving

    def _drain_request(self) -> session.WorkerEvent:
        return session.WorkerEvent(drain=session.DrainRequest(reason=self.leaving or ""))

    def _idle(self) -> bool:
        """Nothing runs, and nobody wants what is here, or has had time enough to get it."""
        waiting = self.load.reports or self.load.held
        return not self.load.work and (not waiting or self.load.now >= self._leave_by)
