"""C11: the checker itself, on good histories, on planted-bad ones, and against a brute force that shares no code."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen_like.linearizability import Operation, Register, _Windows, check, linearize
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
    crowd = [w(n, 0, 100, f"p{n}") for n in range(12)]
    crowd += [r(n, 101 + n, 101 + n) for n in (3, 4, 3)]
    assert linearize(crowd, Register(), 50)[0] is Outcome.UNKNOWN
    assert check(crowd, Register(), 1_000).outcome is Outcome.INVALID, "but a part of it refutes it"


def brute(history: list[Operation]) -> bool:
    """Whether any order of all answered and some unanswered operations explains every answer: tried one by one."""

    def go_on(left: list[Operation], value: Any) -> bool:
        if all(o.returned is None for o in left):
            return True
        first = min(o.returned for o in left if o.returned is not None)
        for o in left:
            rest = [other for other in left if other is not o]
            if o.invoked <= first and any(go_on(rest, after) for after in outcomes(o, value)):
                return True
        return False

    return go_on(history, None)


def outcomes(o: Operation, value: Any) -> list[Any]:
    """The value afterwards, if the answer is possible."""
    if o.action == "write":
        return [o.value]
    if o.action == "read":
        return [value] if o.returned is None or o.result == value else []
    hit = value == o.value[0]
    return [o.value[1] if hit else value] if o.returned is None or o.result == hit else []


@st.composite
def histories(draw: st.DrawFn, most: int = 7) -> list[Operation]:
    made = []
    for n in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, 10))
        end = draw(st.one_of(st.none(), st.integers(0, 7).map(lambda d, s=start: s + d)))
        match draw(st.sampled_from(["write", "read", "cas"])):
            case "write":
                made.append(w(draw(st.integers(1, 3)), start, end, f"p{n}"))
            case "read":
                made.append(r(draw(st.sampled_from([None, 1, 2, 3])), start, end, f"p{n}"))
            case _:
                pair = (draw(st.sampled_from([None, 1, 2])), draw(st.integers(1, 3)))
                made.append(op(f"p{n}", "cas", pair, draw(st.booleans()), start, end))
    return made


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    assert (check(history, Register()).outcome is Outcome.VALID) == brute(history)


@settings(max_examples=200, deadline=None)
@given(histories(most=9), st.integers(1, 4))
def test_a_part_refutes_only_what_is_wrong(history: list[Operation], width: int) -> None:
    """What a window of a history refutes, from any state before it, the whole refutes."""
    windows = _Windows(history)
    for start in range(len(windows.answered)):
        if linearize(windows.at(start, width), Register().anywhere(), lax=True)[0] is Outcome.INVALID:
            assert not brute(history)


def recorded(
    seed: int, count: int, clients: int, keys: int, lost: float, *, once: bool = False
) -> list[Operation]:
    """A history as a correct register would have answered it: each operation takes effect inside its interval.
    `once`: no value is written by two of them."""
    rng = Random(seed)
    free = [0.0] * clients
    asked = []
    for _ in range(count):
        who = min(range(clients), key=free.__getitem__)
        begin = free[who] + rng.random()
        at = begin + 3 * rng.random()
        free[who] = at + 3 * rng.random()
        asked.append((at, begin, free[who], who, rng.randrange(keys), rng.choice(["read", "write", "cas"])))
    values: dict[int, Any] = {}
    made = []
    for number, (_, begin, end, who, key, action) in enumerate(sorted(asked)):
        new, old = (number, values.get(key)) if once else (rng.randrange(5), rng.randrange(5))
        value: Any = {"read": None, "write": new, "cas": (old, new)}[action]
        answered = rng.random() >= lost
        result: Any = None
        if answered or rng.random() < 0.5:
            before = values.get(key)
            result = before if action == "read" else before == value[0] if action == "cas" else None
            if action == "write" or (action == "cas" and result):
                values[key] = value if action == "write" else value[1]
        made.append(
            Operation(
                process=str(who),
                key=key,
                action=action,
                value=value,
                result=result if answered else None,
                invoked=begin,
                returned=end if answered else None,
            )
        )
    return made


LONG = [(5, 100, 0.0), (10, 50, 0.1), (5, 1, 0.0), (5, 1, 0.05), (20, 20, 0.02)]


@pytest.mark.parametrize(("clients", "keys", "lost"), LONG)
def test_ten_thousand_operations_are_judged(clients: int, keys: int, lost: float) -> None:
    """C11: many keys or one, with clients that crash: a verdict, not a hang."""
    history = recorded(7, 10_000, clients, keys, lost)
    assert check(history, Register()).outcome is Outcome.VALID


@pytest.mark.parametrize(("clients", "keys", "lost"), LONG)
def test_one_wrong_answer_in_ten_thousand_is_found(clients: int, keys: int, lost: float) -> None:
    """A write that was acknowledged is gone afterwards; nobody else wrote its value."""
    history = recorded(7, 9_990, clients, keys, lost)
    end = max(o.returned or o.invoked for o in history) + 1
    for n, (action, value, result) in enumerate(
        [("write", 77, None), ("write", 78, None), ("read", None, 77), ("read", None, 78)]
    ):
        times = {"invoked": end + 2 * n, "returned": end + 2 * n + 1}
        history.append(Operation(process="late", key=0, action=action, value=value, result=result, **times))
    verdict = check(history, Register())
    assert verdict.outcome is Outcome.INVALID
    assert "77" in " ".join(verdict.excerpt)


@pytest.mark.parametrize("crashed", [0, 1, 40])
def test_writers_that_crashed_do_not_make_the_search_explode(crashed: int) -> None:
    crowd = [w(n, 0, None, f"p{n}") for n in range(crashed)]
    good = [w(100 + n, 2 * n, 2 * n + 1) for n in range(50)] + [r(149, 200, 201)]
    assert check([*crowd, *good], Register()).outcome is Outcome.VALID
    assert check([*crowd, *good, r(148, 202, 203)], Register()).outcome is Outcome.INVALID


def test_a_value_out_of_nowhere_is_named_at_once() -> None:
    crowd = [w(n, 0, 1000, f"p{n}") for n in range(60)]
    verdict = check([*crowd, r(99, 1, 999)], Register())
    assert verdict.outcome is Outcome.INVALID
    assert "99" in verdict.excerpt[-1]


def test_a_violation_shows_the_refused_call_that_may_have_taken_effect_after_all() -> None:
    """In words: seconds for recorded times, and no more than a reader needs."""
    said_no = [op("c", "write", 2, "Unavailable", 2_000_000_000, 3_000_000_000)]
    verdict = check([w(1, 0, 1_000_000_000), r(2, 4_000_000_000, 5_500_000_000)], Register(), denied=said_no)
    assert verdict.outcome is Outcome.INVALID
    assert "refused: [2.000 s .. 3.000 s] c: write(2) -> 'Unavailable'" in verdict.excerpt
    assert verdict.excerpt[-1] == "cannot be placed: [4.000 s .. 5.500 s] q: read() -> 2"


@st.composite
def written_once(draw: st.DrawFn) -> list[Operation]:
    """Answered writes and reads, each value written by one operation at most."""
    made = []
    for n in range(draw(st.integers(2, 7))):
        start = draw(st.integers(0, 12))
        end = start + draw(st.integers(0, 6))
        if draw(st.booleans()):
            made.append(w(n, start, end, f"p{n}"))
        else:
            made.append(
                r(draw(st.sampled_from([None, *(o.value for o in made if o.value)])), start, end, f"p{n}")
            )
    return made


@settings(max_examples=400, deadline=None)
@given(written_once())
def test_what_is_written_once_needs_no_search(history: list[Operation]) -> None:
    """Gibbons & Korach: then there is an order if and only if nothing contradicts itself."""
    assert (not Register().impossible(history)) == brute(history)


@pytest.mark.parametrize(
    ("promise", "history", "told"),
    [
        (
            "a read of what is gone",
            [w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)],
            ["write(1)", "write(2)", "read() -> 1"],
        ),
        ("a read before its write", [w(1, 5, 6), r(1, 1, 2)], ["read() -> 1", "write(1)"]),
        ("a value out of nowhere", [w(1, 0, 1), r(7, 2, 3)], ["read() -> 7"]),
        ("nothing, after something", [w(1, 0, 1), r(None, 2, 3)], ["write(1)", "read() -> None"]),
        (
            "two values at one moment",
            [w(1, 0, 9, "a"), w(2, 0, 9, "b"), r(1, 1, 2), r(2, 3, 4), r(1, 5, 6), r(2, 7, 8)],
            ["read() -> 1", "read() -> 2", "read() -> 1", "read() -> 2"],
        ),
        (
            "a value that was met by a cas, in the time of another",
            [w(1, 0, 9, "a"), r(1, 1, 2), w(2, 0, 9, "b"), op("c", "cas", (2, 3), True, 3, 4), r(1, 5, 6)],
            ["read() -> 1", "cas((2, 3)) -> True", "read() -> 1"],
        ),
    ],
)
def test_a_contradiction_shows_the_few_calls_that_make_it(
    promise: str, history: list[Operation], told: list[str]
) -> None:
    """C11: and no other, whatever else was going on."""
    beside = [r(None, -2, -1, "x"), w(50, -1, None, "y")]
    verdict = check([*beside, *history], Register(), 0)
    assert verdict.outcome is Outcome.INVALID, promise
    shown = sorted(verdict.excerpt, key=_begin)
    assert len(shown) == len(told), shown
    assert all(wanted in line for wanted, line in zip(told, shown, strict=True)), shown
    assert verdict.excerpt[-1].startswith("cannot be placed: ")


def _begin(line: str) -> float:
    return float(line.partition("[")[2].partition(" ..")[0])


@pytest.mark.parametrize("once", [True, False])
def test_a_hundred_clients_at_once_on_one_register(once: bool) -> None:
    """C11: be it that each writes its own value, be it that all write the same few."""
    assert check(recorded(7, 1_000, 100, 1, 0.02, once=once), Register()).outcome is Outcome.VALID
    history = recorded(8, 1_000, 100, 1, 0.0, once=once)
    assert check(history, Register()).outcome is Outcome.VALID
    end = max(o.returned or o.invoked for o in history) + 1
    reads = [o for o in history if o.action == "read" and o.returned is not None]
    gone = replace(reads[300], invoked=end + 2, returned=end + 3)
    last = replace(w(-1, end, end + 1), key=0)
    assert check([*history, last, gone], Register()).outcome is Outcome.INVALID
