"""What only the leader does: leases, plans, proposals, orders. Events in, actions out.

`Leader.handle` takes one event (an entry applied, a worker's word, a tick) and returns what to do about it. It has no
socket, no clock and no thread: `master/driver.py` carries out and feeds back, a test plays the driver.

Three laws. A new leader does nothing before its own first entry is applied; then all it knows is the table and what
workers report as they attach again. Every order follows from a committed entry. One proposal is under way at a time,
and a plan is made from the table alone: so no decision is ever taken twice.
"""

from __future__ import annotations

from typing import assert_never

from master import dispatch, leases, planner, reattach, reports, retention
from master.attention import Attention
from master.desk import Desk
from master.events import (
    AttemptEnded,
    AttemptFailed,
    AttemptStarted,
    CleanupGivenUp,
    Event,
    JobAccepted,
    JobFinished,
    LeaderChanged,
    MapOutputLost,
    MapOutputReady,
    MapsDone,
    StepStarted,
    TaskCompleted,
    WorkerAttached,
    WorkerLost,
    WorkerStateChanged,
)
from master.ids import CLEANUP, AttemptKey, key_of
from master.jobs import CANCELLED, FAILED, Job
from master.leader_config import LeaderConfig
from master.leader_events import (
    Action,
    Applied,
    Attached,
    Deposed,
    Elected,
    Input,
    LoadPlan,
    PlanLoaded,
    Proposed,
    SessionClosed,
    Tick,
    WorkerSaid,
)
from master.sessions import Session, Sessions
from master.task_table import TaskTable
from master.workers import DRAINING, LOST
from mr.rpc import job_pb2, session_pb2, table_pb2
from mr.rpc.table_pb2 import Command

WAITING_WORDS = 10_000  # that a stream may say before the leader is ready to listen

__all__ = ["Leader", "LeaderConfig"]


