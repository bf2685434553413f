"""The task processes of a worker: kept warm by job, spare ones started ahead, all measured while they work.

The law: a process serves one job, one attempt at a time; what an attempt leaves running ends with the process,
at the latest when the job is forgotten (D9). A cancelled or failed attempt's process is gone before its slot is
given to another.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from mr.rpc import job_pb2 as job
from mr.rpc import task_pb2 as task
from worker import memory
from worker.child import END_S, WATCH_S, How, OnProgress, TaskProcess
from worker.log import AttemptLog


class TaskPool:
    """The task processes of one worker: warm ones by job, and spare ones that no job has used yet."""

    def __init__(self, how: How, slots: int) -> None:
        self._how = how
        self._slots = slots
        self._idle: list[TaskProcess] = []
        self._busy: set[TaskProcess] = set()
        self._all: set[TaskProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.used_bytes = 0  # by all task processes together
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._refill()

    async def run(
        self,
        job_id: str,
        request: task.RunAttempt,
        log: AttemptLog,
        limit_bytes: int,
        on_progress: OnProgress,
    ) -> job.TaskResult | job.Failure:
        """Runs an attempt in a process of `job_id` ("": no user code). Cancelled: the process tree dies."""
        try:
            process = await self._take(job_id)
        except (OSError, EOFError, TimeoutError) as error:
            return job.Failure(cause=job.INTERNAL, message=f"cannot start a task process: {error}")
        try:
            return await process.run(request, log, limit_bytes, on_progress)
        finally:
            self._busy.discard(process)
            if process.ready and not self._closed:
                self._idle.append(process)
                self._trim()
            else:
                process.kill()
                with suppress(TimeoutError):  # what it still writes must not outlive its attempt
                    async with asyncio.timeout(END_S):
                        await process.gone()

    def forget(self, job_id: str) -> None:
        """Ends the idle processes of a job."""
        for process in [p for p in self._idle if p.job == job_id]:
            self._idle.remove(process)
            process.kill()

    async def close(self) -> None:
        """Ends everything."""
        self._closed = True
        self._watcher.cancel()
        for starting in self._starting:
            starting.cancel()
        for process in self._all:
            process.kill()
        ends = [process.gone() for process in self._all if process.pid]
        await asyncio.gather(*ends, *self._starting, return_exceptions=True)

    async def _take(self, job_id: str) -> TaskProcess:
        self._idle = [p for p in self._idle if p.ready]
        for wanted in (job_id, None):
            for process in self._idle:
                if process.job == wanted:
                    self._idle.remove(process)
                    return self._engage(process, job_id)
        return self._engage(await self._start(), job_id)

    async def _start(self) -> TaskProcess:
        process = TaskProcess(self._how)
        self._all.add(process)
        try:
            await process.start()
        except BaseException:
            process.kill()
            raise
        return process

    def _engage(self, process: TaskProcess, job_id: str) -> TaskProcess:
        process.job = job_id
        self._busy.add(process)
        self._refill()
        return process

    def _trim(self) -> None:
        """At most as many idle processes with a job as there are slots; the longest idle end first."""
        owned = [p for p in self._idle if p.job is not None]
        for process in owned[: max(0, len(owned) - self._slots)]:
            self._idle.remove(process)
            process.kill()

    def _refill(self) -> None:
        """One spare process is always ready or on its way, as many as slots at the start."""
        spare = sum(1 for p in self._idle if p.job is None) + len(self._starting)
        wanted = self._slots if not (self._busy or self._idle) else 1
        for _ in range(wanted - spare):
            starting = asyncio.get_running_loop().create_task(self._start_spare())
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)

    async def _start_spare(self) -> None:
        try:
            process = await self._start()
        except (OSError, EOFError, TimeoutError):
            return  # whoever needs one starts one, and says why it cannot
        self._idle.append(process)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self._all = {p for p in self._all if not p.is_gone}
            if self._busy:
                tree = memory.children()
                for process in list(self._busy):
                    process.watch(tree)
                self.used_bytes = sum(process.used_bytes for process in self._busy)
                _end_strays(tree, {process.pid for process in self._all})


def _end_strays(tree: dict[int, list[int]], keepers: set[int]) -> None:
    """Orphans come to the worker, their subreaper, only if user code killed their keeper: they go, too."""
    if 0 in keepers:
        return  # one is being started: its pid is not known yet
    for stray in set(tree.get(os.getpid(), ())) - keepers:
        for pid in (*memory.below(stray, tree), stray):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(stray, os.WNOHANG)
