"""A real `mr-worker` process with a master that the test plays: what it does with orders, right and wrong ones.

The master here has no table and no log: it says what a row needs, and waits for what must come. Real task
processes, real code bundles, real files.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mr import output
from mr.rpc import cluster_pb2, cluster_pb2_grpc, session_pb2_grpc
from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as pb
from mr.submit import Prepared, Request, prepare
from worker import memory

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 30.0

JOB = """
import os, time, mr

@mr.mapper("words")
def words(line: str):
    if line.startswith("sleep"): time.sleep(float(line.split()[1]))
    if line.startswith("segv"): os.kill(os.getpid(), 11)
    print("saw", line)
    yield from ((word, 1) for word in line.split())

@mr.reducer("add", combine=True)
def add(word: str, counts): yield word, sum(counts)

job = mr.Job("wc", [mr.step(words, add, reduces=1)], input=mr.text(), output=mr.tsv())
"""


class Session:
    """One worker's stream as the master sees it."""

    def __init__(self, attach: pb.Attach, orders: asyncio.Queue[pb.MasterMessage | None]) -> None:
        self.attach = attach
        self.events: list[pb.WorkerEvent] = []
        self.term = 0
        self._orders = orders
        self._changed = asyncio.Condition()

    async def heard(self, event: pb.WorkerEvent) -> None:
        if event.HasField("heartbeat"):
            echo = pb.MasterMessage(term=self.term, heartbeat_echo=event.heartbeat.sequence)
            self._orders.put_nowait(echo)
        async with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def say(self, *orders: pb.Order, term: int = 0) -> None:
        self._orders.put_nowait(pb.MasterMessage(term=term or self.term, orders=orders))

    def end(self) -> None:
        self._orders.put_nowait(None)

    async def until(self, found: Callable[[pb.WorkerEvent], Any], after: int = 0) -> pb.WorkerEvent:
        """The first event from `after` on for which `found` is true."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            while True:
                for event in self.events[after:]:
                    if found(event):
                        return event
                await self._changed.wait()

    async def completed(self, attempt: job.AttemptId) -> job.TaskResult:
        event = await self.until(
            lambda e: (
                (e.HasField("completed") and e.completed.attempt == attempt)
                or (e.HasField("failed") and e.failed.attempt == attempt)
            )
        )
        assert event.HasField("completed"), event.failed.failure
        return event.completed.result

    async def failed(self, attempt: job.AttemptId) -> job.Failure:
        event = await self.until(lambda e: e.HasField("failed") and e.failed.attempt == attempt)
        return event.failed.failure


class Master(session_pb2_grpc.SessionsServicer, cluster_pb2_grpc.BlobsServicer):
    """A master by the test's word."""

    def __init__(self, term: int = 1) -> None:
        self.term = term
        self.redirect: str | None = None
        self.welcoming = True
        self.blobs: dict[bytes, bytes] = {}
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.server = grpc.aio.server()
        session_pb2_grpc.add_SessionsServicer_to_server(self, self.server)
        cluster_pb2_grpc.add_BlobsServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def Session(self, request: Any, context: Any) -> AsyncIterator[pb.MasterMessage]:
        first = await anext(aiter(request))
        if self.redirect is not None:
            order = pb.Order(redirect=pb.Redirect(leader=self.redirect))
            yield pb.MasterMessage(orders=[order])
            return
        orders: asyncio.Queue[pb.MasterMessage | None] = asyncio.Queue()
        session = Session(first.events[0].attach, orders)
        session.term = self.term

        async def listen() -> None:
            for event in first.events[1:]:
                await session.heard(event)
            async for message in request:
                for event in message.events:
                    await session.heard(event)
            orders.put_nowait(None)

        listening = asyncio.create_task(listen())
        if self.welcoming:
            session.say(welcome())
        self.sessions.put_nowait(session)
        try:
            while (message := await orders.get()) is not None:
                yield message
        finally:
            listening.cancel()

    async def Get(
        self, request: cluster_pb2.GetBlobRequest, context: Any
    ) -> AsyncIterator[cluster_pb2.BlobChunk]:
        if request.digest not in self.blobs:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        yield cluster_pb2.BlobChunk(data=self.blobs[request.digest])

    async def attached(self) -> Session:
        async with asyncio.timeout(PATIENCE_S):
            return await self.sessions.get()


