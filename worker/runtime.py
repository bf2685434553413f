"""Carries out what the agent decides: processes, files, calls; and tells it what came of that.

Decides nothing. Everything here runs on one asyncio loop; what blocks runs in threads. An action that takes
time becomes an asyncio task whose outcome is an event, so the agent is never called from within itself.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from mr.locate import at_record
from mr.rpc import job_pb2 as job
from mr.rpc import task_pb2 as task
from worker import metrics
from worker.agent import Agent
from worker.aside import aside
from worker.code import CodeStore, Unprepared
from worker.detector import Changed, Detector
from worker.events import (
    Action,
    Attempt,
    CloseSession,
    DropJob,
    DropOutput,
    DropScratch,
    Event,
    Exit,
    FailTask,
    Fetch,
    JobPrepared,
    Joined,
    KillTask,
    Note,
    OutputDamaged,
    PeerSuspected,
    PrepareFailed,
    PrepareJob,
    Send,
    StartTask,
    SweepScratch,
    TaskDone,
    TaskFailed,
    TaskProgress,
    Tick,
)
from worker.fetch import Fetcher
from worker.journal import Journal
from worker.log import AttemptLog
from worker.pool import TaskPool
from worker.session import Sessions
from worker.store import Store, drop_published

log = logging.getLogger("mr.worker")

TICK_S = 0.1
TIDY_S = 10.0
DISK_LOOK_S = 1.0
STORAGE_S = 20.0  # for what is not this worker's disk
_PUBLISHING = frozenset({job.COMMIT, job.CLEANUP})
_DIED = frozenset({job.USER_EXIT, job.NATIVE_SIGNAL, job.OUT_OF_MEMORY, job.TASK_TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the runtime acts with."""

    store: Store
    pool: TaskPool
    code: CodeStore
    fetcher: Fetcher
    sessions: Sessions
    detector: Detector
    journal: Journal


