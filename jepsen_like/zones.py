"""What a history of a register can't be, seen without a search: however many clients there are, in O(n log n).

A value that only one operation can bring about is there once, without a gap. Two calls that met it keep it there from
the end of the one to the beginning of the other: no other value can be there meanwhile. Source: Gibbons & Korach,
"Testing shared memories" (1997), whose forward and backward zones these are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jepsen_like.operation import Operation

State = Hashable
NEVER = -1  # the number of no operation


@dataclass(frozen=True, slots=True)
class _Zone:
    """Of one value: the first end among calls that met it, the last beginning, and whose these are. When that end is
    before that beginning, the value was there from the one to the other; else at some time between beginning and end.
    """

    state: State
    ended: float
    by: int
    began: float
    of: int


def contradiction(
    operations: Sequence[Operation],
    initial: State,
    makes: Callable[[Operation], State | None],
    needs: Callable[[Operation], State | None],
) -> tuple[int, ...]:
    """Numbers of few operations that no order of the whole history explains, the one to blame last; empty when none are
    found, which does not say that there is an order. `makes` and `needs` are a Model's; `initial` is the state before
    the first operation.
    """
    makers: dict[State, list[int]] = defaultdict(list)
    met: dict[State, list[int]] = defaultdict(list)  # was there at some instant of the call
    for number, one in enumerate(operations):
        if (made := makes(one)) is not None:
            makers[made].append(number)
        if one.returned is not None and (needed := needs(one)) is not None:
            met[needed].append(number)
    zones = [
        _zone(state, operations, [number])
        for states in (makers, met)
        for state, numbers in states.items()
        for number in numbers
        if operations[number].returned is not None
    ]
    for state, numbers in met.items():
        made_by = makers[state]
        if state != initial and not made_by:
            return (numbers[0],)  # a value out of nowhere
        if (state == initial) + len(made_by) > 1:
            continue
        for number in numbers if made_by else ():
            if (operations[number].returned or 0) < operations[made_by[0]].invoked:
                return made_by[0], number
        sure = [number for number in made_by if operations[number].returned is not None]
        zones.append(_zone(state, operations, [*sure, *numbers], since_ever=not made_by))
    # what saw something is to blame, rather than what wrote it
    return tuple(
        sorted(_clash(zones), key=lambda n: (needs(operations[n]) is not None, operations[n].invoked))
    )


def _zone(
    state: State, operations: Sequence[Operation], numbers: Sequence[int], *, since_ever: bool = False
) -> _Zone:
    ended, by = min((operations[one].returned or 0, one) for one in numbers)
    began, of = max((operations[one].invoked, one) for one in numbers)
    return _Zone(state, float("-inf"), NEVER, began, of) if since_ever else _Zone(state, ended, by, began, of)


def _clash(zones: Sequence[_Zone]) -> set[int]:
    """Two values that were both there at one moment, or one that has no place outside of another's time."""
    there = sorted((zone for zone in zones if zone.ended < zone.began), key=lambda zone: zone.ended)
    for one, other in pairwise(there):
        if other.ended < one.began:
            return _numbers(one, other)
    starts = [zone.ended for zone in there]
    for zone in zones:
        # those of `there` do not overlap: only the last that starts before can hold it
        at = bisect_left(starts, zone.began) - 1
        if (
            zone.began <= zone.ended
            and at >= 0
            and zone.ended < there[at].began
            and zone.state != there[at].state
        ):
            return _numbers(there[at], zone)
    return set()


def _numbers(*zones: _Zone) -> set[int]:
    return {number for zone in zones for number in (zone.by, zone.of)} - {NEVER}