def welcome(cluster: str = "c1") -> pb.Order:
    return pb.Order(welcome=pb.Welcome(cluster_id=cluster, leader="a", heartbeat_ms=200, lease_ms=2000))


class Worker:
    """One `mr-worker` process; its work dir outlives it."""

    def __init__(self, home: Path, *masters: Master, flags: tuple[str, ...] = ()) -> None:
        self.work_dir = home / "work"
        self.log = home / "worker.log"
        addresses = ",".join(master.address for master in masters)
        command = [sys.executable, "-P", "-m", "worker.main", "--masters", addresses, "--insecure"]
        command += ["--work-dir", str(self.work_dir), "--slots", "2", "--http", "127.0.0.1:0", *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.where = json.loads(line) if line else {}

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self, timeout: float = PATIENCE_S) -> int:
        status = self.process.wait(timeout)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def scratch(self) -> list[str]:
        folders = ("jobs", "code")
        return [str(p) for folder in folders for p in (self.work_dir / folder).rglob("*") if p.is_file()]

    def tasks(self) -> int:
        return len(memory.below(self.process.pid, memory.children()))


class Stage:
    """Masters, one worker, and one prepared job."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.masters: list[Master] = []
        self.workers: list[Worker] = []

    async def master(self, term: int = 1) -> Master:
        master = Master(term)
        await master.server.start()
        self.masters.append(master)
        return master

    async def worker(self, *masters: Master, flags: tuple[str, ...] = ()) -> Worker:
        worker = await asyncio.to_thread(Worker, self.home, *masters, flags=flags)
        self.workers.append(worker)
        return worker

    async def job(self, *lines: str) -> Prepared:
        """One map per line."""
        source = self.home / "in"
        source.mkdir(exist_ok=True)
        for number, line in enumerate(lines):
            (source / f"{number}.txt").write_text(line + "\n")
        (self.home / "wc.py").write_text(JOB)
        request = Request(
            job_file=self.home / "wc.py", inputs=(str(source),), output=str(self.home / "out"), id="wc-1"
        )
        prepared = await asyncio.to_thread(prepare, request)
        pieces = [piece for split in prepared.plan.splits for piece in split.pieces]
        del prepared.plan.splits[:]
        prepared.plan.splits.extend(job.Split(pieces=[piece], bytes=piece.size) for piece in pieces)
        prepared.spec.maps = len(lines)
        output.prepare_staging(prepared.spec)
        digest = hashlib.sha256(prepared.bundle).digest()
        prepared.spec.code_digest = digest
        for master in self.masters:
            master.blobs[digest] = prepared.bundle
        return prepared


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for worker in stage.workers:
        worker.kill()
    for master in stage.masters:
        await master.server.stop(None)


def attempt(kind: int, index: int, number: int = 1) -> job.AttemptId:
    task = job.TaskId(job="wc-1", kind=job.Kind.ValueType(kind), index=index)
    return job.AttemptId(task=task, number=number)


def assign(prepared: Prepared, name: job.AttemptId, index: int = 10, **more: Any) -> pb.Order:
    order = pb.Assign(attempt=name, spec=prepared.spec, **more)
    if name.task.kind == job.MAP:
        order.split.CopyFrom(prepared.plan.splits[name.task.index])
    return pb.Order(index=index, assign=order)


def settled(name: job.AttemptId, *, accepted: bool = True) -> pb.Order:
    return pb.Order(settled=pb.Settled(attempt=name, accepted=accepted))


def outputs(prepared: Prepared, worker: Worker) -> pb.Order:
    where = worker.where
    items = [
        pb.MapOutput(map=m, attempt=1, worker=where["id"], address=where["data"])
        for m in range(prepared.spec.maps)
    ]
    return pb.Order(outputs=pb.MapOutputs(job="wc-1", outputs=items))


def forget() -> pb.Order:
    return pb.Order(index=99, forget=pb.ForgetJob(job="wc-1"))


def mount(*arguments: str, command: str = "mount") -> None:
    subprocess.run([command, *arguments], check=True)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.05)


async def test_one_worker_carries_a_job_from_its_maps_to_its_end(stage: Stage) -> None:
    """S0-03, S0-04, S1-01: map, reduce, commit and clean-up by one kind of order; nothing stays behind (D9)."""
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("b a", "a c")
    session = await master.attached()
    maps = [attempt(job.MAP, m) for m in range(2)]
    session.say(*(assign(prepared, name) for name in maps))
    for name in maps:
        result = await session.completed(name)
        assert len(result.partition_records) == 1
        session.say(settled(name))
    reduce, commit, cleanup = (attempt(kind, 0) for kind in (job.REDUCE, job.COMMIT, job.CLEANUP))
    session.say(assign(prepared, reduce, maps=2), outputs(prepared, worker))
    result = await session.completed(reduce)
    assert result.consumed_digest == hashlib.sha256(b"\0\0\0\1" * 2).digest()
    session.say(settled(reduce), assign(prepared, commit, files=[result.file]))
    await session.completed(commit)
    assert (stage.home / "out" / result.file.part).read_text() == "a\t2\nb\t1\nc\t1\n"
    session.say(settled(commit), assign(prepared, cleanup))
    await session.completed(cleanup)
    idle = worker.tasks()
    session.say(forget())
    await eventually(lambda: worker.scratch() == [])
    await eventually(lambda: worker.tasks() < idle)


async def test_a_leader_that_changes_costs_no_work(stage: Stage) -> None:
    """S1-06, T4, FT7: running attempts are listed, finished ones reported again until settled."""
    first, second = await stage.master(1), await stage.master(2)
    second.redirect = first.address
    worker = await stage.worker(first, second)
    prepared = await stage.job("sleep 2", "a")
    session = await first.attached()
    slow, quick = attempt(job.MAP, 0), attempt(job.MAP, 1)
    session.say(assign(prepared, slow), assign(prepared, quick))
    await session.completed(quick)
    first.redirect, second.redirect = second.address, None
    await first.server.stop(None)
    session = await second.attached()
    assert list(session.attach.running) == [slow]
    await session.completed(quick)  # nobody had settled it
    await session.completed(slow)
    session.say(settled(quick), settled(slow), assign(prepared, slow, index=11))
    await session.until(lambda e: e.HasField("heartbeat"), after=len(session.events))
    assert sum(e.HasField("completed") for e in session.events) == 2, "it ran again"
    assert worker.process.poll() is None


async def test_a_stale_leader_is_not_obeyed(stage: Stage) -> None:
    """C12, FT12: its order starts nothing, and the worker looks for the real one."""
    old, new = await stage.master(1), await stage.master(5)
    new.redirect = old.address
    old.redirect = new.address
    await stage.worker(old, new)
    prepared = await stage.job("a")
    new.redirect = None
    session = await new.attached()
    await session.until(lambda e: e.HasField("heartbeat"), after=1)
    old.redirect, new.redirect = None, old.address
    session.end()
    stale = await old.attached()
    assert stale.attach.highest_term == 5
    stale.say(assign(prepared, attempt(job.MAP, 0)))
    new.redirect = None
    again = await new.attached()
    assert list(again.attach.running) == []


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda stage, spec: (Path(spec.staging) / "nonce").write_text("another place"), "PATH_NOT_SHARED"),
        (lambda stage, spec: setattr(spec, "staging", "/nowhere/here"), "PATH_NOT_SHARED"),
        (lambda stage, spec: setattr(spec, "python", "2.7"), "PYTHON_MISMATCH"),
        (lambda stage, spec: stage.masters[0].blobs.update({spec.code_digest: b"other"}), "CODE_UNAVAILABLE"),
        (lambda stage, spec: stage.masters[0].blobs.clear(), "CODE_UNAVAILABLE"),
    ],
)
async def test_what_a_worker_lacks_has_a_cause_of_its_own(
    stage: Stage, spoil: Callable[[Stage, job.JobSpec], None], cause: str
) -> None:
    """FD25: and is no failure of the user's."""
    master = await stage.master()
    await stage.worker(master)
    prepared = await stage.job("a")
    spoil(stage, prepared.spec)
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)))
    failure = await session.failed(attempt(job.MAP, 0))
    assert job.Cause.Name(failure.cause) == cause
    assert failure.message


