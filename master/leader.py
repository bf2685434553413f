"""What only the leader does: leases, plans, proposals, orders. Events in, actions out.

`Leader.handle` takes one event (an entry applied, a worker's word, a tick) and returns what to do about it. It has no
socket, no clock and no thread: `master/driver.py` carries out and feeds back, a test plays the driver.

Three laws. A new leader does nothing before its own first entry is applied; then all it knows is the table and what
workers report as they attach again. Every order follows from a committed entry. One proposal is under way at a time,
and a plan is made from the table alone: so no decision is ever taken twice, and when the fate of a proposal is
unknown, the leader waits for a later one to be applied and looks again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never

from master import orders, planner, retention
from master.attention import Attention
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
    Refused,
    StepStarted,
    TaskCompleted,
    WorkerAttached,
    WorkerStateChanged,
)
from master.fetches import Report, Verdict
from master.ids import CLEANUP, MAP, REDUCE, AttemptKey, TaskKey, key_of
from master.jobs import CANCELLED, FAILED, Job
from master.leader_config import LeaderConfig
from master.leader_events import (
    Action,
    Applied,
    Attached,
    CloseSession,
    Deposed,
    Elected,
    Input,
    LoadPlan,
    Outcome,
    PlanLoaded,
    Propose,
    Proposed,
    Send,
    SessionClosed,
    Tick,
    WorkerSaid,
)
from master.outputs import Feeds
from master.sessions import Session, Sessions
from master.task_table import TaskTable
from master.workers import ACTIVE, DRAINING, EXCLUDED, LOST, Worker
from mr.rpc import job_pb2, session_pb2, table_pb2
from mr.rpc.session_pb2 import Order
from mr.rpc.table_pb2 import Command

STALL_S = 2.0  # a gap between ticks longer than this was the leader's own pause, not the workers' silence
RETRY_S = 0.1  # before another proposal, after one that came to nothing
WAITING_EVENTS = 10_000  # that a stream may say before the leader is ready to listen

_About: TypeAlias = tuple[str | int | AttemptKey, ...]
_Wish: TypeAlias = tuple[_About, Command]

__all__ = ["Leader", "LeaderConfig"]


class Leader:
    """The leading half of a master. Views read its attributes; nobody else changes them."""

    def __init__(self, table: TaskTable, config: LeaderConfig) -> None:
        self.table = table
        self.config = config
        self._number = 0
        self._reset()

    def _reset(self) -> None:
        self.active = False
        self.ready = False  # this term's first entry is applied
        self.term = 0
        self.now_s, self.now_ms = 0.0, 0
        self.sessions = Sessions()
        self.attention = Attention(self.table, self.config)
        self.feeds = Feeds(self.table, self.sessions)
        self.plans: dict[str, job_pb2.SplitPlan] = {}
        self.progress: dict[AttemptKey, session_pb2.Progress] = {}
        self._waiting: dict[int, tuple[session_pb2.Attach, list[session_pb2.WorkerEvent]]] = {}
        self._queue: list[_Wish] = []
        self._asked: set[_About] = set()  # wishes queued or under way, by what they are about
        self._in_flight: tuple[int, list[_Wish]] | None = None
        self._uncertain: list[_Wish] = []  # of proposals whose fate is unknown until a later one is applied
        self._unsure = False
        self._propose_at_s = 0.0  # not before
        self._plan_due = False
        self._dealt_last = ""
        self._unassigned: dict[str, list[tuple[int, AttemptKey]]] = {}  # orders that wait for a split plan
        self._cleanups: dict[str, None] = {}
        self._sends: dict[int, list[Order]] = {}
        self._actions: list[Action] = []

    def handle(self, event: Input) -> list[Action]:
        """One event in; what to do about it out, in order."""
        match event:
            case Elected():
                self._take_office(event)
            case Deposed():
                self._reset()
            case Applied():
                self._applied(event)
            case Proposed():
                self._proposed(event)
            case Attached():
                self._attached(event.session, event.attach)
            case WorkerSaid():
                self._worker_said(event.session, event.event)
            case SessionClosed():
                self._session_closed(event.session)
            case PlanLoaded():
                self._plan_loaded(event)
            case Tick():
                self._tick(event)
            case _:
                assert_never(event)
        if self.ready:
            for session, news in self.feeds.news():
                self._send(session, *news)
        if self.active:
            self._flush()
        return self._drain()

    # -- office --

    def _take_office(self, event: Elected) -> None:
        self._reset()
        self.active, self.term = True, event.term
        self.now_s, self.now_ms = event.now_s, event.now_ms
        office = table_pb2.TakeOffice(leader=self.config.id, version=self.config.version)
        self._ask(("office",), Command(take_office=office))

    def _begin(self) -> None:
        """The table is now as it was when this term began: derive everything from it."""
        self.ready, self._plan_due = True, True
        for worker in self.table.workers.values():
            if worker.state != LOST:
                self.sessions.heard.setdefault(worker.id, self.now_s)
        for job in self.table.jobs.values():
            self._notice_job(job)
        for worker in self.table.workers.values():
            for key in worker.running:
                self.attention.started(key, self.now_s)
        waiting, self._waiting = self._waiting, {}
        for number, (attach, said) in waiting.items():
            self._attached(number, attach)
            for word in said:
                self._worker_said(number, word)

    def _notice_job(self, job: Job) -> None:
        if job.terminal:
            if job.state in (FAILED, CANCELLED) and not job.cleanup.done and not job.cleanup_given_up:
                self._cleanups[job.id] = None
            return
        self.attention.job_seen(job, self.now_s)
        if job.step == 0 and job.spec.maps and job.id not in self.plans:
            self._actions.append(LoadPlan(job.id, job.spec.splits_digest))

    def _plan_loaded(self, event: PlanLoaded) -> None:
        job = self.table.live.get(event.job)
        if not self.active or job is None or len(event.plan.splits) != job.spec.maps:
            return
        self.plans[event.job] = event.plan
        self._plan_due = True
        for number, key in self._unassigned.pop(event.job, []):
            session = self.sessions.by_number.get(number)
            if session is not None:
                self._send_assign(session, key)

    # -- what the log says --

    def _applied(self, event: Applied) -> None:
        if not self.active:
            return
        for command, results in zip(event.entry.commands, event.results, strict=False):
            self._answer(command, results, event.index)
            for result in results:
                self._follow(result, event.index)

    def _answer(self, command: Command, results: list[Event], index: int) -> None:
        """Tells a worker what became of its report."""
        if command.HasField("complete"):
            report: table_pb2.CompleteAttempt | table_pb2.FailAttempt = command.complete
        elif command.HasField("fail"):
            report = command.fail
        else:
            return
        key = key_of(report.attempt)
        session = self.sessions.ready(report.worker, report.incarnation)
        if session is not None:
            won = self._has_won(key, (report.worker, report.incarnation))
            reason = next((r.text for r in results if isinstance(r, Refused | AttemptFailed)), "")
            self._send(session, orders.settled(key, index, accepted=won, reason=reason))

    def _follow(self, event: Event, index: int) -> None:
        """What the leader does because the table changed."""
        match event:
            case LeaderChanged():
                if event.term == self.term and event.leader == self.config.id and not self.ready:
                    self._begin()
            case JobAccepted():
                if event.job in self.table.jobs and self.ready:
                    self._notice_job(self.table.jobs[event.job])
            case AttemptStarted():
                self.attention.started(event.attempt, self.now_s)
                self._assign_now(event.attempt)
            case TaskCompleted():
                self._attempt_over(event.attempt, won=True)
                if event.attempt.kind == CLEANUP:
                    self._cleanups.pop(event.attempt.job, None)
                    self._forget_at(event.attempt.job, event.worker)
            case AttemptFailed():
                self._attempt_over(event.attempt, won=False)
                self._strike(event)
            case AttemptEnded():
                self._attempt_over(event.attempt, won=False)
                if event.cause != job_pb2.WORKER_LOST:
                    self._cancel_at(event.worker, event.attempt, index, event.text)
            case MapOutputReady() | MapOutputLost():
                self.feeds.changed(event.attempt.job, event.attempt.step)
            case StepStarted():
                self.plans.pop(event.job, None)
            case JobFinished():
                self._job_over(event)
            case CleanupGivenUp():
                self._cleanups.pop(event.job, None)
            case WorkerAttached():
                self._welcome(event)
            case WorkerStateChanged():
                self._undo_dismissal(event)
            case MapsDone():
                self.attention.maps_done(event.job, event.step, self.now_s)
            case _:
                pass
        self._plan_due = True

    def _assign_now(self, key: AttemptKey) -> None:
        job = self.table.jobs[key.job]
        tasks = job.tasks(key.step, key.kind)
        live = tasks.find(key.index, key.number) if tasks else None
        if live is not None:
            session = self.sessions.ready(*job.lives[live.life])
            if session is not None:
                self._send_assign(session, key)

    def _send_assign(self, session: Session, key: AttemptKey) -> None:
        job = self.table.jobs.get(key.job)
        tasks = job.tasks(key.step, key.kind) if job else None
        live = tasks.find(key.index, key.number) if tasks else None
        if job is None or live is None:
            return
        split = None
        if key.kind == MAP and key.step == 0:
            plan = self.plans.get(key.job)
            if plan is None:
                self._unassigned.setdefault(key.job, []).append((session.number, key))
                return
            split = plan.splits[key.index]
        order = orders.assign(
            job,
            key,
            live.index,
            split=split,
            with_spec=job.id not in session.specs,
            deadline_ms=self.attention.deadline_ms(job, key),
        )
        session.specs.add(job.id)
        session.assigned.add(key)
        self._send(session, order)
        if key.kind == REDUCE:
            self.feeds.subscribe(session, key.job, key.step)

    def _attempt_over(self, key: AttemptKey, *, won: bool) -> None:
        self.progress.pop(key, None)
        self.attention.ended(key, self.now_s, won=won)

    def _cancel_at(self, worker: str, key: AttemptKey, index: int, reason: str) -> None:
        session = self.sessions.by_worker.get(worker)
        if session is not None and session.welcomed:
            self._send(session, orders.cancel(key, index, reason))

    def _job_over(self, event: JobFinished) -> None:
        job = self.table.jobs[event.job]
        for worker in dict.fromkeys(worker for worker, _ in job.lives[1:]):
            self._forget_at(job.id, worker)
        self.plans.pop(job.id, None)
        self._unassigned.pop(job.id, None)
        self.feeds.forget(job.id)
        self.attention.job_over(job.id)
        for key in [key for key in self.progress if key.job == job.id]:
            del self.progress[key]
        self._notice_job(job)

    def _forget_at(self, job: str, worker: str) -> None:
        session = self.sessions.by_worker.get(worker)
        if session is not None and session.welcomed:
            session.specs.discard(job)
            self._send(session, orders.forget(job, self.table.index))

    # -- what workers say --

    def _attached(self, number: int, attach: session_pb2.Attach) -> None:
        if not self.active:
            return
        if not self.ready:
            self._waiting[number] = (attach, [])
            return
        refusal = self._why_refused(attach)
        if refusal is not None:
            self._sends.setdefault(number, []).append(orders.refuse(*refusal))
            self._close(number)
            return
        replaced = self.sessions.open(number, attach, self.now_s)
        if replaced is not None:
            self._close(replaced.number)
        known = self.table.workers.get(attach.worker)
        if known is not None and known.state != LOST and _same(known, attach):
            self._welcome(WorkerAttached(attach.worker, attach.incarnation))
            return
        self._ask(("attach", number), Command(attach=_attach_command(attach)))

    def _why_refused(self, attach: session_pb2.Attach) -> tuple[str, str] | None:
        config, known = self.config, self.table.workers.get(attach.worker)
        if attach.cluster_id and config.cluster_id and attach.cluster_id != config.cluster_id:
            return f"this is cluster {config.cluster_id}, not {attach.cluster_id}", "WRONG_CLUSTER"
        if _release(attach.version) != _release(config.version) and config.version and attach.version:
            return f"masters are version {config.version}, the worker is {attach.version}", "WRONG_VERSION"
        session = self.sessions.by_worker.get(attach.worker)
        newest = max(known.incarnation if known else "", session.attach.incarnation if session else "")
        if attach.incarnation < newest:
            return f"a newer life of {attach.worker} has attached", "SUPERSEDED"
        return None

    def _welcome(self, event: WorkerAttached) -> None:
        session = self.sessions.by_worker.get(event.worker)
        if session is None or session.welcomed or session.attach.incarnation != event.incarnation:
            return
        session.welcomed = True
        peers = [
            session_pb2.PeerWorker(worker=w.id, address=w.attach.address)
            for w in self.table.workers.values()
            if w.state != LOST and w.id != event.worker
        ]
        welcome = session_pb2.Welcome(
            cluster_id=self.config.cluster_id,
            leader=self.config.id,
            heartbeat_ms=int(self.config.heartbeat_s * 1000),
            lease_ms=int(self.config.lease_s * 1000),
            peers=peers[:100],
        )
        self._send(session, Order(index=self.table.index, welcome=welcome))
        self._plan_due = True
        if session.reported:
            self._reconcile(session)

    def _session_closed(self, number: int) -> None:
        self._waiting.pop(number, None)
        session = self.sessions.close(number)
        if session is not None and session.dismissed:
            self._give_up(session.worker, session.attach.incarnation, "drained")

    def _worker_said(self, number: int, event: session_pb2.WorkerEvent) -> None:
        if number in self._waiting:
            said = self._waiting[number][1]
            if len(said) < WAITING_EVENTS:
                said.append(event)
            return
        session = self.sessions.by_number.get(number)
        if session is None or not self.ready:
            return
        self.sessions.heard[session.worker] = self.now_s
        match event.WhichOneof("kind"):
            case "heartbeat":
                self._heartbeat(session, event.heartbeat)
            case "completed":
                self._report(session, key_of(event.completed.attempt), event.completed, None)
            case "failed":
                self._report(session, key_of(event.failed.attempt), None, event.failed)
            case "fetch_failed":
                self._fetch_failed(session, event.fetch_failed)
            case "output_lost":
                self._lose_output(
                    key_of(event.output_lost.attempt),
                    session.worker,
                    job_pb2.OUTPUT_LOST,
                    event.output_lost.message,
                )
            case "suspicion":
                self.attention.suspected(session.worker, event.suspicion, self.now_s)
            case "drain":
                self._set_state(session.worker, DRAINING, event.drain.reason or "asked to stop")
            case _:
                pass  # a second attach, or a word of a newer release

    def _heartbeat(self, session: Session, beat: session_pb2.Heartbeat) -> None:
        session.disk_free_bytes, session.memory_used_bytes = beat.disk_free_bytes, beat.memory_used_bytes
        worker = self.table.workers.get(session.worker)
        for progress in beat.progress:
            key = key_of(progress.attempt)
            if worker is not None and key in worker.running:
                self.progress[key] = progress
        if not session.reported:
            session.reported = True
            if session.welcomed:
                self._reconcile(session)

    def _report(
        self,
        session: Session,
        key: AttemptKey,
        completed: session_pb2.Completed | None,
        failed: session_pb2.Failed | None,
    ) -> None:
        """A completion or failure: into the log if it can still matter, else answered at once."""
        session.told.add(key)
        job = self.table.jobs.get(key.job)
        tasks = job.tasks(key.step, key.kind) if job else None
        live = tasks.find(key.index, key.number) if tasks else None
        life = (session.worker, session.attach.incarnation)
        if job is None or tasks is None or live is None or job.lives[live.life] != life:
            won = self._has_won(key, life)
            self._send(session, orders.settled(key, self.table.index, accepted=won, reason="not live"))
            return
        base = {"attempt": key.proto(), "worker": life[0], "incarnation": life[1]}
        if completed is not None:
            report = table_pb2.CompleteAttempt(**base, result=completed.result)  # type: ignore[arg-type]  # fields by name
            if key.kind == MAP and key.index % job.steps[key.step].sample_every:
                report.result.ClearField("partition_bytes")
                report.result.ClearField("partition_records")
            self._ask(("report", key), Command(complete=report))
        elif failed is not None:
            failure = table_pb2.FailAttempt(**base, failure=failed.failure)  # type: ignore[arg-type]  # fields by name
            self._ask(("report", key), Command(fail=failure))

    def _has_won(self, key: AttemptKey, life: tuple[str, str]) -> bool:
        job = self.table.jobs.get(key.job)
        tasks = job.tasks(key.step, key.kind) if job else None
        return (
            job is not None
            and tasks is not None
            and key.index < tasks.count
            and tasks.winner_attempt[key.index] == key.number
            and job.lives[tasks.winner_life[key.index]] == life
        )

    def _reconcile(self, session: Session) -> None:
        """Compares what the worker says it runs and holds with what the table says, once a stream."""
        session.reconciled = True
        worker = self.table.workers[session.worker]
        reported = {key_of(attempt) for attempt in session.attach.running}
        for key in sorted(worker.running - reported - session.told - session.assigned):
            self._send_assign(session, key)
        forgotten: set[str] = set()
        for key in sorted(reported):
            if key in worker.running:
                if key.kind == REDUCE:
                    self.feeds.subscribe(session, key.job, key.step)
            elif key not in session.told:
                self._unwanted(session, key, forgotten, running=True)
        held = {key_of(attempt) for attempt in session.attach.held}
        for key in sorted(held):
            if not self._is_needed(key, worker):
                self._unwanted(session, key, forgotten, running=False)
        for key in self._should_hold(worker):
            if key not in held and key not in session.told:
                self._lose_output(key, worker.id, job_pb2.OUTPUT_LOST, "the worker came back without it")

    def _unwanted(self, session: Session, key: AttemptKey, forgotten: set[str], *, running: bool) -> None:
        index = self.table.index
        job = self.table.jobs.get(key.job)
        cleaning = job is not None and job.terminal and job.running
        if key.job not in self.table.live and not cleaning:  # else it would kill the clean-up, too
            if key.job not in forgotten:
                forgotten.add(key.job)
                session.specs.discard(key.job)
                self._send(session, orders.forget(key.job, index))
        elif running:
            self._send(session, orders.cancel(key, index, "not live"))
        else:
            self._send(session, orders.discard(key, index))

    def _is_needed(self, key: AttemptKey, worker: Worker) -> bool:
        job = self.table.live.get(key.job)
        if job is None or key.kind != MAP or key.step != job.step:
            return False
        maps = job.current.maps
        return (
            key.index < maps.count
            and maps.winner_attempt[key.index] == key.number
            and job.worker_of(maps.winner_life[key.index]) == worker.id
            and job.current.needs_map_outputs()
        )

    def _should_hold(self, worker: Worker) -> Iterator[AttemptKey]:
        for job in self.table.live.values():
            life = job.life_ids.get((worker.id, worker.incarnation))
            if life is None or not job.current.needs_map_outputs():
                continue
            maps = job.current.maps
            for index in maps.held_by(life):
                yield AttemptKey(job.id, job.step, MAP, index, maps.winner_attempt[index])

    def _fetch_failed(self, session: Session, said: session_pb2.FetchFailed) -> None:
        source, reduce = key_of(said.source), key_of(said.reduce)
        worker = self.table.workers.get(session.worker)
        job = self.table.live.get(source.job)
        if job is None or worker is None or reduce not in worker.running or source.step != job.step:
            return
        maps = job.current.maps
        if source.index >= maps.count or maps.winner_attempt[source.index] != source.number:
            return  # lost already; the reduce hears of it by its feed
        avoid = planner.avoided(self.table, job, reduce.task) | {session.worker}
        movable = any(w.state == ACTIVE and w.id not in avoid for w in self.table.workers.values())
        holder = job.worker_of(maps.winner_life[source.index])
        verdict = self.attention.fetches.report(
            Report(source, reduce, session.worker, said.cause), self.now_s, movable=movable
        )
        if verdict is Verdict.LOSE_OUTPUT:
            self._lose_output(source, holder, said.cause or job_pb2.FETCH_FAILED, said.message)
            self._strikes(holder, 1, f"{session.worker} and others can't read from it")
        elif verdict is Verdict.MOVE_REDUCE:
            self._revoke(
                reduce, job_pb2.FETCH_FAILED, f"{session.worker} can't read from {holder}: {said.message}"
            )

    # -- decisions to propose --

    def _lose_output(self, key: AttemptKey, worker: str, cause: int, message: str) -> None:
        self._ask(
            ("lose-output", key),
            Command(
                lose_output=table_pb2.LoseOutput(
                    attempt=key.proto(),
                    worker=worker,
                    cause=cause,  # type: ignore[arg-type]  # an open enum
                    message=message[:300],
                )
            ),
        )

    def _revoke(self, key: AttemptKey, cause: int, message: str) -> None:
        revoke = table_pb2.RevokeAttempt(attempt=key.proto(), cause=cause, message=message[:300])  # type: ignore[arg-type]  # an open enum
        self._ask(("revoke", key), Command(revoke=revoke))

    def _give_up(self, worker: str, incarnation: str, reason: str) -> None:
        lose = table_pb2.LoseWorker(worker=worker, incarnation=incarnation, reason=reason)
        self._ask(("lose", worker, incarnation), Command(lose_worker=lose))

    def _set_state(self, worker: str, state: int, reason: str, until_ms: int = 0) -> None:
        change = table_pb2.SetWorkerState(
            worker=worker,
            state=state,  # type: ignore[arg-type]  # an open enum
            reason=reason,
            until_ms=until_ms,
            identity=f"master {self.config.id}",
        )
        self._ask(("state", worker), Command(set_worker=change))

    def _strike(self, event: AttemptFailed) -> None:
        weight = self.attention.blame(event)
        if weight:
            self._strikes(event.worker, weight, event.text)

    def _strikes(self, worker: str, weight: int, why: str) -> None:
        """Excludes a worker for a while after enough strikes, but never more than half of them."""
        if not self.attention.strike(worker, weight, self.now_s):
            return
        active = sum(w.state == ACTIVE for w in self.table.workers.values())
        excluded = sum(w.state == EXCLUDED for w in self.table.workers.values())
        excluded += sum(asked[0] == "state" for asked in self._asked)
        if active > 1 and excluded < (active + excluded) // 2:
            self._set_state(worker, EXCLUDED, why[:300], self.now_ms + int(self.config.exclude_s * 1000))

    def _ask(self, about: _About, command: Command) -> None:
        """Queues a decision, once until its proposal is settled."""
        if about not in self._asked:
            self._asked.add(about)
            self._queue.append((about, command))

    # -- time --

    def _tick(self, event: Tick) -> None:
        gap = event.now_s - self.now_s
        self.now_s, self.now_ms = event.now_s, event.now_ms
        if not self.ready:
            return
        if gap > STALL_S:
            self.sessions.forgive(gap)
        if not self.attention.due(self.now_s):
            return
        self._plan_due = True
        self._watch_workers()
        for name in self.attention.expired(self.now_s):
            self._ask(("expire", name), Command(expire=table_pb2.ExpireJob(job=name)))
        for key in planner.deadlocked(self.table, self._total_slots(), sum(self._free([]).values())):
            self._revoke(key, job_pb2.LEASE_REVOKED, "maps that it waits for need its slot")
        old = retention.to_forget(self.table, self.config)
        if old:
            self._ask(("forget",), Command(forget_jobs=table_pb2.ForgetJobs(jobs=old)))

    def _watch_workers(self) -> None:
        heard, lease = self.sessions.heard, self.config.lease_s
        for worker in self.table.workers.values():
            if worker.state == LOST:
                heard.pop(worker.id, None)
                continue
            silent = self.now_s - heard.setdefault(worker.id, self.now_s)
            session = self.sessions.by_worker.get(worker.id)
            if silent > lease:
                self._give_up(worker.id, worker.incarnation, f"silent for {silent:.1f} s")
                if session is not None:
                    self.sessions.close(session.number)
                    self._close(session.number)
            elif worker.state == EXCLUDED and 0 < worker.excluded_until_ms <= self.now_ms:
                self._set_state(worker.id, ACTIVE, "")
            elif worker.state == DRAINING and session is not None and not session.dismissed:
                self._dismiss(session, worker)

    def _dismiss(self, session: Session, worker: Worker) -> None:
        """A draining worker may leave when it runs nothing and nobody needs what it holds."""
        if session.reconciled and not worker.running and next(self._should_hold(worker), None) is None:
            session.dismissed = True
            self._send(session, Order(index=self.table.index, drain=session_pb2.DrainOrder(drain=True)))

    def _undo_dismissal(self, event: WorkerStateChanged) -> None:
        session = self.sessions.by_worker.get(event.worker)
        if session is not None and session.dismissed and event.state == ACTIVE:
            session.dismissed = False
            self._send(session, Order(index=self.table.index, drain=session_pb2.DrainOrder(drain=False)))

    # -- proposals --

    def _proposed(self, event: Proposed) -> None:
        if self._in_flight is None or event.number != self._in_flight[0]:
            return
        wishes, self._in_flight = self._in_flight[1], None
        match event.outcome:
            case Outcome.UNKNOWN:
                # What was asked stays asked: nothing is decided twice. An entry behind it will tell.
                self._uncertain += wishes
                self._unsure = True
                self._propose_at_s = self.now_s + RETRY_S
                return
            case Outcome.NOT_APPLIED:
                self._queue = wishes + self._queue
                self._propose_at_s = self.now_s + RETRY_S
            case Outcome.APPLIED:
                # Whatever was unknown has been applied before this, or never will be. A report that is applied
                # a second time is refused and does no harm.
                self._queue = self._uncertain + self._queue
                self._uncertain, self._unsure = [], False
        self._asked = {about for about, _ in self._queue} | {about for about, _ in self._uncertain}
        self._plan_due = True

    def _flush(self) -> None:
        if self._in_flight is not None or self.now_s < self._propose_at_s:
            return
        wishes: list[_Wish] = []
        commands: list[Command] = []
        if not self._unsure:  # else an empty entry first, to learn what became of the last
            wishes, self._queue = self._queue[: self.config.batch], self._queue[self.config.batch :]
            commands = [command for _, command in wishes]
            if self.ready and self._plan_due and len(commands) < self.config.batch:
                self._plan_due = False
                commands += self._plan(commands)
        if commands or self._unsure:
            self._number += 1
            self._in_flight = (self._number, wishes)
            self._actions.append(Propose(self._number, commands))

    def _plan(self, before: list[Command]) -> list[Command]:
        """Assignments for the slots that are free once the commands before them are applied."""
        free = self._free(before)
        situation = planner.Situation(
            free=free,
            total_slots=self._total_slots(),
            planned=lambda job: job.id in self.plans,
            hosts=self._hosts,
            starved=lambda job: self.attention.starved(job, self.now_s),
            jobs=[*self.table.live.values(), *(self.table.jobs[name] for name in self._cleanups)],
            dealt_last=self._dealt_last,
        )
        planned = planner.plan(self.table, self.config, situation)
        chosen = planned.assignments[: self.config.batch - len(before)]
        self._dealt_last = chosen[-1].worker if chosen else self._dealt_last
        self.attention.served(planned.jobs, self.now_s)
        for assignment in chosen:
            free[assignment.worker] -= 1
        spare = {worker: left for worker, left in free.items() if left > 0}
        if spare:
            chosen += self.attention.backups(spare, self.progress, self.now_s)
        return [Command(assign=assignment) for assignment in chosen]

    def _free(self, before: list[Command]) -> dict[str, int]:
        """Free slots of the workers on the line. A report that is under way frees one, accepted or not."""
        ending: dict[str, int] = {}
        for command in before:
            if command.HasField("complete"):
                ending[command.complete.worker] = ending.get(command.complete.worker, 0) + 1
            elif command.HasField("fail"):
                ending[command.fail.worker] = ending.get(command.fail.worker, 0) + 1
        free = {}
        for session in self.sessions.by_worker.values():
            worker = self.table.workers.get(session.worker)
            if session.reconciled and worker is not None and worker.state == ACTIVE:
                left = worker.slots - len(worker.running) + ending.get(worker.id, 0)
                if left > 0:
                    free[worker.id] = left
        return free

    def _hosts(self, task: TaskKey) -> tuple[str, ...]:
        return tuple(self.plans[task.job].splits[task.index].hosts)

    def _total_slots(self) -> int:
        return planner.total_slots(self.table.workers.values())

    # -- out --

    def _send(self, session: Session, *new: Order) -> None:
        self._sends.setdefault(session.number, []).extend(new)

    def _close(self, number: int) -> None:
        self._deliver(number)
        self._actions.append(CloseSession(number))

    def _deliver(self, number: int) -> None:
        if number in self._sends:
            self._actions.append(Send(number, self._sends.pop(number)))

    def _drain(self) -> list[Action]:
        for number in list(self._sends):
            self._deliver(number)
        actions, self._actions = self._actions, []
        return actions


def _release(version: str) -> str:
    """The part of a version that must agree: "1" of "1.4.2", "0.3" of "0.3.1"."""
    parts = version.split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def _same(known: Worker, attach: session_pb2.Attach) -> bool:
    return known.attach.SerializeToString(deterministic=True) == _attach_command(attach).SerializeToString(
        deterministic=True
    )


def _attach_command(attach: session_pb2.Attach) -> table_pb2.AttachWorker:
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