class Leader:
    """The leading half of a master. Views read it; nobody else changes what it knows."""

    def __init__(self, table: TaskTable, config: LeaderConfig) -> None:
        self.table = table
        self.config = config
        self._reset()

    def _reset(self) -> None:
        self.active = False
        self.ready = False  # this term's first entry is applied
        self.term = 0
        self.desk = Desk(self.table, self.config)
        self._waiting: dict[int, tuple[session_pb2.Attach, list[session_pb2.WorkerEvent]]] = {}

    @property
    def sessions(self) -> Sessions:
        """Who is on the line."""
        return self.desk.sessions

    @property
    def attention(self) -> Attention:
        """What it keeps an eye on."""
        return self.desk.attention

    @property
    def plans(self) -> dict[str, job_pb2.SplitPlan]:
        """Split plans at hand, by job."""
        return self.desk.plans

    @property
    def progress(self) -> dict[AttemptKey, session_pb2.Progress]:
        """What running attempts last said."""
        return self.desk.progress

    @property
    def now_s(self) -> float:
        """The time of the last tick."""
        return self.desk.now_s

    def handle(self, event: Input) -> list[Action]:
        """One event in; what to do about it out, in order."""
        desk = self.desk
        match event:
            case Elected():
                self._take_office(event)
                desk = self.desk
            case Deposed():
                self._reset()
            case Applied():
                self._applied(event)
            case Proposed():
                if desk.proposals.settle(event.number, event.outcome, desk.now_s):
                    desk.plan_due = True
            case Attached():
                self._attached(event)
            case WorkerSaid():
                self._worker_said(event.session, event.event)
            case SessionClosed():
                self._waiting.pop(event.session, None)
                leases.session_closed(desk, event.session)
            case PlanLoaded():
                dispatch.plan_loaded(desk, event)
            case Tick():
                self._tick(event)
            case _:
                assert_never(event)
        return self._act(desk) if self.active else []

    def _act(self, desk: Desk) -> list[Action]:
        """What the event at hand and all before it call for."""
        if self.ready:
            for session, news in desk.feeds.news(desk.now_s):
                desk.send(session, *news)
        proposal = desk.proposals.next(
            desk.now_s, lambda before: dispatch.plan(desk, before) if self.ready else []
        )
        return [*desk.drain(), *([proposal] if proposal else [])]

    # -- office --

    def _take_office(self, event: Elected) -> None:
        self._reset()
        self.active, self.term = True, event.term
        self.desk.now_s, self.desk.now_ms = event.now_s, event.now_ms
        office = table_pb2.TakeOffice(leader=self.config.id, version=self.config.version)
        self.desk.proposals.ask(("office",), Command(take_office=office))

    def _begin(self) -> None:
        """The table is now as it was when this term began: derive everything from it."""
        self.ready = True
        desk = self.desk
        for worker in self.table.workers.values():
            if worker.state != LOST:
                desk.sessions.heard.setdefault(worker.id, desk.now_s)
            for key in worker.running:
                desk.attention.started(key, desk.now_s)
        for job in self.table.jobs.values():
            self._notice_job(job)
        waiting, self._waiting = self._waiting, {}
        for number, (attach, said) in waiting.items():
            reattach.attached(desk, number, attach)
            for word in said:
                self._worker_said(number, word)

    def _notice_job(self, job: Job) -> None:
        desk = self.desk
        if job.terminal:
            if job.state in (FAILED, CANCELLED) and not job.cleanup.done and not job.cleanup_given_up:
                desk.cleanups[job.id] = None
            return
        desk.attention.job_seen(job, desk.now_s)
        if job.step == 0 and job.spec.maps and job.id not in desk.plans:
            desk.actions.append(LoadPlan(job.id, job.spec.splits_digest))

    # -- what the log says --

    def _applied(self, event: Applied) -> None:
        if not self.active:
            return
        for command, results in zip(event.entry.commands, event.results, strict=False):
            reports.answer(self.desk, command, results, event.index)
            for result in results:
                self._follow(result, event.index)
        self.desk.plan_due = True
        self.desk.attention.logged(self.desk.now_s)

    def _follow(self, event: Event, index: int) -> None:
        """What the leader does because the table changed."""
        desk = self.desk
        match event:
            case LeaderChanged():
                if event.term == self.term and event.leader == self.config.id and not self.ready:
                    self._begin()
            case JobAccepted():
                if event.job in self.table.jobs and self.ready:
                    self._notice_job(self.table.jobs[event.job])
            case AttemptStarted():
                dispatch.assigned(desk, event.attempt)
            case TaskCompleted() | AttemptFailed() | AttemptEnded():
                self._attempt_over(event, index)
            case MapOutputReady() | MapOutputLost():
                desk.feeds.changed(event.attempt.job, event.attempt.step)
            case MapsDone():
                desk.attention.maps_done(event.job, event.step, desk.now_s)
            case StepStarted():
                desk.plans.pop(event.job, None)
                reattach.drop_step(desk, self.table.jobs[event.job], event.step - 1)
            case JobFinished():
                self._job_over(event.job)
            case CleanupGivenUp():
                desk.cleanups.pop(event.job, None)
            case WorkerLost():
                desk.total_slots = None
            case WorkerAttached():
                desk.total_slots = None
                reattach.welcome(desk, event.worker, event.incarnation)
            case WorkerStateChanged():
                leases.state_changed(desk, event)
            case _:
                pass

    def _attempt_over(self, event: TaskCompleted | AttemptFailed | AttemptEnded, index: int) -> None:
        desk, key = self.desk, event.attempt
        desk.roomy[event.worker] = None
        desk.progress.pop(key, None)
        desk.attention.ended(key, desk.now_s, won=isinstance(event, TaskCompleted))
        match event:
            case TaskCompleted():
                if key.kind == CLEANUP:
                    desk.cleanups.pop(key.job, None)
            case AttemptFailed():
                weight = desk.attention.blame(event)
                if weight:
                    reports.strike(desk, event.worker, weight, event.text)
                if event.cause == job_pb2.CORRUPT_DATA:
                    reports.damaged_input(desk, event)
            case AttemptEnded():
                if event.cause != job_pb2.WORKER_LOST:
                    desk.cancel_at(event.worker, key, index, event.text)
            case _:
                assert_never(event)
        if key.kind == CLEANUP:  # its job ended before: whatever became of it, nothing of it stays there (D9)
            desk.forget_at(key.job, event.worker)

    def _job_over(self, name: str) -> None:
        desk, job = self.desk, self.table.jobs[name]
        for worker in dict.fromkeys(worker for worker, _ in job.lives[1:]):
            desk.forget_at(name, worker)
            desk.roomy[worker] = None
        desk.plans.pop(name, None)
        desk.unassigned.pop(name, None)
        desk.feeds.forget(name)
        desk.attention.job_over(name)
        for key in [key for key in desk.progress if key.job == name]:
            del desk.progress[key]
        self._notice_job(job)

    # -- what workers say --

    def _attached(self, event: Attached) -> None:
        if self.ready:
            reattach.attached(self.desk, event.session, event.attach)
        elif self.active:
            self._waiting[event.session] = (event.attach, [])

    def _worker_said(self, number: int, word: session_pb2.WorkerEvent) -> None:
        if number in self._waiting:
            said = self._waiting[number][1]
            if len(said) < WAITING_WORDS:
                said.append(word)
            return
        desk = self.desk
        session = desk.sessions.by_number.get(number)
        if session is None or not self.ready:
            return
        desk.sessions.heard[session.worker] = desk.now_s
        match word.WhichOneof("kind"):
            case "heartbeat":
                self._heartbeat(session, word.heartbeat)
            case "completed" | "failed":
                reports.reported(desk, session, word)
            case "fetch_failed":
                reports.fetch_failed(desk, session, word.fetch_failed)
            case "output_lost":
                lost = word.output_lost
                desk.lose_output(key_of(lost.attempt), session.worker, job_pb2.OUTPUT_LOST, lost.message)
            case "suspicion":
                desk.attention.suspected(session.worker, word.suspicion, desk.now_s)
            case "drain":
                desk.set_state(session.worker, DRAINING, word.drain.reason or "asked to stop")
            case _:
                pass  # a second attach, or a word of a newer release

    def _heartbeat(self, session: Session, beat: session_pb2.Heartbeat) -> None:
        session.disk_free_bytes, session.memory_used_bytes = beat.disk_free_bytes, beat.memory_used_bytes
        worker = self.table.workers.get(session.worker)
        for progress in beat.progress:
            key = key_of(progress.attempt)
            if worker is not None and key in worker.running:
                self.desk.progress[key] = progress
        if not session.reported:
            session.reported = True
            if session.welcomed:
                reattach.reconcile(self.desk, session)

    # -- time --

    def _tick(self, event: Tick) -> None:
        desk = self.desk
        gap_s = event.now_s - desk.now_s
        desk.now_s, desk.now_ms = event.now_s, event.now_ms
        if not self.ready:
            return
        leases.forgive(desk, gap_s)
        if not desk.attention.due(desk.now_s):
            return
        desk.plan_due = True
        leases.watch(desk)
        for name in desk.attention.expired(desk.now_s):
            desk.proposals.ask(("expire", name), Command(expire=table_pb2.ExpireJob(job=name)))
        if desk.attention.clock_due(desk.now_s):  # every release knows how to forget nothing
            desk.proposals.ask(("clock",), Command(forget_jobs=table_pb2.ForgetJobs()))
        free = sum(dispatch.free_slots(desk, []).values())
        for key in planner.deadlocked(self.table, dispatch.total_slots(desk), free):
            desk.revoke(key, job_pb2.LEASE_REVOKED, "maps that it waits for need its slot")
        old = retention.to_forget(self.table, self.config) if desk.attention.tidy_due(desk.now_s) else []
        if old:
            desk.proposals.ask(("forget",), Command(forget_jobs=table_pb2.ForgetJobs(jobs=old)))