async def test_a_crash_names_the_record_and_the_worker_lives(stage: Stage) -> None:
    """FT16, P-07."""
    master = await stage.master()
    await stage.worker(master)
    prepared = await stage.job("segv", "a")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)), assign(prepared, attempt(job.MAP, 1)))
    failure = await session.failed(attempt(job.MAP, 0))
    assert (job.Cause.Name(failure.cause), failure.exit_status) == ("NATIVE_SIGNAL", -11)
    assert "record 1" in failure.input
    await session.completed(attempt(job.MAP, 1))


async def test_an_attempt_over_its_deadline_ends_with_its_record(stage: Stage) -> None:
    master = await stage.master()
    await stage.worker(master)
    prepared = await stage.job("sleep 3600")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0), deadline_ms=4000))
    failure = await session.failed(attempt(job.MAP, 0))
    assert job.Cause.Name(failure.cause) == "TASK_TIMEOUT"
    assert "record 1" in failure.input


async def test_a_cancelled_attempt_and_a_refused_output_leave_nothing(stage: Stage) -> None:
    """FT4, D9."""
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("sleep 3600", "a")
    session = await master.attached()
    slow, quick = attempt(job.MAP, 0), attempt(job.MAP, 1)
    session.say(assign(prepared, slow), assign(prepared, quick))
    await session.completed(quick)
    session.say(settled(quick, accepted=False), pb.Order(cancel=pb.CancelAttempt(attempt=slow)))
    await eventually(lambda: not list((worker.work_dir / "jobs").rglob("*.seg")))
    await eventually(lambda: not list((worker.work_dir / "jobs" / "wc-1" / "attempts").iterdir()))
    session.say(assign(prepared, attempt(job.MAP, 1, 2)))
    await session.completed(attempt(job.MAP, 1, 2))


