"""Where the attempts of a local job run: in this process, or in N task processes of our own.

Both call `run(request, runner)` for every request of a phase; a failed attempt is an AttemptFailed from `runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from mr import attempt, loader
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.taskproc import TaskProcess

Runner = Callable[[task_pb2.RunAttempt], pb.TaskResult]


class Inline:
    """Runs attempts in this process: an exception keeps its traceback, a breakpoint stops here."""

    tries = 1  # the same process would fail the same way

    def __init__(self, code: loader.Code) -> None:
        self._code = code

    def each(
        self, requests: Sequence[task_pb2.RunAttempt], run: Callable[[task_pb2.RunAttempt, Runner], None]
    ) -> None:
        """Calls `run(request, runner)` for each request, in order."""
        for request in requests:
            run(request, self._run)

    def _run(self, request: task_pb2.RunAttempt) -> pb.TaskResult:
        return attempt.run(request, self._code, _unheard)


class Pool:
    """Runs attempts in N task processes."""

    tries = 0  # as many as the job allows

    def __init__(self, processes: int, code_dir: Path) -> None:
        self._code_dir = str(code_dir)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="mr-local")
        self._idle: SimpleQueue[TaskProcess] = SimpleQueue()
        self._all = [TaskProcess() for _ in range(processes)]
        for process in self._all:
            self._idle.put(process)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
        self._threads.shutdown()
        for process in self._all:
            process.close()

    def each(
        self, requests: Sequence[task_pb2.RunAttempt], run: Callable[[task_pb2.RunAttempt, Runner], None]
    ) -> None:
        """Calls `run(request, runner)` for each request, some at a time; begins in order."""
        futures = [self._threads.submit(run, request, self._run) for request in requests]
        for future in futures:
            future.result()

    def _run(self, request: task_pb2.RunAttempt) -> pb.TaskResult:
        request.code_dir = self._code_dir
        process = self._idle.get()
        try:
            return process.run(request, _unheard)
        finally:
            self._idle.put(process)


def _unheard(_: session_pb2.Progress) -> None:
    """Progress within a task is of no use here."""
