"""The task table: what all masters agree has happened to every job, task and worker.

A pure state machine. `apply` takes one committed entry and returns the events that each of its commands caused;
equal entries in equal order give an equal table and equal events on every replica. So nothing here reads a clock,
draws a number, logs or touches the network: a time or an id that matters arrives inside the entry.

A command that has become stale (a late completion, a second winner) is no error: it was true when it was proposed.
It changes nothing and yields `Refused`. `apply` never raises: first every check, then every change.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import assert_never

from master import causes, table_snapshot
from master.columns import COMPLETED, Live, Tasks
from master.event_log import event_to_proto
from master.events import (
    AttemptEnded,
    AttemptFailed,
    AttemptStarted,
    CleanupGivenUp,
    ClusterVersionSet,
    Event,
    JobAccepted,
    JobAlreadyFinished,
    JobFinished,
    JobForgotten,
    JobPublishing,
    JobStarted,
    LeaderChanged,
    MapOutputLost,
    MapOutputReady,
    MapsDone,
    Refused,
    StepStarted,
    TaskCompleted,
    TaskIdle,
    WorkerAttached,
    WorkerBarred,
    WorkerLost,
    WorkerStateChanged,
    job_of,
)
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey, key_of
from master.jobs import (
    CANCELLED,
    FAILED,
    INT64_MAX,
    JOB_TRANSITIONS,
    PUBLISHING,
    QUEUED,
    UINT64_MAX,
    EndedAttempt,
    Job,
)
from master.specs import next_try, same_job, why_bad
from master.table_check import check
from master.workers import ACTIVE, DRAINING, EXCLUDED, LOST, Worker
from mr.rpc import job_pb2, table_pb2

REQUESTS_KEPT = 10_000
ENDED_KEPT = 10_000
LOST_WORKERS_KEPT = 500
LIVE_JOBS = 10_000
ATTEMPTS_AT_ONCE = 2  # of one task: the first and one backup (T5)
OTHER_FAILURES = (
    100  # of one task, by no fault of the user: then something is wrong that repeating won't mend
)
CLEANUP_TRIES = 5
SLOTS_MOST = 4096


class TaskTable:
    """All of it. Others read its attributes; only `apply` and `restore` change them."""

    def __init__(self) -> None:
        self.index = 0
        self.term = 0
        self.leader = ""
        self.now_ms = 0  # the leaders' wall clocks, never backwards: only to show
        self.uptime_ms = (
            0  # time with a leader in office: deadlines count this, so no clock that jumps ends a job
        )
        self.term_clock_ms = 0  # the last now_ms within this term
        self.cluster_version = 0
        self.jobs: dict[str, Job] = {}
        self.live: dict[str, Job] = {}  # derived: those that are not terminal, in order of acceptance
        self.workers: dict[str, Worker] = {}
        self.requests: OrderedDict[str, tuple[str, str]] = OrderedDict()  # id to (what, subject)
        self.ended: OrderedDict[str, table_pb2.EndedJob] = OrderedDict()  # forgotten jobs
        self.outputs: dict[str, str] = {}  # derived: output path to live job
        self.live_requests: dict[str, str] = {}  # derived: request id to live job
        self.jobs_seen = 0

    # -- the contract of a state machine --

    def apply(self, index: int, entry: table_pb2.Entry) -> list[list[Event]]:
        """Applies one committed entry; one list of events a command."""
        self.index = index
        if entry.term < self.term:
            stale = Refused(f"proposed in term {entry.term}, and term {self.term} has begun", "STALE_TERM")
            return [[stale] for _ in entry.commands]
        self._advance_clock(entry)
        results = []
        for command in entry.commands:
            events = self._apply_one(command)
            self._record(events)
            results.append(events)
        return results

    def snapshot(self) -> Callable[[], bytes]:
        """Copies the state now, compactly; the returned function serialises the copy, on any thread."""
        return table_snapshot.freeze(self)

    def restore(self, data: bytes) -> None:
        """Becomes what `snapshot` serialised. ValueError or AssertionError if the bytes are none."""
        fresh = TaskTable()
        table_snapshot.thaw(fresh, data)
        check(fresh)
        self.__dict__.update(fresh.__dict__)

    def adopt(self, index: int, data: bytes) -> None:
        """Becomes a table saved by another cluster, inside this one's log: its jobs and workers, our index, term,
        leader and clock. Histories keep their order; their indexes meant another log. Raises as `restore` does.
        """
        ours = (self.term, self.leader, self.term_clock_ms)
        self.restore(data)
        self.term, self.leader, self.term_clock_ms = ours
        self.index = index
        for job in self.jobs.values():
            for position, kept in enumerate(job.events()):
                kept.index = index
                job.history[position] = kept.SerializeToString(deterministic=True)

    def digest(self) -> bytes:
        """SHA-256 of the state, equal on all replicas at the same index (C6)."""
        return hashlib.sha256(self.snapshot()()).digest()

    def check(self) -> None:
        """Every invariant of the table; AssertionError names the broken one."""
        check(self)

    def find_job(self, text: str) -> str | None:
        """The job of that id or unique prefix; a forgotten one too."""
        if text in self.jobs or text in self.ended:
            return text
        matches = [job for known in (self.jobs, self.ended) for job in known if job.startswith(text)]
        return matches[0] if text and len(matches) == 1 else None

    def request_of(self, request_id: str) -> str | None:
        """The job that this request id made, if it is remembered."""
        if request_id in self.live_requests:
            return self.live_requests[request_id]
        remembered = self.requests.get(request_id)
        return remembered[1] if remembered else None

    # -- one command --

    def _apply_one(self, command: table_pb2.Command) -> list[Event]:
        kind = command.WhichOneof("kind")
        match kind:
            case "take_office":
                return self._take_office(command.take_office)
            case "submit":
                return self._submit(command.submit)
            case "cancel":
                return self._cancel(command.cancel)
            case "attach":
                return self._attach(command.attach)
            case "lose_worker":
                return self._lose_worker(command.lose_worker)
            case "assign":
                return self._assign(command.assign)
            case "complete":
                return self._complete(command.complete)
            case "fail":
                return self._fail(command.fail)
            case "lose_output":
                return self._lose_output(command.lose_output)
            case "revoke":
                return self._revoke(command.revoke)
            case "set_worker":
                return self._set_worker(command.set_worker)
            case "expire":
                return self._expire(command.expire)
            case "forget_jobs":
                return self._forget_jobs(command.forget_jobs)
            case "set_version":
                return self._set_version(command.set_version)
            case "retry":
                return self._retry(command.retry)
            case None:
                return [Refused("an empty command", "EMPTY")]
            case _:
                assert_never(kind)

    def _take_office(self, command: table_pb2.TakeOffice) -> list[Event]:
        previous, self.leader = self.leader, command.leader
        for job in self.live.values():
            job.leader_changes += 1
        return [LeaderChanged(command.leader, self.term, previous)]

    def _submit(self, command: table_pb2.SubmitJob) -> list[Event]:
        spec = command.spec
        known = self.request_of(command.request_id) if command.request_id else None
        if known is not None:
            return [JobAccepted(known, existed=True)]
        if spec.job_id in self.ended:
            return [JobAccepted(spec.job_id, existed=True)]
        job = self.jobs.get(spec.job_id)
        if job is not None:
            if job.owner != command.identity or not same_job(job.spec, spec):
                return [Refused(f"another job has the id {spec.job_id}", "ID_IN_USE")]
            self._remember_request(command.request_id, "submit", job.id)
            return [JobAccepted(job.id, existed=True)]
        if why := why_bad(spec):
            return [Refused(why, "BAD_SPEC")]
        if spec.output.path in self.outputs:
            holder = self.outputs[spec.output.path]
            return [Refused(f"job {holder} is writing to {spec.output.path}", "OUTPUT_IN_USE")]
        if len(self.live) >= LIVE_JOBS:
            return [Refused(f"{LIVE_JOBS} jobs are queued or running already", "QUEUE_FULL")]
        return self._accept(command)

    def _accept(self, command: table_pb2.SubmitJob) -> list[Event]:
        spec = job_pb2.JobSpec()
        spec.CopyFrom(command.spec)  # else the job would keep its whole entry in memory
        self.jobs_seen += 1
        job = Job(
            spec,
            owner=command.identity,
            request_id=command.request_id,
            index=self.index,
            order=self.jobs_seen,
        )
        job.submitted_ms, job.submitted_uptime_ms = self.now_ms, self.uptime_ms
        self.jobs[job.id] = self.live[job.id] = job
        self.outputs[spec.output.path] = job.id
        if command.request_id:
            self.live_requests[command.request_id] = job.id
        self._remember_request(command.request_id, "submit", job.id)
        return [JobAccepted(job.id, existed=False), *self._advance(job)]

    def _cancel(self, command: table_pb2.CancelJob) -> list[Event]:
        job = self.jobs.get(command.job)
        if job is None:
            ended = self.ended.get(command.job)
            if ended is not None:
                return [JobAlreadyFinished(command.job, ended.state)]
            return [Refused(f"no job {command.job}", "NOT_FOUND")]
        if job.terminal:
            return [JobAlreadyFinished(job.id, job.state)]
        if job.state == PUBLISHING:
            return [Refused("its output is being published, which can't be undone", "PUBLISHING")]
        who = f"cancelled by {command.identity}" if command.identity else "cancelled"
        return self._finish(job, "cancelled", f"{who}: {command.reason}" if command.reason else who)

    def _retry(self, command: table_pb2.RetryJob) -> list[Event]:
        """A finished job never changes (T8): trying again is a new job with the same spec and its own staging."""
        known = self.request_of(command.request_id) if command.request_id else None
        if known is not None:
            return [JobAccepted(known, existed=True)]
        job = self.jobs.get(command.job)
        if job is None:
            return [Refused(f"no job {command.job}", "NOT_FOUND")]
        if job.state not in (FAILED, CANCELLED):
            return [Refused(f"job {job.id} has neither failed nor been cancelled", "NOT_FAILED")]
        again = table_pb2.SubmitJob(request_id=command.request_id, identity=command.identity)
        again.spec.CopyFrom(job.spec)
        again.spec.job_id = next_try(job.id, self.jobs.keys() | self.ended.keys())
        again.spec.staging = job.spec.staging.replace(job.id, again.spec.job_id)
        return self._submit(again)

    def _expire(self, command: table_pb2.ExpireJob) -> list[Event]:
        job = self.live.get(command.job)
        if job is None or job.state == PUBLISHING:
            return [Refused(f"job {command.job} is past expiring")]
        job.failure = job_pb2.Failure(
            cause=job_pb2.JOB_DEADLINE, message=f"not done within {job.spec.options.deadline_ms / 1000:g} s"
        )
        return self._finish(job, "failed", f"JOB_DEADLINE {job.failure.message}")

    # -- attempts --

    def _assign(self, command: table_pb2.AssignTask) -> list[Event]:
        key = key_of(command.attempt)
        job, worker = self.jobs.get(key.job), self.workers.get(command.worker)
        if job is None or worker is None:
            return [Refused(f"no such job or worker: {key.job}, {command.worker}", "NOT_FOUND")]
        tasks = next((t for s, k, t in job.runnable() if (s, k) == (key.step, key.kind)), None)
        if tasks is None or key.index >= tasks.count:
            return [Refused(f"{key.text} of {key.job} can't run now")]
        if worker.incarnation != command.incarnation or not worker.free or worker.id in job.excluded:
            return [Refused(f"{worker.id} can't take a task of {key.job} now", "WORKER_BUSY")]
        if worker.kinds and key.kind not in worker.kinds:
            return [Refused(f"{worker.id} takes no such tasks", "WORKER_BUSY")]
        if key.number != tasks.next_attempt[key.index] + 1:
            return [Refused(f"{key.text} is not the next attempt")]
        life = job.life(worker.id, worker.incarnation)
        others = tasks.live.get(key.index, ())
        if tasks.states[key.index] == COMPLETED or bool(others) != command.backup:
            return [Refused(f"{key.text}: the task is {'busy' if others else 'not idle'}")]
        if len(others) >= ATTEMPTS_AT_ONCE or any(other.life == life for other in others):
            return [Refused(f"{key.text}: enough attempts run")]
        tasks.start(key.index, Live(key.number, life, command.backup, self.index, self.now_ms))
        worker.running.add(key)
        job.running += 1
        job.attempts += 1
        started: list[Event] = [AttemptStarted(key, worker.id, command.backup)]
        if job.state == QUEUED:
            job.state = JOB_TRANSITIONS[QUEUED, "first_attempt"]
            job.started_ms, job.reason = self.now_ms, ""
            return [JobStarted(job.id), *started]
        return started

    def _complete(self, command: table_pb2.CompleteAttempt) -> list[Event]:
        key = key_of(command.attempt)
        found = self._live_attempt(key, command.worker, command.incarnation)
        if isinstance(found, Refused):
            return [found]
        job, tasks, live = found
        result = command.result
        if key.kind == REDUCE:
            step = job.steps[key.step]
            if not step.maps.done or result.consumed_digest != step.winners_digest():
                return self._stale_inputs(job, tasks, key, live)
        staged = key.kind == REDUCE or (key.kind == MAP and not job.steps[key.step].reduces.count)
        if staged and not result.file.name:
            return self._fail_live(
                job,
                tasks,
                key,
                live,
                job_pb2.Failure(cause=job_pb2.INTERNAL, message="a result without a file"),
            )
        return self._win(job, key, live, result, staged=staged)

    def _win(
        self, job: Job, key: AttemptKey, live: Live, result: job_pb2.TaskResult, *, staged: bool
    ) -> list[Event]:
        worker, tasks = job.worker_of(live.life), job.tasks(key.step, key.kind)
        assert tasks is not None, "checked before"
        events: list[Event] = [TaskCompleted(key, worker)]
        losers = tasks.win(key.index, live)
        self._free_slot(job, key, live)
        for loser in losers:
            lost = key._replace(number=loser.number)
            self._free_slot(job, lost, loser)
            events.append(AttemptEnded(lost, job.worker_of(loser.life), job_pb2.BACKUP_LOST))
        if key.kind == COMMIT:
            job.manifest_digest = result.manifest_digest
            return [*events, *self._finish(job, "published", "")]
        if key.kind == CLEANUP:
            return events
        packed = job.add_counters(result)
        step = job.steps[key.step]
        if staged:
            tasks.files[key.index] = result.file.SerializeToString(deterministic=True)
        else:
            tasks.counters[key.index] = packed
        if key.kind == MAP:
            step.digest = None
            step.bytes_done = min(INT64_MAX, step.bytes_done + max(0, result.counters.get("mr:bytes_in", 0)))
            if not staged:
                step.log.add(key.index, key.number, live.life, lost=False)
                step.add_sizes(key.index, result)
                events.append(MapOutputReady(key, worker, result.index_digest.hex()))
            if step.maps.done:
                events.append(MapsDone(job.id, key.step))
        return [*events, *self._advance(job)]

    def _stale_inputs(self, job: Job, tasks: Tasks, key: AttemptKey, live: Live) -> list[Event]:
        """A reduce merged a map output that is no longer the winner's: it starts again (T9)."""
        reason = causes.RERUN_REASONS[job_pb2.STALE_INPUTS]
        job.reruns[reason] = job.reruns.get(reason, 0) + 1
        return self._fail_live(
            job,
            tasks,
            key,
            live,
            job_pb2.Failure(cause=job_pb2.STALE_INPUTS, message="it merged a map output that was lost since"),
        )

    def _fail(self, command: table_pb2.FailAttempt) -> list[Event]:
        key = key_of(command.attempt)
        found = self._live_attempt(key, command.worker, command.incarnation)
        if isinstance(found, Refused):
            return [found]
        return self._fail_live(*found[:2], key, found[2], command.failure)

    def _fail_live(
        self, job: Job, tasks: Tasks, key: AttemptKey, live: Live, failure: job_pb2.Failure
    ) -> list[Event]:
        cause, worker = failure.cause, job.worker_of(live.life)
        user = cause in causes.USER
        events: list[Event] = [AttemptFailed(key, worker, cause, failure.message[:300], user)]
        tasks.failed_attempts += 1
        self._tell_story(job, key, live, failure, "failed")
        idle = self._end(job, tasks, key, live)
        if key.kind == COMMIT:
            job.reason = f"publishing: {causes.name(cause)} {failure.message[:300]}"  # retried for ever
            return [*events, *idle]
        count = tasks.user_failures if user else tasks.other_failures
        if cause not in causes.HARMLESS or cause == job_pb2.STALE_INPUTS:
            count[key.index] = min(65535, count[key.index] + 1)
        if key.kind == CLEANUP:
            if count[key.index] >= CLEANUP_TRIES:
                job.cleanup_given_up = True
                events.append(CleanupGivenUp(job.id, failure.message[:300]))
            return [*events, *idle]
        if cause in causes.EXCLUDES_WORKER and worker not in job.excluded:
            job.excluded[worker] = cause
            events.append(WorkerBarred(job.id, worker, cause))
        if why := self._why_hopeless(job, tasks, key, cause):
            job.failure = _bounded(failure)
            job.failed_task = key.proto()
            return [*events, *self._finish(job, "failed", why)]
        return [*events, *idle]

    def _why_hopeless(self, job: Job, tasks: Tasks, key: AttemptKey, cause: int) -> str:
        """Why this failure ends the job; "" if another attempt may help."""
        task, name = key.task, causes.name(cause)
        if cause in causes.FATAL:
            return f"{task.text}: {name}"
        others = any(w.state != LOST and w.id not in job.excluded for w in self.workers.values())
        if cause in causes.EXCLUDES_WORKER:
            return "" if others else f"no worker can run it: {name}"
        if cause in causes.FATAL_WHEN_AGREED:
            blind = {ended.worker for ended in job.failures.get(task, ()) if _cause_of(ended) == cause}
            seeing = any(w.state == ACTIVE and w.id not in blind for w in self.workers.values())
            return (
                f"{task.text}: {name} on {', '.join(sorted(blind))}" if len(blind) > 1 or not seeing else ""
            )
        if cause in causes.USER:
            times = tasks.user_failures[key.index]
            return f"{task.text} failed {times} times: {name}" if times >= job.max_attempts else ""
        if tasks.other_failures[key.index] > OTHER_FAILURES:
            return f"{task.text} could not be run {tasks.other_failures[key.index]} times: {name}"
        return ""

    def _revoke(self, command: table_pb2.RevokeAttempt) -> list[Event]:
        key = key_of(command.attempt)
        job = self.jobs.get(key.job)
        tasks = job.tasks(key.step, key.kind) if job else None
        live = tasks.find(key.index, key.number) if tasks else None
        if job is None or tasks is None or live is None:
            return [Refused(f"{key.text} of {key.job} is not live")]
        failure = job_pb2.Failure(cause=command.cause, message=command.message[:300])
        self._tell_story(job, key, live, failure, "revoked")
        ended = AttemptEnded(key, job.worker_of(live.life), command.cause, command.message[:300])
        return [ended, *self._end(job, tasks, key, live)]

    def _live_attempt(
        self, key: AttemptKey, worker: str, incarnation: str
    ) -> Refused | tuple[Job, Tasks, Live]:
        job = self.jobs.get(key.job)
        if job is None:
            return Refused(f"no job {key.job}", "NOT_FOUND")
        tasks = job.tasks(key.step, key.kind)
        if tasks is None or key.index >= tasks.count:
            return Refused(f"{key.job} has no {key.task.text}", "NOT_FOUND")
        live = tasks.find(key.index, key.number)
        if live is None:
            if job.terminal:
                return Refused(f"job {key.job} is finished")
            if tasks.states[key.index] == COMPLETED:
                return Refused(f"{key.task.text} already has a winner")
            return Refused(f"attempt {key.number} is not live")
        if job.lives[live.life] != (worker, incarnation):
            return Refused(f"attempt {key.number} belongs to another life of a worker")
        return job, tasks, live

    def _end(self, job: Job, tasks: Tasks, key: AttemptKey, live: Live) -> list[Event]:
        """The attempt is gone, without a winner."""
        self._free_slot(job, key, live)
        return [TaskIdle(key.task)] if tasks.end(key.index, key.number) else []

    def _free_slot(self, job: Job, key: AttemptKey, live: Live) -> None:
        job.running -= 1
        name, incarnation = job.lives[live.life]
        worker = self.workers.get(name)
        if worker is not None and worker.incarnation == incarnation:
            worker.running.discard(key)

    def _tell_story(
        self, job: Job, key: AttemptKey, live: Live, failure: job_pb2.Failure, state: str
    ) -> None:
        ended = EndedAttempt(
            live.number,
            job.worker_of(live.life),
            live.started_ms,
            self.now_ms,
            _bounded(failure).SerializeToString(deterministic=True),
            state,
        )
        job.remember_failure(key.task, ended)

    # -- map outputs and workers --

    def _lose_output(self, command: table_pb2.LoseOutput) -> list[Event]:
        key = key_of(command.attempt)
        job = self.live.get(key.job)
        if job is None or key.kind != MAP or key.step >= len(job.steps):
            return [Refused(f"no map output {key.text} of {key.job}", "NOT_FOUND")]
        maps = job.steps[key.step].maps
        if key.index >= maps.count or maps.winner_attempt[key.index] != key.number:
            return [Refused(f"{key.text} is not the winner")]
        if job.worker_of(maps.winner_life[key.index]) != command.worker:
            return [Refused(f"{key.text} does not lie on {command.worker}")]
        if not self._outputs_needed(job, key.step):
            return [Refused(f"the output of {key.text} is no longer needed")]
        return self._output_gone(job, key, causes.RERUN_REASONS.get(command.cause, "output lost"))

    def _outputs_needed(self, job: Job, step: int) -> bool:
        return job.state not in (PUBLISHING,) and step == job.step and job.steps[step].needs_map_outputs()

    def _output_gone(self, job: Job, key: AttemptKey, reason: str) -> list[Event]:
        step = job.steps[key.step]
        life = step.maps.winner_life[key.index]
        taken_back = job.take_back_counters(step.maps.counters[key.index])
        step.bytes_done = max(0, step.bytes_done - max(0, taken_back.get("mr:bytes_in", 0)))
        step.maps.lose(key.index)
        step.log.add(key.index, key.number, life, lost=True)
        step.digest = None
        job.reruns[reason] = job.reruns.get(reason, 0) + 1
        return [MapOutputLost(key, job.worker_of(life), reason), TaskIdle(key.task)]

    def _attach(self, command: table_pb2.AttachWorker) -> list[Event]:
        if not command.worker or not command.incarnation or not 0 < command.slots <= SLOTS_MOST:
            return [Refused("a worker needs an id, an incarnation and slots", "BAD_WORKER")]
        events: list[Event] = []
        old = self.workers.get(command.worker)
        if old is not None and command.incarnation < old.incarnation:
            return [Refused(f"a newer life of {command.worker} is known", "SUPERSEDED")]
        if old is not None and command.incarnation > old.incarnation and old.state != LOST:
            events += self._give_up(old, "a newer life of it attached")
        attach = table_pb2.AttachWorker()
        attach.CopyFrom(command)
        worker = Worker(attach, self.now_ms)
        if old is not None:
            worker.follow(old)
        self.workers[worker.id] = worker
        return [*events, WorkerAttached(worker.id, worker.incarnation)]

    def _lose_worker(self, command: table_pb2.LoseWorker) -> list[Event]:
        worker = self.workers.get(command.worker)
        if worker is None or worker.incarnation != command.incarnation or worker.state == LOST:
            return [Refused(f"{command.worker} is not there in that life")]
        events = self._give_up(worker, command.reason[:300] or "silent")
        lost = [w for w in self.workers.values() if w.state == LOST]
        for forgotten in sorted(lost, key=lambda w: (w.lost_ms, w.id))[
            : max(0, len(lost) - LOST_WORKERS_KEPT)
        ]:
            del self.workers[forgotten.id]
        return events

    def _give_up(self, worker: Worker, reason: str) -> list[Event]:
        """What it ran goes back to idle; what it completed too, where a reduce has yet to commit (S4-20)."""
        events: list[Event] = [WorkerLost(worker.id, worker.incarnation, reason)]
        for key in sorted(worker.running):
            job = self.jobs[key.job]
            tasks = job.tasks(key.step, key.kind)
            live = tasks.find(key.index, key.number) if tasks else None
            if tasks is not None and live is not None:
                events += self._lose_attempt(job, tasks, key, live, reason)
        for job in list(self.live.values()):
            life = job.life_ids.get((worker.id, worker.incarnation))
            if life is None or not self._outputs_needed(job, job.step):
                continue
            maps = job.current.maps
            for index in maps.held_by(life):
                key = AttemptKey(job.id, job.step, MAP, index, maps.winner_attempt[index])
                events += self._output_gone(job, key, causes.RERUN_REASONS[job_pb2.WORKER_LOST])
            maps.by_life.pop(life, None)
        worker.state, worker.reason, worker.lost_ms = LOST, reason, self.now_ms
        worker.running = set()
        return events

    def _lose_attempt(self, job: Job, tasks: Tasks, key: AttemptKey, live: Live, reason: str) -> list[Event]:
        failure = job_pb2.Failure(cause=job_pb2.WORKER_LOST, message=reason)
        self._tell_story(job, key, live, failure, "lost")
        events: list[Event] = [AttemptEnded(key, job.worker_of(live.life), job_pb2.WORKER_LOST, reason)]
        events += self._end(job, tasks, key, live)
        if key.kind in (COMMIT, CLEANUP):
            return events
        tasks.other_failures[key.index] = min(65535, tasks.other_failures[key.index] + 1)
        if why := self._why_hopeless(job, tasks, key, job_pb2.WORKER_LOST):
            job.failure, job.failed_task = failure, key.proto()
            events += self._finish(job, "failed", why)
        return events

    def _set_worker(self, command: table_pb2.SetWorkerState) -> list[Event]:
        worker = self.workers.get(command.worker)
        if worker is None or worker.state == LOST:
            return [Refused(f"no worker {command.worker}", "NOT_FOUND")]
        if command.state not in (ACTIVE, DRAINING, EXCLUDED):
            return [Refused("a worker can be active, draining or excluded", "BAD_STATE")]
        if command.job:
            return self._set_worker_for_job(command)
        others = any(w.state == ACTIVE for w in self.workers.values() if w is not worker)
        if command.state == EXCLUDED and not others:
            return [Refused(f"{worker.id} is the last active worker", "LAST_WORKER")]
        worker.set_state(command.state, command.reason[:300], command.until_ms)
        return [WorkerStateChanged(worker.id, worker.state, worker.reason)]

    def _set_worker_for_job(self, command: table_pb2.SetWorkerState) -> list[Event]:
        job = self.live.get(command.job)
        if job is None:
            return [Refused(f"no live job {command.job}", "NOT_FOUND")]
        if command.state == ACTIVE:
            job.excluded.pop(command.worker, None)
            return [WorkerStateChanged(command.worker, command.state, f"for job {job.id}")]
        left = any(
            w.state == ACTIVE and w.id not in job.excluded and w.id != command.worker
            for w in self.workers.values()
        )
        if not left:
            return [Refused(f"{command.worker} is the last worker for {job.id}", "LAST_WORKER")]
        job.excluded[command.worker] = job_pb2.CAUSE_NONE
        return [WorkerBarred(job.id, command.worker, job_pb2.CAUSE_NONE)]

    # -- the life of a job --

    def _advance(self, job: Job) -> list[Event]:
        """Starts the next step when this one is done, and publication after the last."""
        events: list[Event] = []
        while not job.terminal and job.state != PUBLISHING and job.current.done:
            if job.step + 1 < len(job.steps):
                job.step += 1
                events.append(StepStarted(job.id, job.step))
            else:
                job.state = JOB_TRANSITIONS[
                    job.state, "nothing_to_do" if job.state == QUEUED else "tasks_done"
                ]
                events.append(JobPublishing(job.id))
        return events

    def _finish(self, job: Job, trigger: str, reason: str) -> list[Event]:
        """The end of a job: live attempts are no longer, its output place and request are free (T7, T8)."""
        job.state = JOB_TRANSITIONS[job.state, trigger]
        job.reason, job.ended_ms = reason, self.now_ms
        for number, step in enumerate(job.steps):
            for kind, tasks in ((MAP, step.maps), (REDUCE, step.reduces)):
                for index in list(tasks.live):
                    for live in tasks.live[index]:
                        self._end(job, tasks, AttemptKey(job.id, number, kind, index, live.number), live)
        del self.live[job.id]
        self.outputs.pop(job.spec.output.path, None)
        self.live_requests.pop(job.request_id, None)
        job.shed()
        return [JobFinished(job.id, job.state, reason)]

    def _forget_jobs(self, command: table_pb2.ForgetJobs) -> list[Event]:
        events: list[Event] = []
        for name in command.jobs:
            job = self.jobs.get(name)
            if job is None or not job.terminal or job.running:
                continue
            del self.jobs[name]
            self.ended[name] = table_snapshot.ended(job)
            events.append(JobForgotten(name))
        while len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)
        return events or [Refused("no such finished jobs", "NOT_FOUND")]

    def _set_version(self, command: table_pb2.SetClusterVersion) -> list[Event]:
        if command.version <= self.cluster_version:
            return [Refused(f"the cluster is at version {self.cluster_version} already")]
        self.cluster_version = command.version
        return [ClusterVersionSet(command.version)]

    # -- bookkeeping --

    def _advance_clock(self, entry: table_pb2.Entry) -> None:
        if entry.term == self.term:
            self.uptime_ms = min(UINT64_MAX, self.uptime_ms + max(0, entry.now_ms - self.term_clock_ms))
            self.term_clock_ms = max(self.term_clock_ms, entry.now_ms)
        else:
            self.term, self.term_clock_ms = entry.term, entry.now_ms
        self.now_ms = max(self.now_ms, entry.now_ms)

    def _remember_request(self, request_id: str, what: str, subject: str) -> None:
        if not request_id:
            return
        self.requests[request_id] = (what, subject)
        while len(self.requests) > REQUESTS_KEPT:
            self.requests.popitem(last=False)

    def _record(self, events: list[Event]) -> None:
        """Keeps significant events in their job's history; those of the whole cluster in every live job's."""
        for event in events:
            if not event.significant:
                continue
            data = event_to_proto(event, self.index, self.now_ms).SerializeToString(deterministic=True)
            name = job_of(event)
            if name:
                if name in self.jobs:
                    self.jobs[name].history.append(data)
            else:
                for job in self.live.values():
                    job.history.append(data)


def _bounded(failure: job_pb2.Failure) -> job_pb2.Failure:
    """A failure that is safe to keep: whatever a task process wrote, it is cut to size."""
    kept = job_pb2.Failure()
    kept.CopyFrom(failure)
    kept.message, kept.where, kept.input = failure.message[:500], failure.where[:300], failure.input[:500]
    kept.traceback, kept.record, kept.fetch_worker = (
        failure.traceback[-8192:],
        failure.record[:200],
        failure.fetch_worker[:200],
    )
    return kept


def _cause_of(ended: EndedAttempt) -> int:
    return job_pb2.Failure.FromString(ended.failure).cause
