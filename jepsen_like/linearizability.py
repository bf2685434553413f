"""Is a history of concurrent operations linearizable (C11)?

An operation takes effect at one instant between its invocation and its return. `ok` operations must take effect
and give their answer; `fail` ones never did; `info` ones (a timeout) may take effect at any time after they were
invoked, or never. First is looked for what contradicts itself (zones.py), then for an order (search.py). What is too
much for that is looked at in parts: a part that no order explains, whatever was before it, refutes the whole.

Histories are checked per key: a history is linearizable if and only if each object's part is (Herlihy & Wing 1990).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from jepsen_like.operation import Model, Operation
from jepsen_like.register import Register
from jepsen_like.search import BUDGET, linearize
from jepsen_like.verdict import Outcome, Verdict

__all__ = ["Model", "Operation", "Register", "check", "linearize"]

TOTAL = 4_000_000  # over all keys
LEAST = 20_000  # for each key, whatever the others have used up
PARTS = 500_000  # for refuting it by a part of it
WINDOWS = (2, 8, 40)  # answered operations looked at by themselves when the whole is too much


def check(
    operations: Iterable[Operation],
    model: Model,
    budget: int = BUDGET,
    *,
    denied: Sequence[Operation] = (),
) -> Verdict:
    """Every key on its own. The excerpt of a violation is the operation that cannot be placed and those around it;
    `denied` are calls that are said not to have happened: they are shown, for one of them may have."""
    keys: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.key].append(operation)
    counted = {"keys": len(keys), "operations": sum(map(len, keys.values()))}
    left = TOTAL
    gave_up = []
    for key, history in sorted(keys.items(), key=lambda item: len(item[1])):
        said_no = [one for one in denied if one.key == key]
        if together := model.impossible(history):
            return _violation(
                key, f"its {len(history)} operations", _together(history, together, said_no), counted
            )
        allowed = min(budget, max(left, LEAST))
        outcome, order, stuck = linearize(history, model, allowed)
        left -= allowed if outcome is Outcome.UNKNOWN else len(history)
        shown: Sequence[Operation] = history
        size = f"its {len(history)} operations"
        if outcome is Outcome.UNKNOWN and (refuted := _refuted(history, model, stuck)):
            outcome, (shown, order, stuck) = Outcome.INVALID, refuted
            size = f"{len(shown)} operations of its {len(history)}"
        if outcome is Outcome.INVALID:
            return _violation(key, size, _excerpt(shown, order, stuck, said_no), counted)
        if outcome is Outcome.UNKNOWN:
            gave_up.append(f"key {key!r}: gave up on {len(history)} operations after {allowed:,} steps")
    reason = "; ".join(gave_up[:3]) if gave_up else ""
    if not counted["operations"]:
        reason = "no operation was recorded"
    return Verdict(
        checker="linearizability",
        outcome=Outcome.UNKNOWN if reason else Outcome.VALID,
        invariants=("C11",),
        reason=reason,
        counted=counted,
    )


def _violation(key: Hashable, size: str, excerpt: tuple[str, ...], counted: dict[str, int]) -> Verdict:
    return Verdict(
        checker="linearizability",
        outcome=Outcome.INVALID,
        invariants=("C11",),
        reason=f"key {key!r}: no order of {size} explains every answer",
        excerpt=excerpt,
        counted=counted,
    )


def _refuted(
    history: Sequence[Operation], model: Model, near: int
) -> tuple[Sequence[Operation], list[int], int] | None:
    """Operations that no order explains, be it that those without an answer happen at will, be it that nobody knows
    what was before: then none explains the whole. With the longest order found and what is stuck. Looks first where
    the search got stuck, `near` that operation."""
    somewhere = model.anywhere()
    windows = _Windows(history)
    middle = bisect_left(windows.began, history[near].invoked)
    left = PARTS
    for width in WINDOWS if somewhere is not None else ():
        starts = range(0, len(windows.answered), max(1, width // 4))
        for start in sorted(starts, key=lambda at: abs(at + width // 2 - middle))[:400]:
            window = windows.at(start, width)
            assert somewhere is not None  # the loop is empty without it
            outcome, order, stuck = linearize(window, somewhere, LEAST, lax=True)
            if outcome is Outcome.INVALID:
                return window, order, stuck
            left -= LEAST if outcome is Outcome.UNKNOWN else width * 10
            if left < 0:
                break
    outcome, order, stuck = linearize(history, model, PARTS, lax=True)
    return (history, order, stuck) if outcome is Outcome.INVALID else None


class _Windows:
    """Parts of a history, each with all that may have taken effect in it."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self.answered = sorted((op for op in history if op.returned is not None), key=lambda op: op.invoked)
        self.began = [op.invoked for op in self.answered]
        self._longest = max(((op.returned or 0) - op.invoked for op in self.answered), default=0)
        self._lost = sorted((op for op in history if op.returned is None), key=lambda op: op.invoked)
        self._lost_began = [op.invoked for op in self._lost]

    def at(self, start: int, width: int) -> list[Operation]:
        """`width` answered operations from `start` on. What began before the first of them or ended after the last
        counts as unanswered."""
        chosen = self.answered[start : start + width]
        begin = chosen[0].invoked
        end = max(op.returned for op in chosen if op.returned is not None)
        first, last = bisect_left(self.began, begin - self._longest), bisect_right(self.began, end)
        beside = [
            replace(op, returned=None, result=None)
            for op in (*self.answered[first:start], *self.answered[start + width : last])
            if op.returned is not None and op.returned >= begin and op.action != "read"
        ]
        return [*chosen, *beside, *self._lost[: bisect_right(self._lost_began, end)]]


def _excerpt(
    history: Sequence[Operation], order: Sequence[int], stuck: int, denied: Sequence[Operation]
) -> tuple[str, ...]:
    culprit = history[stuck]
    placed = [history[number] for number in order[-2:]]
    until = _until(culprit)
    beside = [
        f"concurrent: {other}"
        for number, other in enumerate(history)
        if number != stuck
        and number not in order[-2:]
        and other.invoked <= until
        and (other.returned is None or other.returned >= culprit.invoked)
    ]
    since = min((one.invoked for one in placed), default=float("-inf"))
    return (
        *(f"in order so far: {one}" for one in placed),
        *beside[:3],
        *_refused(denied, since, until),
        f"cannot be placed: {culprit}",
    )


def _together(
    history: Sequence[Operation], numbers: Sequence[int], denied: Sequence[Operation]
) -> tuple[str, ...]:
    """Few operations that contradict each other, whatever else was done."""
    *others, culprit = (history[number] for number in numbers)
    since = min((one.invoked for one in others), default=float("-inf"))
    return (
        *(f"together with: {one}" for one in others),
        *_refused(denied, since, _until(culprit)),
        f"cannot be placed: {culprit}",
    )


def _refused(denied: Sequence[Operation], since: float, until: float) -> list[str]:
    """Said not to have happened between `since` and `until`: one of them may have."""
    return [f"refused: {one}" for one in denied if one.invoked <= until and (one.returned or 0) >= since][-2:]


def _until(operation: Operation) -> float:
    return operation.returned if operation.returned is not None else float("inf")
