"""A task process: started in the care of a keeper, limited, asked to run attempts, killed as a tree.

The law: whatever user code does ends in exactly one answer for its attempt, a result or a failure, and hurts
neither the worker nor another attempt. A process is used again only after an attempt that ended in order, so
that a task costs milliseconds and not the start of an interpreter.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import glob
import os
import resource
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from mr.rpc import task_pb2 as task
from worker import memory, verdict
from worker.log import AttemptLog

KEEPER = Path(__file__).with_name("keeper.py")
FRAME_LIMIT = 64 << 20
MOST_PROCESSES = 512  # of one attempt
WATCH_S = 0.25
START_S = 60.0
END_S = 20.0
# A process whose channel is closed is dead, or has closed it: after this long it was the latter.
CHANNEL_S = 3.0
_PIPE_BYTES = 1 << 20
# Memory beyond the limit that one allocation may not even ask for: it would be used before the next look.
_DATA_SLACK_BYTES = 1 << 30
_SECRET_PREFIXES = ("MR_", "GRPC_")

OnProgress = Callable[[session.Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How task processes are started on this worker."""

    isolation: str = "none"
    hidden: Sequence[str] = ()  # files, folders and patterns of files ("*.key") that they must not see
    folder: str = "/"  # where they start
    command: Sequence[str] = (sys.executable, "-P", "-m", "mr.task", "--serve")


