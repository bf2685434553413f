"""A task process of our own, for `mr run` without a cluster: starts `mr.task --serve` and talks to it.

A process that dies takes one attempt with it and nothing else; its death becomes a Failure with the record it
had in hand. (Workers start, limit and bury theirs in worker/child.py.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mr import frames, position
from mr.failures import AttemptFailed
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2


class TaskProcess:
    """One task process; `run` attempts on it, one at a time. Started when it is first needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._to = self._from = -1

    def run(
        self, request: task_pb2.RunAttempt, report: Callable[[session_pb2.Progress], None]
    ) -> pb.TaskResult:
        """Runs one attempt. Raises AttemptFailed, also when the process dies."""
        if self._child is None:
            self._start()
        try:
            frames.write_frame(self._to, task_pb2.ToTask(run=request).SerializeToString())
            while (frame := frames.read_frame(self._from)) is not None:
                said = task_pb2.FromTask.FromString(frame)
                match said.WhichOneof("kind"):
                    case "done":
                        return said.done
                    case "failed":
                        raise AttemptFailed(said.failed)
                    case "progress":
                        report(said.progress)
        except (EOFError, BrokenPipeError):
            pass
        raise AttemptFailed(self._buried(request))

    def _start(self) -> None:
        to_child, self._to = os.pipe()
        self._from, to_us = os.pipe()
        command = [sys.executable, "-P", "-m", "mr.task", "--serve"]
        self._child = subprocess.Popen(
            [*command, "--in-fd", str(to_child), "--out-fd", str(to_us)],
            pass_fds=(to_child, to_us),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what user code prints must not mix with results on our stdout
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        os.close(to_child)
        os.close(to_us)

    def _buried(self, request: task_pb2.RunAttempt) -> pb.Failure:
        """The Failure of an attempt whose process has died."""
        assert self._child is not None
        self._close_pipes()
        status = self._child.wait()
        self._kill_group(self._child)  # what it has started
        self._child = None
        return death(status, Path(request.attempt_dir))

    def stop(self) -> None:
        """Ends the process and whatever it has started."""
        if self._child is not None:
            self._close_pipes()
            self._kill_group(self._child)
            self._child.wait()
            self._child = None

    def _close_pipes(self) -> None:
        for fd in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._to = self._from = -1

    @staticmethod
    def _kill_group(child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


def death(status: int, attempt_dir: Path) -> pb.Failure:
    """The Failure of a process that ended with `status` (negative: a signal) in the middle of an attempt."""
    at = position.read(attempt_dir)
    if status < 0:
        cause, how = pb.NATIVE_SIGNAL, f"died of {signal.Signals(-status).name}"
    else:
        cause, how = pb.USER_EXIT, f"ended itself with exit status {status}"
    failure = pb.Failure(cause=cause, message=f"the task process {how}", exit_status=status)
    if at is not None and at.record:
        failure.input = f"{'group' if at.phase == position.Phase.REDUCE else 'record'} {at.record}"
    return failure
