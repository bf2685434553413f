"""Whatever user code does, its attempt fails with a truthful cause, and the worker lives (FT16, T6, D9, S4).

Real task processes in a real pool; the test stands where the worker's runtime stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from mr import position
from mr.describe import describe
from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from mr.rpc import task_pb2 as task
from worker import child, memory
from worker.log import AttemptLog
from worker.pool import TaskPool

LIMIT = 512 << 20

JOB = """
import ctypes, os, signal, sys, time
import mr

def raising(): raise ValueError("user's own")
def exiting(): sys.exit(0)
def exiting_hard(): os._exit(3)
def aborting(): os.abort()
def faulting(): ctypes.string_at(0)
def looping():
    while True: pass
def sleeping(): time.sleep(3600)
def bombing_memory():
    hoard = []
    while True: hoard.append(bytearray(os.urandom(1 << 20)) )
def one_huge_allocation(): bytes(1 << 40)
def bombing_forks():
    for _ in range(540):
        if os.fork() == 0: time.sleep(3600)
    time.sleep(3600)
def flooding():
    for _ in range(3000): print("x" * (1 << 20))
def closing(): os.closerange(0, 1000)
def wandering():
    os.chdir("/"); raise ValueError("from elsewhere")
def killing_its_parent():
    os.kill(os.getppid(), signal.SIGKILL); time.sleep(2); raise ValueError("the parent lives")
def killing_its_group(): os.killpg(0, signal.SIGKILL)
def spoiling_modules():
    for name in ("json", "os", "mr.attempt", "mr.frames"): sys.modules[name] = None
    raise ValueError("spoiled")
def leaving_orphans():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "987654"])
        os._exit(0)
def reading_a_key(): raise ValueError("the key is: " + open(os.environ["THE_KEY"]).read())
def behaving(): print("all is well")
def reading_a_late_share(): raise ValueError("it says: " + open(os.environ["THE_SHARE"]).read())

@mr.mapper("misbehave")
def misbehave(line: str):
    globals()[line.split()[0]]()
    yield line, os.environ.get("MR_SECRET", "no secret")

