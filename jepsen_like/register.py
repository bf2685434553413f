"""The register: one value that is written, read, and compared and set. The model of histories of other systems."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from jepsen_like.operation import Operation, frozen

ANY: Hashable = ("any",)  # of a register that was not watched from its beginning
UNSEEN = ("unseen",)  # stands for every value that no answer speaks of


class Register:
    """One value: write(v), read() -> v, cas((old, new)) -> bool. None before the first write."""

    def __init__(self, initial: Hashable = ("none",)) -> None:
        self.initial = initial

    def step(self, state: Any, operation: Operation) -> Hashable | None:
        """See Model."""
        known = operation.returned is not None
        match operation.action:
            case "write":
                return _holding(operation.value)
            case "read":
                seen = _holding(operation.result) if known else state
                return seen if state in (seen, ANY) else None
            case "cas":
                return self._cas(state, *operation.value, answer=operation.result if known else None)
        raise ValueError(f"a register knows no {operation.action!r}")

    def _cas(self, state: Any, old: Any, new: Any, *, answer: bool | None) -> Hashable | None:
        if state == ANY and answer is not None:
            return _holding(new) if answer else ANY
        hit = state in (_holding(old), ANY)
        if answer is not None and answer != hit:
            return None
        return _holding(new) if hit else state

    def idle(self, operation: Operation) -> bool:
        """See Model. A read of a register that may be in any state does change what is known of it."""
        return operation.action == "read" or (operation.action == "cas" and operation.result is False)

    def simplified(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """See Model: values that no read saw and no cas asked for are one value."""
        spoken = {_holding(op.value[0]) for op in operations if op.action == "cas"}
        spoken |= {
            _holding(op.result) for op in operations if op.action == "read" and op.returned is not None
        }

        def plain(value: Any) -> Any:
            return value if _holding(value) in spoken else UNSEEN

        return [
            replace(op, value=plain(op.value))
            if op.action == "write"
            else replace(op, value=(op.value[0], plain(op.value[1])))
            if op.action == "cas"
            else op
            for op in operations
        ]

    def impossible(self, operations: Sequence[Operation]) -> int:
        """See Model: a value out of nowhere, or one that was written once and is gone for certain."""
        made = {_holding(None), *(_holding(op.value) for op in operations if op.action == "write")}
        made |= {_holding(op.value[1]) for op in operations if op.action == "cas"}
        for number, op in enumerate(operations):
            if op.action == "read" and op.returned is not None and _holding(op.result) not in made:
                return -1 if self.initial == ANY else number
        return -1 if self.initial == ANY else _stale(operations)

    def anywhere(self) -> Register:
        """See Model."""
        return Register(ANY)


def _stale(operations: Sequence[Operation]) -> int:
    """A read of a value that was written once, after a later write was over: it must have been gone. -1: there is none.
    Found at once, however many clients there are."""
    makers: dict[Hashable, list[Operation]] = {_holding(None): []}
    for op in operations:
        if op.action != "read":
            makers.setdefault(_holding(op.value[1] if op.action == "cas" else op.value), []).append(op)
    sure = sorted(
        (op for op in operations if op.returned is not None and (op.action == "write" or op.result is True)),
        key=lambda op: op.invoked,
    )
    first_over = list(accumulate((op.returned or 0 for op in reversed(sure)), min))[::-1]
    began = [op.invoked for op in sure]
    for number, op in enumerate(operations):
        made = makers.get(_holding(op.result), []) if op.action == "read" and op.returned is not None else []
        if len(made) == 1 and made[0].returned is not None:
            later = bisect_right(began, made[0].returned)
            if later < len(sure) and first_over[later] < op.invoked:
                return number
    return -1


def _holding(value: Any) -> Hashable:
    """The state of a register with `value`; values may be any JSON."""
    return ("none",) if value is None else ("value", frozen(value))
