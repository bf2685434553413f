"""The sequential job, against which the calls of clients are checked for linearizability (C11, C10, T8).

A job goes absent -> QUEUED -> RUNNING -> PUBLISHING -> an end, by itself or by a cancel. What happens by itself needs
no operation: an answer that shows a later state moves the model there, and no answer may ever show an earlier one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from math import nextafter
from typing import Any

from jepsen_like.history import Event
from jepsen_like.operation import Operation, frozen

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
                    return None  # two submits made one job each: C10. (A client may repeat its own: then it existed.)
                return "QUEUED" if state == "absent" else state
            case "status" | "wait":
                return _seen(state, answer["state"]) if known else state
            case "cancel":
                return self._cancel(state, answer["state"] if known else None)
        raise ValueError(f"a job knows no {operation.action!r}")

    def idle(self, operation: Operation) -> bool:
        """See operation.Model: a job never goes back, so what changes nothing now never will."""
        return operation.returned is not None

    def makes(self, _operation: Operation) -> None:
        """See operation.Model: a job's states come by themselves, too."""

    def needs(self, _operation: Operation) -> None:
        """See operation.Model: an answer is possible in every state before the one it shows."""

    def simplified(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """See operation.Model: jobs have few words already."""
        return operations

    def impossible(self, _operations: Sequence[Operation]) -> Sequence[int]:
        """See operation.Model: a job's few states are searched."""
        return ()

    def anywhere(self) -> None:
        """See operation.Model: a job is watched from its beginning."""

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
OTHER_OPS = frozenset(
    {"again", "blobs", "occupied", "retry", "rival", "trespass"}
)  # calls of the harness's own scenes


def operations(events: Iterable[Event]) -> list[Operation]:
    """The calls of a history that speak of jobs; `value["job"]` is which, the answer is what `JobModel` says.
    Raises ValueError for a call that names no job, or an answer that says nothing of one."""
    found = _operations(events, JOB_OPS)
    made = []
    for call, result, returned in found:
        job = call.value.get("job") if isinstance(call.value, dict) else None
        if not isinstance(job, str):
            raise ValueError(f"{_where(call)}: its value names no job")
        if returned is not None:
            _check_answer(call, result)
        made.append(_operation(call, job, None, _told(result), returned))
    return made


def _check_answer(call: Event, answer: Any) -> None:
    wanted = "existed" if call.op == "submit" else "state"
    if not (isinstance(answer, dict) and wanted in answer):
        raise ValueError(f"{_where(call)}: its answer {answer!r} has no {wanted!r}")
    if wanted == "existed" and not isinstance(answer["existed"], bool):
        raise ValueError(f"{_where(call)}: existed is {answer['existed']!r}, neither true nor false")
    if wanted == "state" and not (isinstance(answer["state"], str) and answer["state"] in RANK):
        raise ValueError(f"{_where(call)}: state {answer['state']!r} is none of {', '.join(RANK)}")


def _told(answer: Any) -> Any:
    """What it says of the job; what else it says is for other checkers."""
    if not isinstance(answer, dict):
        return answer
    return {name: answer[name] for name in ("state", "existed", "index") if name in answer}


def denied(events: Iterable[Event]) -> list[Operation]:
    """The calls that are said not to have happened, on jobs and on registers: shown beside a violation."""
    calls = {event.id: event for event in events if event.kind == "invoke"}
    found = []
    for event in events:
        call = calls.get(event.id)
        if event.kind != "fail" or call is None or call.op not in JOB_OPS | REGISTER_OPS:
            continue
        asked = call.value if isinstance(call.value, dict) else {}
        key = asked["job"] if "job" in asked else frozen(asked.get("key", ""))
        value = None if "job" in asked else asked.get("value", call.value)
        error = event.value.get("error", event.value) if isinstance(event.value, dict) else event.value
        found.append(_operation(call, key, value, error, event.t))
    return found


def register_operations(events: Iterable[Event]) -> list[Operation]:
    """The calls of a history on registers, for histories of other systems: `value` is {"key", "value"}, or the value
    alone where there is one register; a read is answered by what it saw, a cas has [old, new] for its value and is
    answered by true or false. An answer may repeat what was asked. Raises ValueError."""
    found = _operations(events, REGISTER_OPS)
    keys = _Keys([call for call, _, _ in found])
    made = []
    for call, answer, returned in found:
        key, value = keys.asked(call)
        result = keys.answered(call, key, value, answer) if returned is not None else answer
        if call.op == "cas":
            if not isinstance(value, list) or len(value) != 2:
                raise ValueError(f"{_where(call)}: a cas has [old, new] for its value, not {value!r}")
            if result == value:
                result = True
            if returned is not None and not isinstance(result, bool):
                raise ValueError(f"{_where(call)}: a cas is answered by true or false, not {result!r}")
        made.append(_operation(call, frozen(key), value, result, returned))
    return made


class _Keys:
    """How a history names its registers: {"key", "value"} in every call, or [key, value] as jepsen.independent has it,
    or not at all. Raises ValueError for a call or an answer that does otherwise."""

    def __init__(self, calls: Sequence[Event]) -> None:
        self._named = any(isinstance(call.value, dict) and "key" in call.value for call in calls)
        reads = [call.value for call in calls if call.op == "read"]
        self._paired = not self._named and bool(reads) and all(_pair(v) and v[1] is None for v in reads)

    def asked(self, call: Event) -> tuple[Any, Any]:
        """The key of a call ("" where there is one register) and its value."""
        if self._named:
            if not (isinstance(call.value, dict) and "key" in call.value):
                raise ValueError(f"{_where(call)}: its value {call.value!r} names no key, though others do")
            return call.value["key"], call.value.get("value")
        if self._paired:
            if not _pair(call.value):
                raise ValueError(
                    f"{_where(call)}: its value {call.value!r} is no [key, value], as others are"
                )
            return call.value[0], call.value[1]
        return "", call.value

    def answered(self, call: Event, key: Any, value: Any, answer: Any) -> Any:
        """What was answered; an answer may repeat the key, and what was written."""
        if self._paired and _pair(answer):
            answer = {"key": answer[0], "value": answer[1]}
        if (self._named or self._paired) and isinstance(answer, dict) and "value" in answer:
            if frozen(answer.get("key", key)) != frozen(key):
                raise ValueError(f"{_where(call)}: its answer speaks of key {answer['key']!r}, not {key!r}")
            answer = answer["value"]
            if call.op == "write" and answer is not None and frozen(answer) != frozen(value):
                raise ValueError(f"{_where(call)}: it wrote {value!r}, its answer says {answer!r}")
        return answer


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _where(call: Event) -> str:
    line = f"line {call.line}: " if call.line else ""
    return f"{line}{call.op} of {call.process} at {call.t}"


def _operation(call: Event, key: Hashable, value: Any, result: Any, returned: float | None) -> Operation:
    return Operation(
        process=call.process,
        key=key,
        action=call.op,
        value=value,
        result=result,
        invoked=call.t,
        returned=returned,
    )


def _operations(events: Iterable[Event], ops: Collection[str]) -> list[tuple[Event, Any, float | None]]:
    """Call, answer, and when it came. A `fail`ed call did not happen; one without an end may have. Where times are
    equal, the order of the lines decides."""
    calls: dict[int, Event] = {}
    ends: dict[int, Event] = {}
    last = float("-inf")
    for event in sorted((event for event in events if event.op in ops), key=lambda event: event.t):
        last = event.t if event.t > last else nextafter(last, float("inf"))
        event = replace(event, t=last)  # type: ignore[arg-type]  # noqa: PLW2901 - the same event, a hair later
        if event.kind == "invoke":
            calls[event.id] = event
        elif event.kind in {"ok", "fail", "info"}:
            ends[event.id] = event
    found: list[tuple[Event, Any, float | None]] = []
    for number, call in calls.items():
        end = ends.get(number)
        if end is not None and end.t < call.t:
            raise ValueError(f"{_where(call)}: its answer came before it, at {end.t}")
        if end is not None and end.kind == "fail":
            continue
        if end is not None and end.kind == "ok":
            found.append((call, end.value, end.t))
        elif call.op not in {"status", "wait", "read"}:  # a read without an answer says nothing
            found.append((call, None, None))
    return found
