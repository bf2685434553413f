"""What this worker did with its attempts, one JSON line each: WORK_DIR/journal.jsonl.

For whoever must know after a crash or a dispute what ran here, in which order and by whose order; the masters' own
table is no evidence about itself. Nothing reads it while the worker runs, and the worker never depends on it: a
disk that takes no line costs the line. Lines carry

    t       nanoseconds of the machine's monotonic clock, the same for every process since boot
    life    incarnation of the worker
    what    joined | assigned | begun | written | failed | settled | cancelled | dropped | forgotten
    attempt "0.m-00007.a1", with `job`
    term    of the leader whose order it follows, `index` of the order's log entry; 0 when nobody ordered it

and `leader` (joined), `accepted` (settled), `runs` (begun, a reduce: the [map, attempt] pairs it merges),
`cause` (failed). `written` means: what the attempt made is durable under the attempt's own name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mr import names
from mr.rpc import job_pb2, session_pb2
from worker.events import (
    Action,
    Attempt,
    DropOutput,
    Event,
    Joined,
    Received,
    StartTask,
    TaskDone,
    TaskFailed,
)

BYTES = 16 << 20  # then the file is set aside, and the one before it goes


class Journal:
    """Appends lines. Raises nothing: see the module."""

    def __init__(self, path: Path, life: str) -> None:
        self._path, self._life = path, life

    def note(self, event: Event, actions: Sequence[Action], term: int) -> None:
        """One event of the agent and what it decided."""
        now = time.monotonic_ns()
        lines = [
            json.dumps({"t": now, "life": self._life, **found}, separators=(",", ":"))
            for found in records(event, actions, term)
        ]
        if lines:
            with suppress(OSError):
                self._append("\n".join(lines) + "\n")

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="ascii") as out:
            out.write(text)
            full = out.tell() > BYTES
        if full:
            self._path.replace(self._path.with_suffix(".1.jsonl"))


def records(event: Event, actions: Sequence[Action], term: int) -> Iterator[dict[str, Any]]:
    """What is worth a line, without time and life. Pure."""
    if isinstance(event, Received) and event.message.term >= term:
        for order in event.message.orders:
            yield from _ordered(order, event.message.term)
    elif isinstance(event, TaskDone):
        yield {"what": "written", **_named(event.attempt)}
    elif isinstance(event, TaskFailed):
        yield {
            "what": "failed",
            **_named(event.attempt),
            "cause": job_pb2.Cause.Name(event.failure.cause),
        }
    for action in actions:
        if isinstance(action, StartTask):
            runs = [[run.map, run.attempt] for run in action.runs]
            yield {"what": "begun", **_named(action.attempt), "term": term, "runs": runs}
        elif isinstance(action, DropOutput):
            yield {"what": "dropped", **_named(action.attempt)}
        elif isinstance(action, Joined):
            yield {"what": "joined", "leader": action.leader, "term": term}


def _ordered(order: session_pb2.Order, term: int) -> Iterator[dict[str, Any]]:
    by = {"term": term, "index": order.index}
    match order.WhichOneof("kind"):
        case "assign":
            yield {"what": "assigned", **_of(order.assign.attempt), **by}
        case "settled":
            yield {"what": "settled", **_of(order.settled.attempt), **by, "accepted": order.settled.accepted}
        case "cancel":
            yield {"what": "cancelled", **_of(order.cancel.attempt), **by}
        case "forget":
            yield {"what": "forgotten", "job": order.forget.job, **by}


def _of(wire: job_pb2.AttemptId) -> dict[str, str]:
    known = wire.task.kind in names.LETTERS
    return {"job": wire.task.job, "attempt": names.attempt_name(wire) if known else ""}


def _named(attempt: Attempt) -> dict[str, str]:
    return _of(attempt.wire())