job = mr.Job("misbehave", [mr.step(misbehave)], input=mr.text(), output=mr.tsv())
"""


class Bench:
    """A pool, a job of one mapper that does what its line says, and attempts of it."""

    def __init__(self, home: Path, isolation: str, hidden: Sequence[str] = ()) -> None:
        self.home = home
        (home / "code").mkdir()
        (home / "code" / "misbehave.py").write_text(JOB)
        self.spec = describe(home / "code" / "misbehave.py").spec
        self.spec.job_id, self.spec.staging = "j", str(home / "staging")
        (home / "staging" / "attempts").mkdir(parents=True)
        self.how = child.How(isolation=isolation, folder=str(home), hidden=hidden)
        self.pool = TaskPool(self.how, 2)
        self.number = 0
        self.progress: list[session.Progress] = []

    def request(self, behaviour: str) -> task.RunAttempt:
        self.number += 1
        source = self.home / f"in-{self.number}"
        source.write_text(behaviour + "\n")
        status = source.stat()
        piece = job.Piece(
            path=str(source), end=status.st_size, size=status.st_size, mtime_ns=status.st_mtime_ns
        )
        scratch = self.home / "jobs" / str(self.number)
        scratch.mkdir(parents=True)
        return task.RunAttempt(
            attempt=job.AttemptId(task=job.TaskId(job="j", kind=job.MAP, index=self.number), number=1),
            spec=self.spec,
            code_dir=str(self.home / "code"),
            attempt_dir=str(scratch),
            job_dir=str(self.home / "jobs"),
            split=job.Split(pieces=[piece], bytes=status.st_size),
        )

    async def run(self, behaviour: str, limit: int = LIMIT) -> job.TaskResult | job.Failure:
        request = self.request(behaviour)
        with AttemptLog(self.home / f"log-{self.number}") as log:
            return await self.pool.run("j", request, log, limit, self.progress.append)

    def log(self) -> bytes:
        return (self.home / f"log-{self.number}").read_bytes()


@pytest.fixture(params=["namespaces", "none"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    child.adopt_orphans()
    if request.param == "namespaces" and await child.best_isolation() != "namespaces":
        pytest.skip("this machine allows no namespaces")
    bench = Bench(tmp_path, request.param)
    try:
        yield bench
    finally:
        await bench.pool.close()


def survivors() -> list[str]:
    """Command lines of processes below this one that tests left behind."""
    found = []
    for pid in memory.below(os.getpid(), memory.children()):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if "987654" in line]


@pytest.mark.parametrize(
    ("behaviour", "cause", "said"),
    [
        ("raising", job.USER_EXCEPTION, "user's own"),
        ("exiting", job.USER_EXIT, "SystemExit"),
        ("exiting_hard", job.USER_EXIT, "3"),
        ("aborting", job.NATIVE_SIGNAL, "SIGABRT"),
        ("faulting", job.NATIVE_SIGNAL, "SIGSEGV"),
        ("bombing_memory", job.OUT_OF_MEMORY, "512 MiB"),
        ("one_huge_allocation", job.OUT_OF_MEMORY, ""),
        ("closing", job.USER_EXIT, ""),
        ("wandering", job.USER_EXCEPTION, "from elsewhere"),
        ("killing_its_group", job.NATIVE_SIGNAL, "SIGKILL"),
    ],
)
async def test_misbehaviour_has_a_truthful_cause(bench: Bench, behaviour: str, cause: int, said: str) -> None:
    outcome = await bench.run(behaviour)
    assert isinstance(outcome, job.Failure)
    assert job.Cause.Name(outcome.cause) == job.Cause.Name(job.Cause.ValueType(cause)), outcome.message
    assert said in outcome.message
    assert isinstance(await bench.run("behaving"), job.TaskResult), "the next attempt is not hurt"


async def test_the_parent_that_user_code_can_kill_is_not_the_worker(bench: Bench) -> None:
    outcome = await bench.run("killing_its_parent")
    assert isinstance(outcome, job.Failure)
    assert outcome.cause in {job.NATIVE_SIGNAL, job.USER_EXCEPTION}
    assert isinstance(await bench.run("behaving"), job.TaskResult)


async def test_spoiled_modules_spoil_one_attempt(bench: Bench) -> None:
    assert isinstance(await bench.run("spoiling_modules"), job.Failure)
    bench.pool.forget("j")
    assert isinstance(await bench.run("behaving"), job.TaskResult)


@pytest.mark.parametrize("behaviour", ["looping", "sleeping"])
async def test_what_never_ends_ends_when_told_with_all_its_children(bench: Bench, behaviour: str) -> None:
    running = asyncio.create_task(bench.run(behaviour))
    await asyncio.sleep(1.0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(await bench.run("behaving"), job.TaskResult)


async def test_too_many_processes_end_the_attempt(bench: Bench) -> None:
    """A real fork bomb would hurt whoever else runs tests here: this one stops at a few more than allowed."""
    # so many processes use much memory together: the limit on their number is what shall end this attempt
    outcome = await bench.run("bombing_forks", limit=16 << 30)
    assert isinstance(outcome, job.Failure)
    assert outcome.cause == job.USER_EXIT
    assert "processes" in outcome.message
    assert isinstance(await bench.run("behaving"), job.TaskResult)


async def test_orphans_do_not_outlive_their_process(bench: Bench) -> None:
    """D9: neither a new session nor a second fork is a way out."""
    assert isinstance(await bench.run("leaving_orphans"), job.TaskResult)
    for _ in range(100):
        if survivors():
            break
        await asyncio.sleep(0.05)
    assert survivors(), "the orphan was never there: this test proves nothing"
    await bench.pool.close()
    assert survivors() == []


async def test_a_flood_of_output_costs_a_bounded_log(bench: Bench) -> None:
    began = time.monotonic()
    assert isinstance(await bench.run("flooding"), job.TaskResult)
    log = bench.log()
    assert len(log) < 10 << 20, f"{len(log)} bytes after {time.monotonic() - began:.1f} s"
    assert b"bytes left out" in log


async def test_a_process_is_used_again_and_its_log_is_the_attempts_own(bench: Bench) -> None:
    """A task costs no interpreter start: two attempts, one process."""
    await bench.run("behaving")
    first = {process.pid for process in bench.pool._idle if process.job == "j"}
    await bench.run("behaving")
    assert {process.pid for process in bench.pool._idle if process.job == "j"} == first
    assert bench.log() == b"all is well\n"


async def test_many_jobs_leave_no_more_processes_than_slots_and_a_spare(bench: Bench) -> None:
    """D9: also of jobs that nobody has said to forget."""
    for number in range(6):
        request = bench.request("behaving")
        with AttemptLog(bench.home / "log") as log:
            assert isinstance(
                await bench.pool.run(f"j{number}", request, log, LIMIT, bench.progress.append), job.TaskResult
            )
    for _ in range(200):
        keepers = [pid for pid in memory.children()[os.getpid()] if _alive(pid)]
        if len(keepers) <= 3 and not bench.pool._starting:
            break
        await asyncio.sleep(0.05)
    assert len(keepers) <= 3


async def test_user_code_sees_no_secret_of_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S4: what configures or authenticates a worker is not in its tasks' environment."""
    monkeypatch.setenv("MR_TOKEN", "a secret")
    assert "MR_TOKEN" not in child.scrubbed(os.environ)
    assert child.scrubbed({"PATH": "x", "MR_TLS__KEY": "y"}) == {"PATH": "x", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("hidden", ["worker.key", "*.key"])
async def test_user_code_cannot_read_the_workers_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """S4: where the machine allows namespaces; elsewhere the worker says `isolation: none`."""
    if await child.best_isolation() != "namespaces":
        pytest.skip("this machine allows no namespaces")
    key = tmp_path / "worker.key"
    monkeypatch.setenv("THE_KEY", str(key))
    bench = Bench(tmp_path, "namespaces", hidden=[str(tmp_path / hidden)])
    key.write_text("secret")  # a worker may be older than a key beside its own
    try:
        outcome = await bench.run("reading_a_key")
    finally:
        await bench.pool.close()
    assert isinstance(outcome, job.Failure)
    assert outcome.message.strip().endswith("the key is:")


def mount_here(folder: Path, mounts: contextlib.ExitStack) -> None:
    """A file system of its own; what is mounted below it is seen by others, as systemd has it for everything."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", folder], check=True)
    mounts.callback(subprocess.run, ["umount", "-l", folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)


@pytest.mark.root
async def test_a_share_that_is_mounted_later_is_seen_by_a_task_process_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As automounters do it. A private namespace kept the empty folder, and outputs on the share had no place."""
    if os.geteuid() != 0 or await child.best_isolation() != "namespaces":
        pytest.skip("NOT TESTED: mounting takes root, and this needs namespaces")
    late = tmp_path / "shares" / "late"
    monkeypatch.setenv("THE_SHARE", str(late / "file"))
    bench = Bench(tmp_path, "namespaces")
    with contextlib.ExitStack() as mounts:
        mount_here(late.parent, mounts)
        assert isinstance(await bench.run("behaving"), job.TaskResult)
        mount_here(late, mounts)
        (late / "file").write_text("hello")
        try:
            outcome = await bench.run("reading_a_late_share")
        finally:
            await bench.pool.close()
    assert isinstance(outcome, job.Failure)
    assert outcome.message.strip().endswith("it says: hello")


async def test_the_record_in_hand_is_known_after_a_death(bench: Bench) -> None:
    """P-07: also when the process could say nothing any more."""
    assert isinstance(await bench.run("faulting"), job.Failure)
    at = position.read(bench.home / "jobs" / str(bench.number))
    assert at is not None
    assert at.record == 1


async def test_the_death_of_the_worker_ends_its_task_processes(tmp_path: Path) -> None:
    """SIGKILL leaves a worker no time to clean up: the keepers do it."""
    program = tmp_path / "pool.py"
    program.write_text(
        "import asyncio, sys\n"
        "from worker import child, pool\n"
        "async def main():\n"
        "    tasks = pool.TaskPool(child.How(isolation=sys.argv[1]), 2)\n"
        "    while len(tasks._idle) < 2: await asyncio.sleep(0.05)\n"
        "    print([p.pid for p in tasks._idle], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    for isolation in ("none", await child.best_isolation()):
        worker = await asyncio.create_subprocess_exec(
            child.sys.executable, str(program), isolation, stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        keepers = [int(pid) for pid in (await worker.stdout.readline()).decode().strip("[]\n ").split(",")]
        tree = memory.children()
        family = [*keepers, *(pid for keeper in keepers for pid in memory.below(keeper, tree))]
        assert len(family) >= 4
        worker.kill()
        await worker.wait()
        for _ in range(100):
            alive = [pid for pid in family if _alive(pid)]
            if not alive:
                break
            await asyncio.sleep(0.05)
        assert alive == []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
