"""Clients of the attacked cluster: each works through one job as a user would, and records every call it makes.

A call is recorded `ok` with its answer, `fail` when the cluster said that it did not happen, `info` when nobody can
know. What the cluster claims is taken at its word here; the checkers find out whether it was true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepsen_like import tasks
from jepsen_like.history import History
from jepsen_like.workloads import Work, split_size, write_inputs
from mr import outcome, shapes, submit
from mr.client import Client, Handle
from mr.errors import (
    Cancelled,
    CommitUnknown,
    DeadlineExceeded,
    Error,
    JobFailed,
    NotFound,
    Rejected,
    WaitTimeout,
)
from mr.rpc.job_pb2 import COMMIT

POLL_S = 0.4
FOLLOW_S = 10.0
ENDS = (JobFailed, Cancelled, DeadlineExceeded)


class Call:
    """One call under way: set `answer` and it is `ok`; leave it and an exception says how it ended."""

    def __init__(self) -> None:
        self.answer: Any = None


@contextmanager
def recorded(history: History, process: str, op: str, value: Any) -> Iterator[Call]:
    """Records the invocation and the end of what is done inside. Errors of the cluster end here."""
    number = history.record(process, "invoke", op, value)
    call = Call()
    try:
        yield call
        history.record(process, "ok", op, call.answer, id=number)
    except CommitUnknown as error:
        history.record(process, "info", op, {"error": "CommitUnknown", "text": str(error)}, id=number)
    except Error as error:
        found = {"error": type(error).__name__, "code": getattr(error, "code", ""), "text": str(error)}
        history.record(process, "fail", op, found, id=number)
    except Exception as error:  # a bug of ours or of the client library: nobody knows what was done
        history.record(process, "info", op, {"error": type(error).__name__, "text": repr(error)}, id=number)


class Clients(threading.Thread):
    """Submits every job of a plan at its time, each in a thread of its own. `join` returns when all were seen to end
    or `deadline` (monotonic seconds, set by the run) has passed."""

    def __init__(
        self,
        connect: Callable[..., Client],
        works: list[Work],
        home: Path,
        history: History,
        slow: float = 1.0,
    ) -> None:
        super().__init__(name="clients", daemon=True)
        self._connect, self._works, self._history = connect, works, history
        self._slow = slow
        self.home = home
        self.deadline = float("inf")
        self._threads: list[threading.Thread] = []
        for name in ("marks", "in", "out", "jobs"):
            (home / name).mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """See the class."""
        began = time.monotonic()
        for number, work in enumerate(self._works):
            write_inputs(work, self.home / "in" / work.id)
            (self.home / "jobs" / f"{work.id}.py").write_text(tasks.source(work.shape))
            time.sleep(max(0.0, began + work.at_s - time.monotonic()))
            self._history.record("run", "note", "work", asdict(work))
            names = [f"client-{number}", f"twin-{number}"] if work.again else [f"client-{number}"]
            for name in names:
                thread = threading.Thread(target=self._see_through, args=(name, work), daemon=True)
                thread.start()
                self._threads.append(thread)
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < self.deadline:
                thread.join(0.2)

    @property
    def busy(self) -> int:
        """Clients that still wait for the end of their job."""
        return sum(thread.is_alive() for thread in self._threads)

    def _see_through(self, name: str, work: Work) -> None:
        with self._connect(timeout=8.0) as client:
            if not self._submit(client, name, work):
                return
            if work.cancel_after_s is not None:
                if work.regretted:
                    self._await_publication(client, work)
                else:
                    time.sleep(work.cancel_after_s)
                self._cancel(client, name, work)
            if name.startswith("twin"):
                self._poll(client, name, work)
            else:
                self._wait(client, name, work)

    def _await_publication(self, client: Client, work: Work) -> None:
        """Follows the job, which nobody records, until it is told to publish, is over, or cannot be heard of."""
        while time.monotonic() < self.deadline:  # which the run sets while this waits
            try:
                for event in Handle(client, work.id).follow(tasks=True, deadline=time.monotonic() + FOLLOW_S):
                    if event.HasField("attempt") and event.attempt.task.kind == COMMIT:
                        return
            except WaitTimeout:
                continue
            except Error:
                return
            return

    def _submit(self, client: Client, name: str, work: Work) -> bool:
        """Tries until the cluster has said yes or no."""
        folder = self.home / "in" / work.id
        request = submit.Request(
            job_file=self.home / "jobs" / f"{work.id}.py",
            inputs=(str(folder),),
            output=str(self.home / "out" / work.id),
            id=work.id,
            flags={
                "name": work.shape,
                "reduces": work.reduces,
                "split_size": split_size(work, sorted(folder.iterdir())),
                **work.flags,
                "env": {
                    "CHAOS_MARKS": str(self.home / "marks"),
                    "CHAOS_MAP_S": str(work.map_s * self._slow),
                    "CHAOS_KEY_S": str(work.key_s),
                    "CHAOS_SECRET": SECRET,
                },
            },
        )
        prepared = submit.prepare(request)
        while time.monotonic() < self.deadline:
            with recorded(self._history, name, "submit", {"job": work.id, "shape": work.shape}) as call:
                reply = submit.send(client.calls, prepared)
                call.answer = {"job": reply.job, "existed": reply.existed, "index": reply.index}
            if call.answer is not None:
                return True
            time.sleep(0.2)
        return False

    def _cancel(self, client: Client, name: str, work: Work) -> None:
        while time.monotonic() < self.deadline:
            if cancel(self._history, client, name, work.id):
                return
            time.sleep(0.2)

    def _poll(self, client: Client, name: str, work: Work) -> None:
        while time.monotonic() < self.deadline:
            state = status(self._history, client, name, work.id)
            if state in outcome.OVER:
                return
            time.sleep(POLL_S)

    def _wait(self, client: Client, name: str, work: Work) -> None:
        """Watches to the end; a watcher that lost its masters asks again."""
        while time.monotonic() < self.deadline:
            with recorded(self._history, name, "wait", {"job": work.id}) as call:
                left = max(0.1, min(30.0, self.deadline - time.monotonic()))
                try:
                    Handle(client, work.id).wait(timeout=left)
                except (*ENDS, NotFound):
                    pass
                try:
                    call.answer = {"state": outcome.state_name(client._status(work.id))}
                except NotFound:  # it was acknowledged: the checkers will have something to say
                    call.answer = {"state": "absent"}
            if call.answer is not None and call.answer["state"] in outcome.OVER | {"absent"}:
                return
            time.sleep(POLL_S)


# In the environment of every job: it must turn up nowhere else (S5).
SECRET = "correct-horse-battery-staple-7f3a"  # noqa: S105  a marker to look for, no secret


def status(history: History, client: Client, name: str, job: str) -> str:
    """A consistent read of one job; its state, "absent", or "" when there was no answer."""
    with recorded(history, name, "status", {"job": job}) as call:
        try:
            found = shapes.job(client._status(job))
        except NotFound:
            call.answer = {"state": "absent"}
        else:
            kinds = [
                [step["step"], kind, *(step[kind][n] for n in ("total", "idle", "in_progress", "completed"))]
                for step in found["steps"]
                for kind in ("map", "reduce")
            ]
            call.answer = {"state": found["state"], "index": found["applied_index"], "tasks": kinds}
            if found["id"] != job:
                call.answer = {"state": "absent"}  # an id that merely begins so
    return call.answer["state"] if call.answer else ""


def cancel(history: History, client: Client, name: str, job: str) -> str:
    """Asks for the end; how the job then stands: a state, "PUBLISHING", "absent", or "" when nobody can know."""
    with recorded(history, name, "cancel", {"job": job}) as call:
        try:
            call.answer = {"state": Handle(client, job).cancel("chaos")}
        except NotFound:
            call.answer = {"state": "absent"}
        except Rejected as refused:
            if refused.code != "PUBLISHING":
                raise
            call.answer = {"state": "PUBLISHING"}
    return call.answer["state"] if call.answer else ""
