"""A worker of the simulation: the real `worker.agent.Agent`, with a runtime that only pretends to work.

A map's output is a version on this worker's disk and dies with it; a reduce writes a file into the shared staging
place and remembers which versions it merged.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from master.ids import AttemptKey
from mr.rpc import job_pb2, session_pb2, task_pb2
from worker import events as we
from worker.agent import Agent
from worker.identity import Identity

if TYPE_CHECKING:
    from tests.simulation.control.world import World

TICK_S = 0.25
FAILURES = [
    (0.03, job_pb2.USER_EXCEPTION),
    (0.01, job_pb2.INTERNAL),
    (0.005, job_pb2.DISK_FULL),
    (0.005, job_pb2.OUT_OF_MEMORY),
]


class SimWorker:
    """One life of one worker."""

    def __init__(self, world: World, name: str, life: int, slots: int) -> None:
        self.world, self.name, self.life, self.slots = world, name, life, slots
        identity = Identity(
            worker=name,
            incarnation=f"{life:06d}",
            address=f"{name}:{life}",
            slots=slots,
            host=name,
            version="1.0",
        )
        self.agent = Agent(identity)
        self.alive = True
        self.paused_until = 0.0
        self.link: int | None = None  # the open session
        self.store: set[AttemptKey] = set()  # map outputs on disk
        self.tasks: dict[we.Attempt, int] = {}  # running task processes, by a token
        self.folders: set[str] = set()  # jobs of which this disk keeps code or a folder
        self.slow = 1.0
        world.clock.after(world.rng.random() * TICK_S, self._tick)
        world.clock.after(0.01, self._connect)

    # -- life --

    def kill(self) -> None:
        self.alive = False
        if self.link is not None:
            self.world.break_link(self.link)

    def feed(self, event: we.Event) -> None:
        """One event to the agent, later if the process is stopped just now."""
        if not self.alive:
            return
        if self.world.clock.now < self.paused_until:
            self.world.clock.after(self.paused_until - self.world.clock.now + 0.001, lambda: self.feed(event))
            return
        actions = self.agent.handle(event)
        self.agent.check()
        for action in actions:
            self._carry_out(action)

    def _tick(self) -> None:
        if self.alive:
            self.world.clock.after(TICK_S, self._tick)
            if self.world.clock.now >= self.paused_until:
                self.feed(we.Tick(self.world.clock.now))

    def _connect(self) -> None:
        if not self.alive or self.link is not None:
            return
        if self.world.clock.now >= self.paused_until:
            self.link = self.world.connect(self)
            if self.link is not None:
                self.feed(we.SessionOpened(self.link))
                return
        self.world.clock.after(0.1 + self.world.rng.random() * 0.4, self._connect)

    def link_broken(self, number: int) -> None:
        if self.link == number:
            self.link = None
            self.feed(we.SessionClosed(number))
            self.world.clock.after(0.05 + self.world.rng.random() * 0.3, self._connect)

    # -- the runtime --

    def _carry_out(self, action: we.Action) -> None:
        match action:
            case we.Send(session=number, events=said):
                for word in said:
                    copy = session_pb2.WorkerEvent()
                    copy.CopyFrom(word)
                    self.world.to_master(number, copy)
            case we.CloseSession(session=number):
                self.world.break_link(number)
            case we.PrepareJob(job=job):
                self.folders.add(job)
                self.world.clock.after(0.02, lambda: self.feed(we.JobPrepared(job, "/code")))
            case we.StartTask():
                self._start(action)
            case we.KillTask(attempt=attempt):
                self.tasks.pop(attempt, None)
            case we.FailTask(attempt=attempt, failure=failure):
                if self.tasks.pop(attempt, None) is not None:
                    self.feed(we.TaskFailed(attempt, failure))
            case we.Fetch():
                delay = 0.02 + self.world.rng.random() * 0.1
                self.world.clock.after(delay, lambda: self._fetch(action))
            case we.DropOutput(attempt=attempt, staging=staging, result=result):
                self.store.discard(key_of(attempt))
                if staging and result is not None and result.HasField("file"):
                    self.world.staging.discard((attempt.job, result.file.name))
            case we.DropJob(job=job):
                self.store = {key for key in self.store if key.job != job}
                self.tasks = {a: token for a, token in self.tasks.items() if a.job != job}
                self.folders.discard(job)
            case we.Exit():
                self.kill()
            case _:
                pass

    def _start(self, start: we.StartTask) -> None:
        token = self.world.token()
        self.tasks[start.attempt] = token
        self.folders.add(start.attempt.job)
        rng = self.world.rng
        seconds = (0.1 + rng.random() * 0.6) * self.slow * (8 if rng.random() < 0.03 else 1)
        draw, cause = rng.random(), None
        if start.attempt.kind in (job_pb2.MAP, job_pb2.REDUCE) and self.world.trouble:
            for share, of in FAILURES:
                if draw < share:
                    cause = of
                    break
                draw -= share

        def end() -> None:
            if not self.alive or self.tasks.get(start.attempt) != token:
                return
            if self.world.clock.now < self.paused_until:
                self.world.clock.after(self.paused_until - self.world.clock.now + 0.001, end)
                return
            del self.tasks[start.attempt]
            gone = start.attempt.job in self.world.removed and start.attempt.kind in (
                job_pb2.MAP,
                job_pb2.REDUCE,
            )
            failed = job_pb2.OUTPUT_UNWRITABLE if gone else cause
            if failed is not None:
                self.feed(we.TaskFailed(start.attempt, job_pb2.Failure(cause=failed, message="simulated")))
            else:
                self.feed(we.TaskDone(start.attempt, self._result(start)))

        self.world.clock.after(seconds, end)

    def _result(self, start: we.StartTask) -> job_pb2.TaskResult:
        key = key_of(start.attempt)
        result = job_pb2.TaskResult()
        if key.kind == job_pb2.COMMIT:
            for file in start.assign.files:
                assert key.job in self.world.removed or (key.job, file.name) in self.world.staging, (
                    f"the winner's file {file.name} is gone"
                )
            result.file.sha256 = b"manifest"
        if key.kind in (job_pb2.COMMIT, job_pb2.CLEANUP):
            self.world.staging = {entry for entry in self.world.staging if entry[0] != key.job}
            self.world.removed.add(key.job)
            return result
        counters = {"mr:records_in": self.world.rng.randrange(1, 50), "user:x": key.index + 1}
        for name, value in counters.items():
            result.counters[name] = value
        self.world.truth.counters[key] = counters
        step = start.spec.steps[key.step]
        if key.kind == job_pb2.REDUCE:
            assert [run.map for run in start.runs] == list(range(start.assign.maps)), (
                "a reduce without all maps"
            )
            self.world.truth.merged[key] = {run.map: run.attempt for run in start.runs}
            numbers = b"".join(struct.pack(">I", run.attempt) for run in start.runs)
            result.consumed_digest = hashlib.sha256(numbers).digest()
        if key.kind == job_pb2.REDUCE or not step.reduces:
            result.file.name = f"{key.step}.{key.kind}.{key.index}.a{key.number}"
            self.world.staging.add((key.job, result.file.name))
        else:
            self.store.add(key)
            result.partition_bytes.extend([10] * step.reduces)
            result.partition_records.extend([1] * step.reduces)
        return result

    def _fetch(self, fetch: we.Fetch) -> None:
        fetched, failed = [], []
        peer = self.world.reach(self, fetch.worker, fetch.address)
        for number, attempt in fetch.wanted:
            source = AttemptKey(fetch.reduce.job, fetch.reduce.step, job_pb2.MAP, number, attempt)
            if peer is None:
                failed.append(we.RegionFailure(number, attempt, job_pb2.FETCH_FAILED, "no route"))
            elif source not in peer.store:
                failed.append(we.RegionFailure(number, attempt, job_pb2.OUTPUT_LOST, "not here"))
            else:
                fetched.append(task_pb2.Run(map=number, attempt=attempt, path="p"))
        self.feed(we.FetchEnded(fetch.reduce, fetch.worker, fetched, failed))


def key_of(attempt: we.Attempt) -> AttemptKey:
    return AttemptKey(attempt.job, attempt.step, attempt.kind, attempt.index, attempt.number)