class TaskProcess:
    """One keeper and the task process in its care."""

    def __init__(self, how: How) -> None:
        self._how = how
        self.job: str | None = None  # whose code it has; None: nobody's yet
        self.ready = False
        self.used_bytes = 0
        self.peak_bytes = 0
        self.limit_bytes = 0
        self._log: AttemptLog | None = None
        self._early = b""  # what it printed outside of any attempt, to explain a failed start
        self._data_limit = 0
        self._killed_for: job.Failure | None = None
        self._control = self._output = -1
        self._process: asyncio.subprocess.Process | None = None
        self._orders: asyncio.WriteTransport | None = None
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int:
        """The keeper's process id; 0 before it is started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Starts it and waits until it can take an attempt. Raises OSError or EOFError."""
        loop = asyncio.get_running_loop()
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for write_side in (True, False, False, True, False):  # orders, answers, status, control, output
                reader, writer = os.pipe2(os.O_CLOEXEC)
                ours.append(writer if write_side else reader)
                theirs.append(reader if write_side else writer)
            orders, answers, status, control, output = theirs
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(KEEPER), str(status), str(control)),
                *(self._how.isolation, ":".join(_there(self._how.hidden)), "--"),
                *(*self._how.command, "--in-fd", str(orders), "--out-fd", str(answers)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._how.folder,
                env=scrubbed(os.environ),
                pass_fds=(orders, answers, status, control),
                start_new_session=True,
            )
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        orders_fd, answers_fd, status_fd, self._control, self._output = ours
        with suppress(OSError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._output, False)
        loop.add_reader(self._output, self._printed)
        self._reaper = loop.create_task(self._reap(self._process))
        self._orders, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(orders_fd, "wb", 0))
        self._answers = await _reader(answers_fd)
        self._status = await _reader(status_fd)
        async with asyncio.timeout(START_S):
            message = await self._answer()
        if message is None or message.WhichOneof("kind") != "ready":
            how = await self._how_it_ended() or "no answer"
            raise EOFError(f"a task process did not start: {how}: {self._early.decode(errors='replace')}")
        self.ready = True

    async def run(
        self, request: task.RunAttempt, log: AttemptLog, limit_bytes: int, on_progress: OnProgress
    ) -> job.TaskResult | job.Failure:
        """Runs one attempt. Afterwards `ready` says whether the process may be used again."""
        self.ready, self.peak_bytes, self.limit_bytes, self._log = False, 0, limit_bytes, log
        self._limit_data()
        body = task.ToTask(run=request).SerializeToString()
        assert self._orders is not None, "started"
        self._orders.write(struct.pack(">I", len(body)) + body)
        try:
            while True:
                message = await self._answer()
                if message is None:
                    return await self._verdict()
                match message.WhichOneof("kind"):
                    case "progress":
                        on_progress(message.progress)
                    case "done":
                        self.ready = True
                        message.done.peak_memory = max(message.done.peak_memory, self.peak_bytes)
                        return message.done
                    case "failed":
                        self.ready = True
                        return message.failed
                    case _:
                        pass  # a second "ready", or what a newer release says
        except (ValueError, DecodeError) as error:
            self.kill(verdict.of_broken_channel(str(error)))
            return await self._verdict()
        finally:
            self._printed()
            self._log = None

    def kill(self, failure: job.Failure | None = None) -> None:
        """Ends it with all that it started; `failure` is then the answer of its attempt."""
        if self._killed_for is None:
            self._killed_for = failure
        if self._control >= 0:
            os.close(self._control)  # the keeper sees it and kills the tree
            self._control = -1

    @property
    def is_gone(self) -> bool:
        """Whether it has been started and has ended."""
        return self._gone.is_set()

    async def gone(self) -> None:
        """Waits until nothing of it is left."""
        await self._gone.wait()

    def watch(self, tree: dict[int, list[int]]) -> None:
        """Measures an attempt's memory and processes, and kills it for too much of either."""
        pids = memory.below(self.pid, tree)
        usage = memory.resident(pids)
        used = usage.resident_bytes
        if self.limit_bytes and used > self.limit_bytes:
            used = memory.proportional(pids)
            if used > self.limit_bytes:
                self.kill(verdict.of_memory(used, self.limit_bytes))
        if usage.processes > MOST_PROCESSES:
            self.kill(verdict.of_forks(usage.processes))
        self.used_bytes, self.peak_bytes = used, max(self.peak_bytes, used)

    async def _answer(self) -> task.FromTask | None:
        try:
            (size,) = struct.unpack(">I", await self._answers.readexactly(4))
            if size > FRAME_LIMIT:
                raise ValueError(f"an answer of {size} bytes")
            return task.FromTask.FromString(await self._answers.readexactly(size))
        except asyncio.IncompleteReadError:
            return None

    async def _verdict(self) -> job.Failure:
        status = await self._how_it_ended()
        if self._killed_for is not None:
            return self._killed_for
        return verdict.of_death(status, self.peak_bytes, self.limit_bytes)

    async def _how_it_ended(self) -> str:
        """The keeper's word. A process that merely closed its channel is ended first."""
        try:
            async with asyncio.timeout(CHANNEL_S if self._killed_for is None else END_S):
                return (await self._status.read()).decode().strip()
        except TimeoutError:
            self.kill(verdict.of_broken_channel("it was closed"))
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                return (await self._status.read()).decode().strip()
        return ""

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self.ready = False
        self._printed()
        asyncio.get_running_loop().remove_reader(self._output)
        os.close(self._output)
        self._output = -1
        if self._orders is not None and not self._orders.is_closing():
            self._orders.abort()
        self.kill()
        self._gone.set()

    def _printed(self) -> None:
        """Takes what user code printed, up to one full pipe: a flood must not keep the loop busy."""
        if self._output < 0:
            return
        try:
            data = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._output)
        elif self._log is not None:
            self._log.write(data)
        else:
            self._early = (self._early + data)[-2000:]

    def _limit_data(self) -> None:
        """One allocation far beyond the limit fails at once, before any watching could see it."""
        if self.limit_bytes in {0, self._data_limit}:
            return
        self._data_limit = self.limit_bytes
        limit = self.limit_bytes + max(self.limit_bytes, _DATA_SLACK_BYTES)
        for pid in memory.below(self.pid, memory.children()):
            with suppress(OSError, ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _there(patterns: Sequence[str]) -> list[str]:
    """The files that fit now: a key may have come since the worker started (S4)."""
    found = (path for pattern in patterns for path in (sorted(glob.glob(pattern)) or [pattern]))
    return list(dict.fromkeys(found))


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that user code may see: nothing that configures or authenticates this worker (S4)."""
    kept = {k: v for k, v in environment.items() if not k.startswith(_SECRET_PREFIXES)}
    return {**kept, "PYTHONUNBUFFERED": "1"}


async def best_isolation() -> str:
    """The strongest isolation that this machine lets the worker give its task processes."""
    how = How(isolation="namespaces", command=(sys.executable, "-I", "-S", "-c", "pass"))
    process = TaskProcess(how)
    try:
        await process.start()
    except (OSError, EOFError) as error:
        return "namespaces" if "exit 0" in str(error) else "none"
    finally:
        process.kill()
    return "none"


async def _reader(fd: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader
