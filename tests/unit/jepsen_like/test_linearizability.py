"""C11: the checker itself, on good histories, on planted-bad ones, and against a brute force that shares no code."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_like.linearizability import Operation, Register, check
from jepsen_like.verdict import Outcome


def op(
    process: str, action: str, value: Any, result: Any, invoked: float, returned: float | None
) -> Operation:
    return Operation(
        process=process,
        key="x",
        action=action,
        value=value,
        result=result,
        invoked=invoked,
        returned=returned,
    )


def w(value: int, a: float, b: float | None, p: str = "p") -> Operation:
    return op(p, "write", value, None, a, b)


def r(seen: int | None, a: float, b: float | None, p: str = "q") -> Operation:
    return op(p, "read", None, seen, a, b)


@pytest.mark.parametrize(
    ("promise", "history", "outcome"),
    [
        ("a read sees the write before it", [w(1, 0, 1), r(1, 2, 3)], Outcome.VALID),
        ("a read beside a write sees either", [w(1, 0, 5), r(None, 1, 2), r(1, 3, 4)], Outcome.VALID),
        ("a read may not go back", [w(1, 0, 5), r(1, 1, 2), r(None, 3, 4)], Outcome.INVALID),
        ("a stale read after an acknowledged write", [w(1, 0, 1), r(None, 2, 3)], Outcome.INVALID),
        ("a lost write", [w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)], Outcome.INVALID),
        ("a value out of nowhere", [w(1, 0, 1), r(7, 2, 3)], Outcome.INVALID),
        ("a write without an answer may have happened", [w(1, 0, None), r(1, 2, 3)], Outcome.VALID),
        ("a write without an answer may never have", [w(1, 0, None), r(None, 2, 3)], Outcome.VALID),
        ("but it happens once", [w(1, 0, None), w(2, 1, 2), r(1, 3, 4), r(2, 5, 6)], Outcome.INVALID),
        ("it may happen long after", [w(1, 0, None), r(None, 2, 3), r(1, 8, 9)], Outcome.VALID),
        (
            "two compare-and-sets from one value cannot both win",
            [w(1, 0, 1), op("a", "cas", (1, 2), True, 2, 5), op("b", "cas", (1, 3), True, 2, 5)],
            Outcome.INVALID,
        ),
        (
            "one wins and one loses",
            [w(1, 0, 1), op("a", "cas", (1, 2), True, 2, 5), op("b", "cas", (1, 3), False, 2, 5), r(2, 6, 7)],
            Outcome.VALID,
        ),
        ("an empty history proves nothing", [], Outcome.UNKNOWN),
    ],
)
def test_promise(promise: str, history: list[Operation], outcome: Outcome) -> None:
    assert check(history, Register()).outcome is outcome, promise


def test_a_violation_names_the_operation_that_cannot_be_placed() -> None:
    verdict = check([w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)], Register())
    assert "cannot be placed" in verdict.excerpt[-1]
    assert "read" in verdict.excerpt[-1]


def test_one_bad_key_among_good_ones_is_found() -> None:
    good = [
        Operation(process="p", key=k, action="write", value=1, result=None, invoked=0, returned=1)
        for k in range(9)
    ]
    assert check([*good, r(5, 0, 1)], Register()).outcome is Outcome.INVALID


def test_a_search_beyond_its_budget_says_unknown() -> None:
    crowd = [w(n, 0, 100, f"p{n}") for n in range(12)] + [r(99, 101, 102)]
    assert check(crowd, Register(), budget=1_000).outcome is Outcome.UNKNOWN


def brute(history: list[Operation]) -> bool:
    """Every order of every subset that holds all answered operations and respects real time."""
    must = [o for o in history if o.returned is not None]
    may = [o for o in history if o.returned is None]
    for size in range(len(may) + 1):
        for extra in itertools.combinations(may, size):
            for order in itertools.permutations([*must, *extra]):
                if explains(order):
                    return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    value = None
    for place, o in enumerate(order):
        if any(later.returned is not None and later.returned < o.invoked for later in order[place + 1 :]):
            return False
        if o.action == "write":
            value = o.value
        elif o.returned is not None and o.result != value:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    made = []
    for n in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 8))
        end = draw(st.one_of(st.none(), st.integers(1, 6).map(lambda d, s=start: s + d)))
        if draw(st.booleans()):
            made.append(w(draw(st.integers(1, 2)), start, end, f"p{n}"))
        else:
            made.append(r(draw(st.sampled_from([None, 1, 2])), start, end, f"p{n}"))
    return made


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    assert (check(history, Register()).outcome is Outcome.VALID) == brute(history)
