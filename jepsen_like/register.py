"""The register: one value that is written, read, and compared and set. The model of histories of other systems."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from jepsen_like.operation import Operation, frozen
from jepsen_like.zones import contradiction

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

    def makes(self, operation: Operation) -> Hashable | None:
        """See Model."""
        match operation.action:
            case "write":
                return _holding(operation.value)
            case "cas" if operation.returned is None or operation.result:
                return _holding(operation.value[1])
        return None

    def needs(self, operation: Operation) -> Hashable | None:
        """See Model."""
        match operation.action:
            case "read":
                return _holding(operation.result)
            case "cas" if operation.result:
                return _holding(operation.value[0])
        return None

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

    def impossible(self, operations: Sequence[Operation]) -> Sequence[int]:
        """See Model: a value out of nowhere, one that is gone for certain, two at one moment."""
        return () if self.initial == ANY else contradiction(operations, self.initial, self.makes, self.needs)

    def anywhere(self) -> Register:
        """See Model."""
        return Register(ANY)


def _holding(value: Any) -> Hashable:
    """The state of a register with `value`; values may be any JSON."""
    return ("none",) if value is None else ("value", frozen(value))