async def test_a_damaged_output_is_reported_by_its_reader(stage: Stage) -> None:
    """FD2: the reduce waits for the map's next attempt and takes that one."""
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("a")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)))
    await session.completed(attempt(job.MAP, 0))
    session.say(settled(attempt(job.MAP, 0)))
    [segment] = (worker.work_dir / "jobs").rglob("*.seg")
    segment.write_bytes(segment.read_bytes()[:-3])
    session.say(assign(prepared, attempt(job.REDUCE, 0), maps=1), outputs(prepared, worker))
    event = await session.until(lambda e: e.HasField("fetch_failed"))
    assert event.fetch_failed.source == attempt(job.MAP, 0)
    await session.until(lambda e: e.HasField("output_lost"))
    session.say(assign(prepared, attempt(job.MAP, 0, 2)))
    await session.completed(attempt(job.MAP, 0, 2))
    news = [
        pb.MapOutput(map=0, attempt=1, worker=worker.where["id"], lost=True),
        pb.MapOutput(map=0, attempt=2, worker=worker.where["id"], address=worker.where["data"]),
    ]
    session.say(
        settled(attempt(job.MAP, 0, 2)),
        pb.Order(outputs=pb.MapOutputs(job="wc-1", from_sequence=1, outputs=news)),
    )
    result = await session.completed(attempt(job.REDUCE, 0))
    assert result.consumed_digest == hashlib.sha256(b"\0\0\0\2").digest()


async def test_a_new_life_is_greater_and_sweeps_once_it_is_welcome(stage: Stage) -> None:
    """FD22, FT21: not before, and it offers nothing of the old life."""
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("a")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)))
    await session.completed(attempt(job.MAP, 0))
    session.say(settled(attempt(job.MAP, 0)))
    worker.kill()
    assert worker.scratch()
    master.welcoming = False
    again = await stage.worker(master)
    later = await master.attached()
    assert later.attach.worker == session.attach.worker
    assert later.attach.incarnation > session.attach.incarnation
    assert list(later.attach.held) == []
    assert later.attach.cluster_id == "c1"
    assert again.scratch()
    later.say(welcome())
    await eventually(lambda: again.scratch() == [])


