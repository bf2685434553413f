"""The worker's half of the protocol, without sockets, processes, files or a clock.

`Agent.handle` takes one event (what the leader, a task process, a fetch or the timer did) and returns the
actions to carry out. `worker/runtime.py` carries them out and feeds the outcome back as the next event; it
decides nothing. A test, or the simulation, plays the runtime.

Laws. An order of a term older than the highest seen is refused (C12). Whatever a leader repeats changes
nothing the second time (FT6). A finished attempt is reported on every attach until a leader settles it (FT7);
a map output is kept from then until a leader says that nobody needs it. The leader's silence kills no work:
only the answer to a re-attach decides (S1-06). Nothing that comes from the network raises: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from worker.events import (
    Action,
    Attempt,
    CloseSession,
    DrainWanted,
    DropJob,
    DropOutput,
    DropScratch,
    Event,
    Exit,
    FailTask,
    Fetch,
    FetchEnded,
    JobPrepared,
    Joined,
    KillTask,
    Note,
    OutputDamaged,
    PeerSuspected,
    PrepareFailed,
    PrepareJob,
    Received,
    Send,
    SessionClosed,
    SessionOpened,
    StartTask,
    SweepScratch,
    TaskDone,
    TaskFailed,
    TaskProgress,
    Tick,
    safe_name,
)
from worker.gather import Gather, Locations
from worker.identity import Identity

# A report that is not settled for this long is made again: the answer may be lost though the stream lives.
REPORT_AGAIN_S = 5.0
# A leader that does not answer heartbeats for this many of their periods is looked for elsewhere.
SILENT_HEARTBEATS = 5
# Below this the worker starts nothing more: a task would only fail later, after work (FD8).
DISK_RESERVE_BYTES = 64 << 20
# How long a worker told to end keeps map outputs that reduces may still want; Kubernetes' default is 30 s.
DRAIN_GRACE_S = 25.0
FORGOTTEN_JOBS = 1024

# Refusals that are no orders of a leader: another cluster's terms say nothing here.
_REFUSED_IN_ANY_TERM = frozenset({"WRONG_CLUSTER", "WRONG_VERSION", "NOT_ALLOWED"})

EXIT_DRAINED = 0
EXIT_NOT_ALLOWED = 4
EXIT_REFUSED = 5

# Publication and clean-up may be repeated when the staging place with its nonce is gone already.
_PUBLISHING = frozenset({job.COMMIT, job.CLEANUP})


@dataclass(slots=True)
class _Work:
    """An attempt between its Assign and its end."""

    assign: session.Assign
    gather: Gather | None = None
    started: float | None = None  # when its task process was told to run it; None: not yet
    progress: session.Progress | None = None


@dataclass(slots=True)
class _Report:
    """A finished attempt that no leader has settled yet."""

    event: session.WorkerEvent
    staging: str
    result: job.TaskResult | None
    said_at: float
    shuffled: bool = False  # its step has reduces: the output stays here, for them


@dataclass(slots=True)
class _Job:
    spec: job.JobSpec
    preparing: bool = False
    code_dir: str | None = None
    locations: dict[int, Locations] = field(default_factory=dict)
    ended: set[Attempt] = field(default_factory=set)  # settled or cancelled: a replayed Assign starts nothing


class Agent:
    """Decides what one worker does. `slots` bounds task processes at work, not reduces that still gather."""

    def __init__(self, identity: Identity, cluster_id: str = "", now: float = 0.0) -> None:
        self.identity = identity
        self.cluster_id = cluster_id
        self.term = 0
        self.session: int | None = None
        self.leader = ""
        self.draining = False
        self.leaving: str | None = None
        self.work: dict[Attempt, _Work] = {}
        self.reports: dict[Attempt, _Report] = {}
        self.held: set[Attempt] = set()
        self.jobs: dict[str, _Job] = {}
        self._forgotten: dict[str, int] = {}  # job -> log index of its ForgetJob
        self._now = now
        self._disk_free = 1 << 60
        self._memory_used = 0
        self._heartbeat_s = 1.0
        self._heartbeat_at = 0.0
        self._heartbeats = 0
        self._heard_at = 0.0
        self._leave_by = 0.0
        self._swept = False

    def handle(self, event: Event) -> list[Action]:
        """One event in, the actions that follow from it out, to be carried out in this order."""
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
                return self._prepared(event)
            case PrepareFailed():
                return self._prepare_failed(event)
            case TaskProgress():
                if event.attempt in self.work:
                    self.work[event.attempt].progress = event.progress
                return []
            case TaskDone():
                return self._task_done(event)
            case TaskFailed():
                return self._end_failed(event.attempt, event.failure)
            case FetchEnded():
                return self._fetch_ended(event)
            case OutputDamaged():
                return self._output_damaged(event)
            case PeerSuspected():
                suspicion = session.Suspicion(
                    worker=event.worker, reachable=event.reachable, asked=event.asked, agreed=event.agreed
                )
                return self._send([session.WorkerEvent(suspicion=suspicion)])
            case DrainWanted():
                self.leaving, self.draining = event.reason, True
                self._leave_by = self._now + DRAIN_GRACE_S
                wish = session.WorkerEvent(drain=session.DrainRequest(reason=event.reason))
                return [*self._send([wish]), *self._leave_if_idle()]
            case _:
                assert_never(event)

    # ------------------------------------------------------------ the session

    def _attach(self, number: int) -> list[Action]:
        self.session, self.leader = number, ""
        self._heard_at = self._heartbeat_at = self._now
        attach = self.identity.attach(self.cluster_id, self.term, self.work, sorted(self.held))
        attach.attach.cursors.extend(self._cursors())
        events = [attach]
        for report in self.reports.values():
            report.said_at = self._now
            events.append(report.event)
        if self.leaving is not None:
            events.append(session.WorkerEvent(drain=session.DrainRequest(reason=self.leaving)))
        # The first heartbeat says that the report is complete: what the leader misses in it, is not here.
        return self._send([*events, self._heartbeat()])

    def _send(self, events: list[session.WorkerEvent]) -> list[Action]:
        return [Send(self.session, events)] if self.session is not None and events else []

    def _received(self, event: Received) -> list[Action]:
        if event.session != self.session:
            return []
        message = event.message
        self._heard_at = self._now
        for order in message.orders:  # whom to ask, and who we are, are no orders of a leader
            if order.HasField("redirect"):
                return [CloseSession(event.session, "not the leader", order.redirect.leader)]
            if order.HasField("refuse") and order.refuse.code in _REFUSED_IN_ANY_TERM:
                return self._refused(event.session, order.refuse)
        if message.term < self.term:
            return [CloseSession(event.session, f"its term {message.term} is older than {self.term}")]
        self.term = message.term
        actions: list[Action] = []
        for order in message.orders:
            try:
                actions += self._order(event.session, order)
            except ValueError as error:  # a malformed order is refused; the rest of the batch stands
                actions.append(Note(f"refused a malformed order: {error}"))
        return actions

    def _order(self, number: int, order: session.Order) -> list[Action]:
        match order.WhichOneof("kind"):
            case "welcome":
                return self._welcome(number, order.welcome)
            case "assign":
                return self._assign(order.index, order.assign)
            case "cancel":
                return self._cancel(Attempt.of(order.cancel.attempt))
            case "settled":
                return self._settled(Attempt.of(order.settled.attempt), order.settled)
            case "outputs":
                return self._learn(number, order.outputs)
            case "forget":
                return self._forget(order.index, order.forget.job)
            case "drain":
                self.draining = order.drain.drain or self.leaving is not None
                if self.leaving is not None and order.drain.drain:
                    self.held.clear()  # nobody needs them: the leader says so by this order
                return self._leave_if_idle()
            case "refuse":
                return self._refused(number, order.refuse)
            case "discard":
                return self._discard(Attempt.of(order.discard.attempt))
            case _:
                return []  # a newer master's order: unknown fields are no reason to die

    def _welcome(self, number: int, welcome: session.Welcome) -> list[Action]:
        if self.cluster_id not in {"", welcome.cluster_id}:
            refuse = session.Refuse(
                reason=f"this worker belongs to cluster {self.cluster_id}, not to {welcome.cluster_id}"
            )
            return self._refused(number, refuse)
        self.cluster_id, self.leader = welcome.cluster_id, welcome.leader
        self._heartbeat_s = max(0.05, welcome.heartbeat_ms / 1000) if welcome.heartbeat_ms else 1.0
        actions: list[Action] = [Joined(welcome.cluster_id, welcome.leader, list(welcome.peers))]
        if not self._swept:
            self._swept = True
            actions.append(SweepScratch(frozenset(self.jobs)))
        return actions

    def _refused(self, number: int, refuse: session.Refuse) -> list[Action]:
        code = EXIT_NOT_ALLOWED if refuse.code == "NOT_ALLOWED" else EXIT_REFUSED
        return [CloseSession(number, refuse.reason), Exit(code, refuse.reason or "refused by the master")]

    # ------------------------------------------------------------ attempts begin

    def _assign(self, index: int, assign: session.Assign) -> list[Action]:
        attempt = Attempt.of(assign.attempt)
        if report := self.reports.get(attempt):
            return self._send([report.event])
        known = self.jobs.get(attempt.job)
        if attempt in self.work or attempt in self.held or (known and attempt in known.ended):
            return []
        if index < self._forgotten.get(attempt.job, 0):
            return []
        if known is None and assign.HasField("spec"):
            known = self.jobs[attempt.job] = _Job(assign.spec)
        if reason := self._unfit(attempt, known):
            return self._end_refused(attempt, *reason)
        assert known is not None
        work = self.work[attempt] = _Work(assign)
        if attempt.kind == job.REDUCE:
            work.gather = Gather(assign.maps, known.locations.setdefault(attempt.step, Locations()))
        if known.code_dir is None and _needs_code(attempt, known.spec) and not known.preparing:
            known.preparing = True
            prepare = PrepareJob(attempt.job, known.spec, attempt.kind not in _PUBLISHING)
            return [prepare, *self._advance()]
        return self._advance()

    def _unfit(self, attempt: Attempt, known: _Job | None) -> tuple[job.Cause.ValueType, str] | None:
        if self.draining:
            return job.WORKER_DRAINED, "this worker is draining"
        if known is None:
            return job.INTERNAL, f"the spec of job {attempt.job} was never sent here"
        kinds = self.identity.kinds
        if kinds and attempt.kind in {job.MAP, job.REDUCE} and attempt.kind not in kinds:
            return job.INTERNAL, "this worker does not take tasks of this kind"
        if self._disk_free < DISK_RESERVE_BYTES:
            return job.DISK_FULL, f"only {self._disk_free >> 20} MiB are free in the work dir"
        return None

    def _prepared(self, event: JobPrepared) -> list[Action]:
        if known := self.jobs.get(event.job):
            known.preparing, known.code_dir = False, event.code_dir
        return self._advance()

    def _prepare_failed(self, event: PrepareFailed) -> list[Action]:
        known = self.jobs.get(event.job)
        if known is None or not known.preparing:
            return []
        known.preparing = False
        waiting = [a for a in self.work if a.job == event.job and _needs_code(a, known.spec)]
        return [action for a in waiting for action in self._end_failed(a, event.failure)]

    def _advance(self) -> list[Action]:
        """Starts what can start: code in hand, every map output in hand, a task process to be had."""
        actions: list[Action] = []
        busy = sum(1 for work in self.work.values() if work.started is not None)
        for attempt, work in self.work.items():
            if work.started is not None:
                continue
            if work.gather is not None:
                for worker, address, wanted in work.gather.calls(self._now):
                    actions.append(Fetch(attempt, worker, address, wanted))
                if not work.gather.complete:
                    continue
            known = self.jobs[attempt.job]
            code_dir = known.code_dir if _needs_code(attempt, known.spec) else ""
            if code_dir is None or busy >= self.identity.slots:
                continue
            busy += 1
            work.started = self._now
            runs = work.gather.runs() if work.gather is not None else ()
            actions.append(StartTask(attempt, known.spec, work.assign, code_dir, runs))
        return actions

    # ------------------------------------------------------------ map outputs come in

    def _learn(self, number: int, outputs: session.MapOutputs) -> list[Action]:
        known = self.jobs.get(outputs.job)
        if known is None:
            return []  # a job that this worker has forgotten, or has not begun
        changed = known.locations.setdefault(outputs.step, Locations()).learn(outputs)
        if changed is None:
            return [CloseSession(number, f"map outputs of job {outputs.job} are missing in between")]
        for attempt, work in self.work.items():
            gathering = work.gather is not None and work.started is None
            if gathering and (attempt.job, attempt.step) == (outputs.job, outputs.step):
                assert work.gather is not None
                work.gather.changed(changed)
        return self._advance()

    def _fetch_ended(self, event: FetchEnded) -> list[Action]:
        work = self.work.get(event.reduce)
        if work is None or work.gather is None:
            return []
        work.gather.ended(event.worker, event.fetched, self._now)
        a = event.reduce
        complaints = []
        for region in event.failed:
            source = Attempt(a.job, a.step, job.MAP, region.map, region.attempt)
            complaint = session.FetchFailed(
                reduce=a.wire(),
                source=source.wire(),
                worker=event.worker,
                cause=region.cause,
                message=region.message,
            )
            complaints.append(session.WorkerEvent(fetch_failed=complaint))
        return [*self._send(complaints), *self._advance()]

    # ------------------------------------------------------------ attempts end

    def _task_done(self, event: TaskDone) -> list[Action]:
        if event.attempt not in self.work:
            return []  # cancelled meanwhile
        done = session.Completed(attempt=event.attempt.wire(), result=event.result)
        return self._end(event.attempt, session.WorkerEvent(completed=done), event.result)

    def _end_failed(self, attempt: Attempt, failure: job.Failure) -> list[Action]:
        """Reports an attempt that failed here, and clears away what it left."""
        if attempt not in self.work:
            return []
        failed = session.Failed(attempt=attempt.wire(), failure=failure)
        return [KillTask(attempt), *self._end(attempt, session.WorkerEvent(failed=failed), None)]

    def _end_refused(self, attempt: Attempt, cause: job.Cause.ValueType, message: str) -> list[Action]:
        """Reports an attempt that was never begun."""
        failed = session.Failed(attempt=attempt.wire(), failure=job.Failure(cause=cause, message=message))
        event = session.WorkerEvent(failed=failed)
        self.reports[attempt] = _Report(event, "", None, self._now)
        return self._send([event])

    def _end(
        self, attempt: Attempt, event: session.WorkerEvent, result: job.TaskResult | None
    ) -> list[Action]:
        del self.work[attempt]
        spec = self.jobs[attempt.job].spec
        shuffled = attempt.step < len(spec.steps) and spec.steps[attempt.step].reduces > 0
        self.reports[attempt] = _Report(event, spec.staging, result, self._now, shuffled)
        return [DropScratch(attempt), *self._send([event]), *self._advance()]

    def _settled(self, attempt: Attempt, settled: session.Settled) -> list[Action]:
        report = self.reports.pop(attempt, None)
        if report is None:
            return []  # settled before
        if known := self.jobs.get(attempt.job):
            known.ended.add(attempt)
        actions: list[Action] = []
        if attempt.kind == job.CLEANUP and not self._busy_with(attempt.job):
            actions += self._drop_job(attempt.job)
        elif report.result is not None:
            if not settled.accepted:
                actions = [DropOutput(attempt, report.staging, report.result)]
            elif attempt.kind == job.MAP and report.shuffled:
                self.held.add(attempt)
        return [*actions, *self._leave_if_idle()]

    def _cancel(self, attempt: Attempt) -> list[Action]:
        if known := self.jobs.get(attempt.job):
            known.ended.add(attempt)
        if self.work.pop(attempt, None) is not None:
            return [KillTask(attempt), DropScratch(attempt), *self._advance(), *self._leave_if_idle()]
        report = self.reports.pop(attempt, None)
        if report is not None and report.result is not None:
            return [DropOutput(attempt, report.staging, report.result), *self._leave_if_idle()]
        return self._leave_if_idle()

    def _discard(self, attempt: Attempt) -> list[Action]:
        if attempt not in self.held:
            return []
        self.held.remove(attempt)
        return [DropOutput(attempt), *self._leave_if_idle()]

    def _output_damaged(self, event: OutputDamaged) -> list[Action]:
        if event.attempt not in self.held:
            return []
        self.held.remove(event.attempt)
        lost = session.OutputLost(attempt=event.attempt.wire(), message=event.message)
        return [*self._send([session.WorkerEvent(output_lost=lost)]), DropOutput(event.attempt)]

    def _forget(self, index: int, name: str) -> list[Action]:
        if not safe_name(name):
            raise ValueError(f"not a job: {name!r}")
        self._forgotten[name] = index
        while len(self._forgotten) > FORGOTTEN_JOBS:
            del self._forgotten[next(iter(self._forgotten))]
        doomed = [attempt for attempt in self.work if attempt.job == name]
        for attempt in doomed:
            del self.work[attempt]
        kills = [KillTask(attempt) for attempt in doomed]
        return [*kills, *self._drop_job(name), *self._advance(), *self._leave_if_idle()]

    def _drop_job(self, name: str) -> list[Action]:
        self.reports = {a: report for a, report in self.reports.items() if a.job != name}
        self.held = {a for a in self.held if a.job != name}
        self.jobs.pop(name, None)
        return [DropJob(name)]

    def _busy_with(self, name: str) -> bool:
        return any(a.job == name for a in (*self.work, *self.reports, *self.held))

    # ------------------------------------------------------------ time

    def _tick(self, tick: Tick) -> list[Action]:
        self._now, self._disk_free, self._memory_used = tick.now, tick.disk_free, tick.memory_used
        actions = [*self._overdue(), *self._advance(), *self._leave_if_idle()]
        if self.session is None:
            return actions
        if self._now - self._heard_at > SILENT_HEARTBEATS * self._heartbeat_s:
            return [*actions, CloseSession(self.session, "no answer from the master")]
        events = []
        if self._now - self._heartbeat_at >= self._heartbeat_s:
            self._heartbeat_at = self._now
            events.append(self._heartbeat())
        for report in self.reports.values():
            if self._now - report.said_at >= REPORT_AGAIN_S:
                report.said_at = self._now
                events.append(report.event)
        return [*actions, *self._send(events)]

    def _overdue(self) -> list[Action]:
        actions: list[Action] = []
        for attempt, work in self.work.items():
            limit_s = work.assign.deadline_ms / 1000
            if work.started is not None and limit_s and self._now - work.started >= limit_s:
                failure = job.Failure(
                    cause=job.TASK_TIMEOUT,
                    message=f"the attempt ran longer than its deadline of {limit_s:g} s",
                )
                work.assign.deadline_ms = 0  # once
                actions.append(FailTask(attempt, failure))
        return actions

    def _heartbeat(self) -> session.WorkerEvent:
        self._heartbeats += 1
        beat = session.Heartbeat(
            progress=self._progress(),
            disk_free_bytes=self._disk_free,
            memory_used_bytes=self._memory_used,
            sequence=self._heartbeats,
        )
        return session.WorkerEvent(heartbeat=beat)

    def _progress(self) -> Iterable[session.Progress]:
        for attempt, work in self.work.items():
            if work.started is None and work.gather is not None:
                fetched, maps = work.gather.fetched, max(1, work.gather.maps)
                yield session.Progress(
                    attempt=attempt.wire(), phase="fetch", fetched=fetched, fraction=fetched / maps / 3
                )
            elif work.progress is not None:
                yield work.progress
            else:
                yield session.Progress(attempt=attempt.wire())

    def _leave_if_idle(self) -> list[Action]:
        if self.leaving is None or self.work:
            return []
        if (self.reports or self.held) and self._now < self._leave_by:
            return []
        return [Exit(EXIT_DRAINED, self.leaving)]

    def _cursors(self) -> list[session.OutputsCursor]:
        return [
            session.OutputsCursor(job=name, step=step, sequence=locations.sequence)
            for name, known in self.jobs.items()
            for step, locations in known.locations.items()
        ]

    def check(self) -> None:
        """What holds after every event; for tests."""
        assert sum(1 for w in self.work.values() if w.started is not None) <= self.identity.slots
        assert not self.work.keys() & self.reports.keys()
        assert not self.held & (self.work.keys() | self.reports.keys())
        for attempt, work in self.work.items():
            assert attempt.job in self.jobs, "work of a forgotten job"
            assert (work.gather is not None) == (attempt.kind == job.REDUCE)
            if work.started is not None and work.gather is not None:
                assert work.gather.complete, "a reduce merges before every map output is in hand"


def _needs_code(attempt: Attempt, spec: job.JobSpec) -> bool:
    return attempt.kind not in _PUBLISHING or (attempt.kind == job.COMMIT and bool(spec.finalize))
