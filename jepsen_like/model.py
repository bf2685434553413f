"""The sequential job, against which the calls of clients are checked for linearizability (C11, C10, T8).

A job goes absent -> QUEUED -> RUNNING -> PUBLISHING -> an end, by itself or by a cancel. What happens by itself needs
no operation: an answer that shows a later state moves the model there, and no answer may ever show an earlier one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Any

from jepsen_like.history import Event
from jepsen_like.linearizability import Operation

RANK = {"absent": 0, "QUEUED": 1, "RUNNING": 2, "PUBLISHING": 3, "SUCCEEDED": 4, "FAILED": 4, "CANCELLED": 4}


class JobModel:
    """States are those of `RANK`. submit -> {"existed"}, cancel and status -> {"state"}."""

    initial: Hashable = "absent"

    def step(self, state: str, operation: Operation) -> Hashable | None:
        """The state after `operation`; None when its answer is impossible in `state`."""
        known = operation.returned is not None
        answer: dict[str, Any] = operation.result if known else {}
        match operation.action:
            case "submit":
                if known and not answer["existed"] and state != "absent":
                    return None  # two submits made one job each: C10
                return "QUEUED" if state == "absent" else state
            case "status" | "wait":
                return _seen(state, answer["state"]) if known else state
            case "cancel":
                return self._cancel(state, answer["state"] if known else None)
        raise ValueError(f"a job knows no {operation.action!r}")

    def _cancel(self, state: str, answer: str | None) -> str | None:
        if answer is None:
            return "CANCELLED" if state in {"QUEUED", "RUNNING"} else state
        if answer == "CANCELLED":
            return "CANCELLED" if state in {"QUEUED", "RUNNING", "CANCELLED"} else None
        if answer == "absent":
            return state if state == "absent" else None
        # it came too late: what it names is how the job stood
        return _seen(state, answer) if RANK.get(answer, 0) >= 3 else None


def _seen(state: str, shown: str) -> str | None:
    """A job in `state` is shown as `shown`: the same, or what it became by itself meanwhile."""
    if shown == state:
        return state
    if state == "absent" or shown not in RANK or RANK[shown] <= RANK[state] or shown == "CANCELLED":
        return None
    return shown


JOB_OPS = frozenset({"submit", "cancel", "status", "wait"})
REGISTER_OPS = frozenset({"read", "write", "cas"})


def operations(events: Iterable[Event]) -> list[Operation]:
    """The calls of a history that speak of jobs; `value["job"]` is which, the answer is what `JobModel` says."""
    return _operations(events, JOB_OPS, "job")


def register_operations(events: Iterable[Event]) -> list[Operation]:
    """The calls of a history on registers, for histories of other systems: `value` is {"key", "value"}; a read is
    answered by what it saw, a cas has [old, new] for its value and is answered by true or false."""
    return _operations(events, REGISTER_OPS, "key")


def _operations(events: Iterable[Event], ops: Collection[str], key: str) -> list[Operation]:
    """A `fail`ed call did not happen; one without an end may have."""
    calls: dict[int, Event] = {}
    ends: dict[int, Event] = {}
    for event in events:
        if event.op in ops:
            if event.kind == "invoke":
                calls[event.id] = event
            elif event.kind in {"ok", "fail", "info"}:
                ends[event.id] = event
    found = []
    for number, call in calls.items():
        end = ends.get(number)
        if end is not None and end.kind == "fail":
            continue
        ok = end is not None and end.kind == "ok"
        if not ok and call.op in {"status", "wait", "read"}:
            continue  # a read without an answer says nothing
        found.append(
            Operation(
                process=call.process,
                key=call.value[key],
                action=call.op,
                value=call.value.get("value"),
                result=end.value if ok and end is not None else None,
                invoked=call.t,
                returned=end.t if ok and end is not None else None,
            )
        )
    return found
