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

from mr import frames
from mr.failures import AttemptFailed
from mr.locate import at_record
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2

# A process whose pipe is closed is dead, or has closed it: after this long it was the latter.
CHANNEL_S = 3.0


class TaskProcess:
    """One task process; `run` attempts on it, one at a time. Started when it is first needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._to = self._from = -1
        self._over = False

    def run(
        self, request: task_pb2.RunAttempt, report: Callable[[session_pb2.Progress], None]
    ) -> pb.TaskResult:
        """Runs one attempt. Raises AttemptFailed, also when the process dies."""
        if self._over:
            raise AttemptFailed(pb.Failure(cause=pb.CANCELLED_BY_USER, message="the job is over"))
        if self._child is None:
            self._start()
            if self._over:  # killed while it was being started
                self.kill()
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
        child, self._child = self._child, None
        try:
            status = child.wait(CHANNEL_S)
        except subprocess.TimeoutExpired:
            self._kill_group(child)
            child.wait()
            return pb.Failure(cause=pb.USER_EXIT, message="user code closed the task process's own pipes")
        self._kill_group(child)  # what it has started
        return death(status, request)

    def kill(self) -> None:
        """Kills the process and whatever it has started; for any thread. `run` fails from now on."""
        self._over = True
        if (child := self._child) is not None:
            self._kill_group(child)

    def close(self) -> None:
        """Kills and buries it, once no thread is in `run`."""
        self.kill()
        if self._child is not None:
            self._close_pipes()
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


def death(status: int, request: task_pb2.RunAttempt) -> pb.Failure:
    """The Failure of a process that ended with `status` (negative: a signal) in the middle of an attempt."""
    if status < 0:
        cause, how = pb.NATIVE_SIGNAL, f"died of {signal.Signals(-status).name}"
    else:
        cause, how = pb.USER_EXIT, f"ended itself with exit status {status}"
    failure = pb.Failure(cause=cause, message=f"the task process {how}", exit_status=status)
    return at_record(failure, request)