class Runtime:
    """One worker at work. `ended` resolves to (exit code, reason) when the agent wants the process to end."""

    def __init__(self, agent: Agent, task_memory_bytes: int) -> None:
        self.agent = agent
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._task_memory_bytes = task_memory_bytes
        self._means: Means | None = None
        self._runs: dict[Attempt, asyncio.Task[None]] = {}
        self._fetches: defaultdict[Attempt, set[asyncio.Task[None]]] = defaultdict(set)
        self._code_of: dict[str, bytes] = {}
        self._reasons: dict[Attempt, job.Failure] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._disk_free, self._disk_looked_at, self._tidied_at = 1 << 60, 0.0, 0.0

    def equip(self, means: Means) -> None:
        """What it acts with; before the first event."""
        self._means = means

    @property
    def means(self) -> Means:
        """What it acts with."""
        assert self._means is not None, "equipped"
        return self._means

    def feed(self, event: Event) -> None:
        """One event to the agent, and its actions carried out."""
        actions = self.agent.handle(event)
        self.means.journal.note(event, actions, self.agent.term)
        for action in actions:
            self._carry_out(action)

    def suspect(self, news: Changed) -> None:
        """The detector's news, for the leader."""
        self.feed(PeerSuspected(news.worker, news.reachable, news.asked, news.agreed))

    async def run(self) -> None:
        """The clock: ticks until cancelled. Also looks after the disk."""
        while True:
            now = time.monotonic()
            if now - self._disk_looked_at >= DISK_LOOK_S:
                self._disk_looked_at = now
                self._disk_free = await asyncio.to_thread(self.means.store.disk_free)
                metrics.DISK_FREE.set(self._disk_free)
                metrics.MEMORY.set(self.means.pool.used_bytes)
                metrics.RUNNING.set(len(self.agent.load.work))
                metrics.HELD.set(len(self.agent.load.held))
            if now - self._tidied_at >= TIDY_S:
                self._tidied_at = now
                await asyncio.to_thread(self.means.store.empty_trash)
            self.feed(Tick(now, self._disk_free, self.means.pool.used_bytes))
            await asyncio.sleep(TICK_S)

    async def close(self) -> None:
        """Ends all that runs here."""
        everything = [*self._runs.values(), *self._others]
        everything += [fetch for fetches in self._fetches.values() for fetch in fetches]
        for running in everything:
            running.cancel()
        await self.means.pool.close()
        await asyncio.gather(*everything, return_exceptions=True)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                self.means.sessions.send(action.session, action.events)
            case CloseSession():
                self.means.sessions.close(action.session, action.reason, action.hint)
            case Joined():
                self.means.store.remember_cluster(action.cluster_id)
                self.means.detector.set_peers({peer.worker: peer.address for peer in action.peers})
                log.info("welcomed by leader %s of cluster %s", action.leader, action.cluster_id)
            case SweepScratch():
                digests = {digest.hex() for digest in self._code_of.values()}
                self.means.store.sweep(action.keep, digests)
                self._tidied_at = 0.0
            case PrepareJob():
                self._spawn(self._prepare(action))
            case StartTask():
                self._runs[action.attempt] = self._spawn(self._run(action))
            case KillTask():
                self._kill(action.attempt)
            case FailTask():
                self._reasons[action.attempt] = action.failure
                if running := self._runs.get(action.attempt):
                    running.cancel()
            case Fetch():
                fetch = self._spawn(self._fetch(action))
                self._fetches[action.reduce].add(fetch)
                fetch.add_done_callback(self._fetches[action.reduce].discard)
            case DropScratch():
                self._fetches.pop(action.attempt, None)
                self.means.store.drop_attempt(action.attempt)
            case DropOutput():
                self._drop_output(action)
            case DropJob():
                self._drop_job(action.job)
            case Note():
                log.warning("%s", action.text)
            case Exit():
                if not self.ended.done():
                    self.ended.set_result((action.code, action.reason))
            case _:
                assert_never(action)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        spawned = asyncio.get_running_loop().create_task(work)
        self._others.add(spawned)
        spawned.add_done_callback(self._finished)
        return spawned

    def _finished(self, spawned: asyncio.Task[None]) -> None:
        self._others.discard(spawned)
        if not spawned.cancelled() and (error := spawned.exception()) is not None:
            log.error("a bug in this worker: %s", error, exc_info=error)
            if not self.ended.done():  # going on might mean waiting for ever for this outcome
                self.ended.set_result((70, f"a bug in this worker: {error}"))

    # ------------------------------------------------------------ tasks

    async def _prepare(self, action: PrepareJob) -> None:
        spec = action.spec
        if spec.code_digest:
            self._code_of[action.job] = spec.code_digest
        try:
            folder = await self.means.code.prepare(spec, check_nonce=action.check_nonce)
        except Unprepared as error:
            log.warning("job %s cannot run here: %s", action.job, error)
            self.feed(PrepareFailed(action.job, error.failure))
        except Exception as error:
            self.feed(PrepareFailed(action.job, _bug(error)))
        else:
            self.feed(JobPrepared(action.job, str(folder)))
        if action.job not in self._code_of:  # forgotten meanwhile
            self._drop_code(spec.code_digest)

    async def _run(self, action: StartTask) -> None:
        attempt, kind = action.attempt, job.Kind.Name(action.assign.attempt.task.kind)
        began = time.monotonic()
        log.info("%s begins", attempt, extra={"job": attempt.job, "attempt": str(attempt)})
        try:
            outcome = await self._in_process(action)
        except OSError as error:
            outcome = _disk_failure(error)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.means.store.drop_output, attempt)
            failure = self._reasons.pop(attempt, None)
            if failure is None:
                raise
            outcome = await _at_record(failure, self._request(action))
        except Exception as error:
            outcome = _bug(error)
        finally:
            self._runs.pop(attempt, None)
        seconds = time.monotonic() - began
        metrics.TASK_SECONDS.labels(kind=kind).observe(seconds)
        if isinstance(outcome, job.TaskResult):
            metrics.ATTEMPTS.labels(kind=kind, result="done").inc()
            metrics.SPILL_BYTES.inc(max(0, outcome.counters.get("mr:spilled_bytes", 0)))
            outcome.duration_ms = outcome.duration_ms or int(seconds * 1000)
            self.feed(TaskDone(attempt, outcome))
            return
        metrics.ATTEMPTS.labels(kind=kind, result=job.Cause.Name(outcome.cause)).inc()
        log.warning("%s failed: %s", attempt, outcome.message, extra={"job": attempt.job})
        self.feed(TaskFailed(attempt, outcome))

    async def _in_process(self, action: StartTask) -> job.TaskResult | job.Failure:
        attempt, request = action.attempt, self._request(action)
        self.means.store.make_attempt_dir(attempt)
        # Publication runs in a process of its own: user code may have done anything to the job's.
        owner = attempt.job + ("/publish" if attempt.kind in _PUBLISHING else "")
        limit = action.spec.options.memory_bytes or self._task_memory_bytes
        with AttemptLog(self.means.store.layout.log(attempt)) as output:
            outcome = await self.means.pool.run(
                owner, request, output, limit, lambda p: self.feed(TaskProgress(attempt, p))
            )
        return await _at_record(outcome, request) if isinstance(outcome, job.Failure) else outcome

    def _request(self, action: StartTask) -> task.RunAttempt:
        assign, layout = action.assign, self.means.store.layout
        request = task.RunAttempt(
            attempt=assign.attempt,
            spec=action.spec,
            code_dir=action.code_dir,
            attempt_dir=str(layout.attempt(action.attempt)),
            job_dir=str(layout.maps(action.attempt.job)),
            runs=action.runs,
            files=assign.files,
            counters=assign.counters,
            skip=assign.skip,
        )
        if assign.HasField("split"):
            request.split.CopyFrom(assign.split)
        if assign.HasField("source_file"):
            request.source_file.CopyFrom(assign.source_file)
        return request

    def _kill(self, attempt: Attempt) -> None:
        self._reasons.pop(attempt, None)
        for fetch in self._fetches.pop(attempt, ()):
            fetch.cancel()
        if running := self._runs.get(attempt):
            running.cancel()

    # ------------------------------------------------------------ map outputs

    async def _fetch(self, action: Fetch) -> None:
        try:
            folder = self.means.store.make_attempt_dir(action.reduce)
            ended = await self.means.fetcher.fetch(action, folder)
        except OSError as error:
            self.feed(TaskFailed(action.reduce, _disk_failure(error)))
            return
        except Exception as error:
            self.feed(TaskFailed(action.reduce, _bug(error)))
            return
        if action.worker == self.agent.identity.worker:
            for region in ended.failed:
                r = action.reduce
                source = Attempt(r.job, r.step, job.MAP, region.map, region.attempt)
                self.feed(OutputDamaged(source, region.message))
        self.feed(ended)

    def _drop_output(self, action: DropOutput) -> None:
        self.means.store.drop_output(action.attempt)
        if action.staging and action.result is not None:
            self._spawn(_drop_published(action.staging, action.result))

    def _drop_job(self, name: str) -> None:
        self.means.pool.forget(name)
        self.means.pool.forget(name + "/publish")
        self.means.store.drop_job(name)
        if digest := self._code_of.pop(name, None):
            self._drop_code(digest)
        self._tidied_at = 0.0

    def _drop_code(self, digest: bytes) -> None:
        if digest and digest not in self._code_of.values():
            self.means.store.drop_code(digest)


def _bug(error: Exception) -> job.Failure:
    """What nobody foresaw fails one attempt, not the worker; the log has the traceback."""
    log.error("a bug in this worker: %s", error, exc_info=error)
    return job.Failure(cause=job.INTERNAL, message=f"a bug in the worker: {type(error).__name__}: {error}")


def _disk_failure(error: OSError) -> job.Failure:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    cause = job.DISK_FULL if full else job.DISK_ERROR
    where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
    return job.Failure(cause=cause, message=f"the worker's disk: {error.strerror or error}{where}")


async def _at_record(failure: job.Failure, request: task.RunAttempt) -> job.Failure:
    """Names the record that was in hand when the process died (P-07)."""
    if failure.cause in _DIED and not failure.input:
        try:
            return await aside(STORAGE_S, at_record, failure, request)
        except TimeoutError:
            return failure  # the input does not answer; perhaps that is why
    return failure


async def _drop_published(staging: str, result: job.TaskResult) -> None:
    try:
        await aside(STORAGE_S, drop_published, staging, result)
    except TimeoutError:
        log.warning("%s does not answer: a refused file stays until the job is cleaned up", staging)