async def test_sigterm_finishes_what_runs_and_ends_with_0(stage: Stage) -> None:
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("sleep 1")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)))
    await eventually(lambda: bool(list((worker.work_dir / "jobs").rglob("position"))))
    worker.process.send_signal(signal.SIGTERM)
    await session.until(lambda e: e.HasField("drain"))
    session.say(assign(prepared, attempt(job.MAP, 0, 2)))
    assert (await session.failed(attempt(job.MAP, 0, 2))).cause == job.WORKER_DRAINED
    await session.completed(attempt(job.MAP, 0))
    session.say(settled(attempt(job.MAP, 0)), settled(attempt(job.MAP, 0, 2)))
    session.say(pb.Order(discard=pb.DiscardOutput(attempt=attempt(job.MAP, 0))))
    assert await asyncio.to_thread(worker.wait) == 0


async def test_a_second_sigterm_ends_it_at_once(stage: Stage) -> None:
    master = await stage.master()
    worker = await stage.worker(master)
    prepared = await stage.job("sleep 3600")
    session = await master.attached()
    session.say(assign(prepared, attempt(job.MAP, 0)))
    await eventually(lambda: bool(list((worker.work_dir / "jobs").rglob("position"))))
    worker.process.send_signal(signal.SIGTERM)
    await session.until(lambda e: e.HasField("drain"))
    worker.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("code", "status"), [("WRONG_CLUSTER", 5), ("SUPERSEDED", 5), ("NOT_ALLOWED", 4)])
async def test_a_refused_worker_ends_and_says_why(stage: Stage, code: str, status: int) -> None:
    """FT21, FT22."""
    master = await stage.master()
    worker = await stage.worker(master)
    session = await master.attached()
    session.say(pb.Order(refuse=pb.Refuse(code=code, reason="because of the test")))
    assert await asyncio.to_thread(worker.wait) == status
    assert "because of the test" in worker.log.read_text()


async def test_health_and_metrics(stage: Stage) -> None:
    """Live at once, ready when a leader knows it."""
    master = await stage.master()
    master.welcoming = False
    worker = await stage.worker(master)

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{worker.where['http']}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    session = await master.attached()
    assert (await asyncio.to_thread(get, "/healthz"))[0] == 200
    assert (await asyncio.to_thread(get, "/readyz"))[0] == 503
    session.say(welcome())
    await session.until(lambda e: e.HasField("heartbeat"), after=2)
    assert (await asyncio.to_thread(get, "/readyz"))[0] == 200
    assert "mr_worker_tasks" in (await asyncio.to_thread(get, "/metrics"))[1]


@pytest.mark.root
async def test_a_full_disk_is_the_workers_fault(stage: Stage) -> None:
    """FD8: DISK_FULL, and the worker goes on when there is room again."""
    if os.getuid():
        pytest.skip("mounts a small disk")
    disk = stage.home / "work"
    disk.mkdir()
    await asyncio.to_thread(mount, "-t", "tmpfs", "-o", "size=66m", "none", str(disk))
    try:
        (disk / "filler").write_bytes(bytes(8 << 20))
        master = await stage.master()
        worker = await stage.worker(master)
        prepared = await stage.job("a")
        session = await master.attached()
        await asyncio.sleep(1.5)  # it looks at its disk once a second
        session.say(assign(prepared, attempt(job.MAP, 0)))
        failure = await session.failed(attempt(job.MAP, 0))
        assert job.Cause.Name(failure.cause) == "DISK_FULL"
        (disk / "filler").unlink()
        await asyncio.sleep(1.5)
        session.say(assign(prepared, attempt(job.MAP, 0, 2)))
        await session.completed(attempt(job.MAP, 0, 2))
        worker.kill()
    finally:
        await asyncio.to_thread(mount, "-l", str(disk), command="umount")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--masters", "h1"], "mr tls init"),
        (["--masters", "192.0.2.1", "--insecure"], "loopback"),
        ([], "--masters h1,h2,h3"),
        (["--masters", "h1", "--insecure", "--kinds", "shuffle"], "map nor reduce"),
        (["--masters", "127.0.0.1", "--insecure", "--slots", "-1"], "slots"),
        (["--masters", "127.0.0.1", "--insecure", "--memory", "much"], "much"),
        (["--masters", "127.0.0.1", "--insecure", "--id", "a/b"], "a/b"),
    ],
)
def test_bad_usage_ends_with_2_and_advice(tmp_path: Path, flags: list[str], says: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "worker.main", *flags, "--work-dir", str(tmp_path / "w")]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path
    )
    assert ended.returncode == 2, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
