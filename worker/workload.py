"""What a worker has in hand: each attempt from its Assign until a leader has settled it, and the map outputs kept.

Pure, the agent's larger half. It knows no session and no term: it takes orders that the agent has judged, and
outcomes, and answers with steps: actions for the runtime and events for whichever leader there is.

    assigned -> (code) -> (gather) -> (slot) -> running -> report -> settled -> held (maps with reduces)

Laws. An attempt is begun once (FT6). Its report is kept until a leader settles it (FT7), its map output from then
until a leader says that nobody needs it. A reduce begins to merge when every map's current output is in hand (T9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from worker.events import (
    Action,
    Attempt,
    DropJob,
    DropOutput,
    DropScratch,
    FailTask,
    Fetch,
    FetchEnded,
    JobPrepared,
    KillTask,
    OutputDamaged,
    PrepareFailed,
    PrepareJob,
    StartTask,
    TaskDone,
    safe_name,
)
from worker.gather import Gather, Locations

# A report that is not settled for this long is made again: the answer may be lost though the stream lives.
REPORT_AGAIN_S = 5.0
# Below this the worker starts nothing more: a task would only fail later, after work (FD8).
DISK_RESERVE_BYTES = 64 << 20
FORGOTTEN_JOBS = 1024

# Publication and clean-up may be repeated when the staging place with its nonce is gone already.
_PUBLISHING = frozenset({job.COMMIT, job.CLEANUP})

Step: TypeAlias = Action | session.WorkerEvent


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


class Workload:
    """The attempts of one worker. `slots` bounds task processes at work, not reduces that still gather."""

    def __init__(self, slots: int, kinds: Iterable[int]) -> None:
        self.slots = slots
        self.kinds = frozenset(kinds)
        self.draining = False  # begins nothing new
        self.now = 0.0
        self.disk_free = 1 << 60
        self.work: dict[Attempt, _Work] = {}
        self.reports: dict[Attempt, _Report] = {}
        self.held: set[Attempt] = set()
        self.jobs: dict[str, _Job] = {}  # every job that has left anything here, until it is forgotten
        self._forgotten: dict[str, int] = {}  # job -> log index of its ForgetJob

    # ------------------------------------------------------------ attempts begin

    def assign(self, index: int, assign: session.Assign) -> list[Step]:
        """Begins an attempt, unless it has begun, has ended, or cannot run here. Raises ValueError."""
        attempt = Attempt.of(assign.attempt)
        if report := self.reports.get(attempt):
            return [report.event]
        known = self.jobs.get(attempt.job)
        if attempt in self.work or attempt in self.held or (known and attempt in known.ended):
            return []
        if index < self._forgotten.get(attempt.job, 0):
            return []
        if known is None and assign.HasField("spec"):
            known = self.jobs[attempt.job] = _Job(assign.spec)
        if reason := self._unfit(attempt, known):
            return self._refuse(attempt, *reason)
        assert known is not None
        work = self.work[attempt] = _Work(assign)
        if attempt.kind == job.REDUCE:
            work.gather = Gather(assign.maps, known.locations.setdefault(attempt.step, Locations()))
        if known.code_dir is None and _needs_code(attempt, known.spec) and not known.preparing:
            known.preparing = True
            prepare = PrepareJob(attempt.job, known.spec, attempt.kind not in _PUBLISHING)
            return [prepare, *self.advance()]
        return self.advance()

    def prepared(self, event: JobPrepared) -> list[Step]:
        """The job's code is here."""
        if known := self.jobs.get(event.job):
            known.preparing, known.code_dir = False, event.code_dir
        return self.advance()

    def prepare_failed(self, event: PrepareFailed) -> list[Step]:
        """What waited for the code fails; the next Assign tries again."""
        known = self.jobs.get(event.job)
        if known is None or not known.preparing:
            return []
        known.preparing = False
        waiting = [a for a in self.work if a.job == event.job and _needs_code(a, known.spec)]
        return [step for a in waiting for step in self.failed(a, event.failure)]

    def advance(self) -> list[Step]:
        """Starts what can start: code in hand, every map output in hand, a task process to be had."""
        steps: list[Step] = []
        busy = sum(1 for work in self.work.values() if work.started is not None)
        for attempt, work in self.work.items():
            if work.started is not None:
                continue
            if work.gather is not None:
                for worker, address, wanted in work.gather.calls(self.now):
                    steps.append(Fetch(attempt, worker, address, wanted))
                if not work.gather.complete:
                    continue
            known = self.jobs[attempt.job]
            code_dir = known.code_dir if _needs_code(attempt, known.spec) else ""
            if code_dir is None or busy >= self.slots:
                continue
            busy += 1
            work.started = self.now
            runs = work.gather.runs() if work.gather is not None else ()
            steps.append(StartTask(attempt, known.spec, work.assign, code_dir, runs))
        return steps

    def _unfit(self, attempt: Attempt, known: _Job | None) -> tuple[job.Cause.ValueType, str] | None:
        if self.draining:
            return job.WORKER_DRAINED, "this worker is draining"
        if known is None:
            return job.INTERNAL, f"the spec of job {attempt.job} was never sent here"
        if self.kinds and attempt.kind in {job.MAP, job.REDUCE} and attempt.kind not in self.kinds:
            return job.INTERNAL, "this worker does not take tasks of this kind"
        if self.disk_free < DISK_RESERVE_BYTES:
            return job.DISK_FULL, f"only {self.disk_free >> 20} MiB are free in the work dir"
        return None

    # ------------------------------------------------------------ map outputs come in

    def learn(self, outputs: session.MapOutputs) -> list[Step] | None:
        """Where map outputs are; None if items are missing in between."""
        known = self.jobs.get(outputs.job)
        if known is None:
            return []  # a job that this worker has forgotten, or has not begun
        changed = known.locations.setdefault(outputs.step, Locations()).learn(outputs)
        if changed is None:
            return None
        for attempt, work in self.work.items():
            of_step = (attempt.job, attempt.step) == (outputs.job, outputs.step)
            if of_step and work.gather is not None and work.started is None:
                work.gather.changed(changed)
        return self.advance()

    def fetch_ended(self, event: FetchEnded) -> list[Step]:
        """What came, and a complaint to the leader for each region that did not."""
        work = self.work.get(event.reduce)
        if work is None or work.gather is None:
            return []
        work.gather.ended(event.worker, event.fetched, self.now)
        reduce = event.reduce
        steps: list[Step] = []
        for region in event.failed:
            source = Attempt(reduce.job, reduce.step, job.MAP, region.map, region.attempt)
            complaint = session.FetchFailed(
                reduce=reduce.wire(),
                source=source.wire(),
                worker=event.worker,
                cause=region.cause,
                message=region.message,
            )
            steps.append(session.WorkerEvent(fetch_failed=complaint))
        return [*steps, *self.advance()]

    # ------------------------------------------------------------ attempts end

    def done(self, event: TaskDone) -> list[Step]:
        """A task process finished its attempt."""
        if event.attempt not in self.work:
            return []  # cancelled meanwhile
        done = session.Completed(attempt=event.attempt.wire(), result=event.result)
        return self._end(event.attempt, session.WorkerEvent(completed=done), event.result)

    def failed(self, attempt: Attempt, failure: job.Failure) -> list[Step]:
        """Reports an attempt that failed here, and clears away what it left."""
        if attempt not in self.work:
            return []
        failed = session.Failed(attempt=attempt.wire(), failure=failure)
        return [KillTask(attempt), *self._end(attempt, session.WorkerEvent(failed=failed), None)]

    def overdue(self) -> list[Step]:
        """Ends what runs longer than its deadline."""
        steps: list[Step] = []
        for attempt, work in self.work.items():
            limit_s = work.assign.deadline_ms / 1000
            if work.started is not None and limit_s and self.now - work.started >= limit_s:
                text = f"the attempt ran longer than its deadline of {limit_s:g} s"
                work.assign.deadline_ms = 0  # once
                steps.append(FailTask(attempt, job.Failure(cause=job.TASK_TIMEOUT, message=text)))
        return steps

    def repeat_reports(self, after_s: float) -> list[Step]:
        """Every report that was made last so long ago, once more."""
        due = [r for r in self.reports.values() if self.now - r.said_at >= after_s]
        for report in due:
            report.said_at = self.now
        return [report.event for report in due]

    def settled(self, attempt: Attempt, *, accepted: bool) -> list[Step]:
        """A leader has the report in its log; only now the output is kept for good, or goes."""
        report = self.reports.pop(attempt, None)
        if report is None:
            return []  # settled before
        if known := self.jobs.get(attempt.job):
            known.ended.add(attempt)
        if attempt.kind == job.CLEANUP and not self._busy_with(attempt.job):
            return self._drop_job(attempt.job)
        if report.result is not None and not accepted:
            return [DropOutput(attempt, report.staging, report.result)]
        if report.result is not None and attempt.kind == job.MAP and report.shuffled:
            self.held.add(attempt)
        return []

    def cancel(self, attempt: Attempt) -> list[Step]:
        """The attempt is not wanted any more, wherever it is."""
        if known := self.jobs.get(attempt.job):
            known.ended.add(attempt)
        if self.work.pop(attempt, None) is not None:
            return [KillTask(attempt), DropScratch(attempt), *self.advance()]
        report = self.reports.pop(attempt, None)
        if report is not None and report.result is not None:
            return [DropOutput(attempt, report.staging, report.result)]
        return []

    def discard(self, attempt: Attempt) -> list[Step]:
        """Nobody needs this map output any more."""
        if attempt not in self.held:
            return []
        self.held.remove(attempt)
        return [DropOutput(attempt)]

    def damaged(self, event: OutputDamaged) -> list[Step]:
        """A kept map output is gone or damaged: the leader must know, whoever asks for it is told to wait."""
        if event.attempt not in self.held:
            return []
        self.held.remove(event.attempt)
        lost = session.OutputLost(attempt=event.attempt.wire(), message=event.message)
        return [session.WorkerEvent(output_lost=lost), DropOutput(event.attempt)]

    def forget(self, index: int, name: str) -> list[Step]:
        """The job has ended: nothing of it stays. Raises ValueError."""
        if not safe_name(name):
            raise ValueError(f"not a job: {name!r}")
        self._forgotten[name] = index
        while len(self._forgotten) > FORGOTTEN_JOBS:
            del self._forgotten[next(iter(self._forgotten))]
        doomed = [attempt for attempt in self.work if attempt.job == name]
        for attempt in doomed:
            del self.work[attempt]
        return [*(KillTask(attempt) for attempt in doomed), *self._drop_job(name), *self.advance()]

    def _refuse(self, attempt: Attempt, cause: job.Cause.ValueType, message: str) -> list[Step]:
        """Reports an attempt that was never begun."""
        failed = session.Failed(attempt=attempt.wire(), failure=job.Failure(cause=cause, message=message))
        event = session.WorkerEvent(failed=failed)
        self.reports[attempt] = _Report(event, "", None, self.now)
        return [event]

    def _end(self, attempt: Attempt, event: session.WorkerEvent, result: job.TaskResult | None) -> list[Step]:
        del self.work[attempt]
        spec = self.jobs[attempt.job].spec
        shuffled = attempt.step < len(spec.steps) and spec.steps[attempt.step].reduces > 0
        self.reports[attempt] = _Report(event, spec.staging, result, self.now, shuffled)
        return [DropScratch(attempt), event, *self.advance()]

    def _drop_job(self, name: str) -> list[Step]:
        self.reports = {a: report for a, report in self.reports.items() if a.job != name}
        self.held = {a for a in self.held if a.job != name}
        self.jobs.pop(name, None)
        return [DropJob(name)]

    def _busy_with(self, name: str) -> bool:
        return any(a.job == name for a in (*self.work, *self.reports, *self.held))

    # ------------------------------------------------------------ what leaders are told

    def progress(self) -> Iterator[session.Progress]:
        """How far each attempt is."""
        for attempt, work in self.work.items():
            if work.started is None and work.gather is not None:
                fetched, maps = work.gather.fetched, max(1, work.gather.maps)
                yield session.Progress(
                    attempt=attempt.wire(), phase="fetch", fetched=fetched, fraction=fetched / maps / 3
                )
            else:
                yield work.progress or session.Progress(attempt=attempt.wire())

    def cursors(self) -> Iterator[session.OutputsCursor]:
        """How much of each step's log of map outputs is known here."""
        for name, known in self.jobs.items():
            for step, locations in known.locations.items():
                yield session.OutputsCursor(job=name, step=step, sequence=locations.sequence)

    def check(self) -> None:
        """What holds after every event; for tests."""
        assert sum(1 for w in self.work.values() if w.started is not None) <= self.slots
        assert not self.work.keys() & self.reports.keys()
        assert not self.held & (self.work.keys() | self.reports.keys())
        for attempt, work in self.work.items():
            assert attempt.job in self.jobs, "work of a forgotten job"
            assert (work.gather is not None) == (attempt.kind == job.REDUCE)
            if work.started is not None and work.gather is not None:
                assert work.gather.complete, "a reduce merges before every map output is in hand"


def _needs_code(attempt: Attempt, spec: job.JobSpec) -> bool:
    return attempt.kind not in _PUBLISHING or (attempt.kind == job.COMMIT and bool(spec.finalize))
