"""One call of one client, and the sequential object whose history it belongs to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_MICROSECOND_NS = 1_000


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
        until = "?" if self.returned is None else _time(self.returned)
        answer = "no answer" if self.returned is None else repr(self.result)
        asked = "" if self.value is None else repr(self.value)
        return f"[{_time(self.invoked)} .. {until}] {self.process}: {self.action}({asked}) -> {answer}"


def _time(t: float) -> str:
    """For people: a recorded time is in nanoseconds, one that somebody made up for an example is a small number."""
    return f"{t / 1e9:.3f} s" if t >= _MICROSECOND_NS else f"{t:g}"


class Model(Protocol):
    """The sequential object. States are hashable."""

    initial: Hashable

    def step(self, state: Any, operation: Operation) -> Hashable | None:
        """The state after `operation`, or None when its answer is impossible in `state`. The answer of an
        operation that never returned is not looked at."""

    def idle(self, operation: Operation) -> bool:
        """Whether the answered `operation`, if it fits and changes nothing now, would change nothing later either."""

    def makes(self, operation: Operation) -> Hashable | None:
        """The state that `operation` may bring about where another was, if it is one known state."""

    def needs(self, operation: Operation) -> Hashable | None:
        """The one state in which the answer of the answered `operation` is possible, if there is one."""

    def simplified(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """The same history in fewer different words, if that is possible: equally many operations, the same verdict."""

    def impossible(self, operations: Sequence[Operation]) -> Sequence[int]:
        """The numbers of operations whose answers nothing in the whole history can explain together, if that is seen
        without a search; none otherwise. The last of them is the one to blame."""

    def anywhere(self) -> Model | None:
        """The same object in a state that nobody knows, if that can be said: it allows at least as much."""


def frozen(value: Any) -> Hashable:
    """Any JSON as something that can be compared and remembered: true is not 1, and an object no list of pairs."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list | tuple):
        return ("list", *(frozen(one) for one in value))
    if isinstance(value, dict):
        return ("object", frozenset((name, frozen(one)) for name, one in value.items()))
    same: Hashable = value
    return same
