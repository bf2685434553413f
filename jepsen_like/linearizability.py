"""Is a history of concurrent operations linearizable (C11)? The search of Wing and Gong with Lowe's memory.

An operation takes effect at one instant between its invocation and its return. `ok` operations must take effect
and give their answer; `fail` ones never did; `info` ones (a timeout) may take effect at any time after they were
invoked, or never. Sources: Wing & Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for
linearizability" (2017): a configuration (set of operations done, state) that failed once is never entered again.

Histories are checked per key: a history is linearizable if and only if each object's part is (Herlihy & Wing 1990).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jepsen_like.verdict import Outcome, Verdict

BUDGET = 2_000_000  # configurations tried per key before the checker says unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client. Times are of one clock, in any unit; `returned` is None when the answer never came."""

    process: str
    key: Hashable
    action: str
    value: Any
    result: Any
    invoked: float
    returned: float | None

    def __str__(self) -> str:
        until = "?" if self.returned is None else f"{self.returned:g}"
        answer = "no answer" if self.returned is None else repr(self.result)
        return f"[{self.invoked:g} .. {until}] {self.process}: {self.action}({self.value!r}) -> {answer}"


class Model(Protocol):
    """The sequential object. States are hashable."""

    initial: Hashable

    def step(self, state: Any, operation: Operation) -> Hashable | None:
        """The state after `operation`, or None when its answer is impossible in `state`. The answer of an
        operation that never returned is not looked at."""


class Register:
    """One value: write(v), read() -> v, cas((old, new)) -> bool. None before the first write."""

    initial: Hashable = ("none",)

    def step(self, state: Any, operation: Operation) -> Hashable | None:
        """See Model."""
        known = operation.returned is not None
        match operation.action:
            case "write":
                return ("value", operation.value)
            case "read":
                seen = ("none",) if operation.result is None else ("value", operation.result)
                return state if not known or seen == state else None
            case "cas":
                old, new = operation.value
                hit = state == ("value", old)
                if known and operation.result != hit:
                    return None
                return ("value", new) if hit else state
        raise ValueError(f"a register knows no {operation.action!r}")


class _Event:
    """A call or a return in a doubly linked list, so that an operation is lifted out and put back in O(1)."""

    __slots__ = ("following", "match", "number", "previous")

    def __init__(self, number: int) -> None:
        self.number = number
        self.match: _Event | None = None  # a call's return
        self.previous: _Event = self
        self.following: _Event | None = None


def _link(operations: Sequence[Operation]) -> _Event:
    """The events in time order behind a head. At equal times calls come first: such operations may overlap."""
    times: list[tuple[float, int, _Event]] = []
    for number, operation in enumerate(operations):
        call = _Event(number)
        times.append((operation.invoked, 0, call))
        if operation.returned is not None:
            call.match = _Event(number)
            times.append((operation.returned, 1, call.match))
    times.sort(key=lambda entry: entry[:2])
    head = last = _Event(-1)
    for _, _, event in times:
        last.following, event.previous = event, last
        last = event
    return head


def _lift(event: _Event) -> None:
    event.previous.following = event.following
    if event.following:
        event.following.previous = event.previous


def _unlift(event: _Event) -> None:
    event.previous.following = event
    if event.following:
        event.following.previous = event


def linearize(
    operations: Sequence[Operation], model: Model, budget: int = BUDGET
) -> tuple[Outcome, list[int], int]:
    """Searches one key's history. Returns the outcome, the longest order found (numbers of operations) and the number
    of the operation whose return could not be reached (-1 when there is none)."""
    returns = [operation.returned is not None for operation in operations]
    # an `info` operation is a call without a return: one that never takes effect simply stays in the list
    head = _link(operations)
    required = sum(returns)
    state: Any = model.initial
    done, tried = 0, 0
    seen: set[tuple[int, Any]] = set()
    stack: list[tuple[_Event, Any]] = []
    best: list[int] = []
    stuck = -1
    event = head.following
    while required:
        if event is None or _is_return(event, operations):
            if event is not None and len(stack) >= len(best):
                best, stuck = [call.number for call, _ in stack], event.number
            if not stack:
                return Outcome.INVALID, best, stuck
            call, state = stack.pop()
            done &= ~(1 << call.number)
            required += returns[call.number]
            _put_back(call)
            event = call.following
            continue
        tried += 1
        if tried > budget:
            return Outcome.UNKNOWN, best, stuck
        after = model.step(state, operations[event.number])
        mark = done | 1 << event.number
        if after is None or (mark, after) in seen:
            event = event.following
            continue
        seen.add((mark, after))
        stack.append((event, state))
        done, state = mark, after
        required -= returns[event.number]
        _take_out(event)
        event = head.following
    return Outcome.VALID, [call.number for call, _ in stack], -1


def _is_return(event: _Event, operations: Sequence[Operation]) -> bool:
    return event.match is None and operations[event.number].returned is not None


def _take_out(call: _Event) -> None:
    _lift(call)
    if call.match:
        _lift(call.match)


def _put_back(call: _Event) -> None:
    if call.match:
        _unlift(call.match)
    _unlift(call)


def check(operations: Iterable[Operation], model: Model, budget: int = BUDGET) -> Verdict:
    """Every key on its own. The excerpt of a violation is the operation that cannot be placed and those around it."""
    keys: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.key].append(operation)
    counted = {"keys": len(keys), "operations": sum(map(len, keys.values()))}
    unknown = ""
    for key, history in keys.items():
        outcome, order, stuck = linearize(history, model, budget)
        if outcome is Outcome.INVALID:
            return Verdict(
                checker="linearizability",
                outcome=outcome,
                invariants=("C11",),
                reason=f"key {key!r}: no order of its {len(history)} operations explains every answer",
                excerpt=_excerpt(history, order, stuck),
                counted=counted,
            )
        if outcome is Outcome.UNKNOWN:
            unknown = f"key {key!r}: gave up after {budget:,} configurations"
    if unknown or not counted["operations"]:
        reason = unknown or "no operation was recorded"
        return Verdict(
            checker="linearizability",
            outcome=Outcome.UNKNOWN,
            invariants=("C11",),
            reason=reason,
            counted=counted,
        )
    return Verdict(checker="linearizability", outcome=Outcome.VALID, invariants=("C11",), counted=counted)


def _excerpt(history: Sequence[Operation], order: Sequence[int], stuck: int) -> tuple[str, ...]:
    culprit = history[stuck]
    last = [f"in order so far: {history[number]}" for number in order[-3:]]
    until = culprit.returned if culprit.returned is not None else float("inf")
    beside = [
        f"concurrent: {other}"
        for number, other in enumerate(history)
        if number != stuck
        and number not in order[-3:]
        and other.invoked <= until
        and (other.returned is None or other.returned >= culprit.invoked)
    ]
    return (*last, *beside[:6], f"cannot be placed: {culprit}")
