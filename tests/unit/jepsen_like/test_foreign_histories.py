"""Histories of other systems, as lines: what is understood is judged, what is not is named, and never called valid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jepsen_like import checkers, history
from jepsen_like.linearizability import Register, check
from jepsen_like.model import register_operations
from jepsen_like.verdict import Outcome
from tests.unit.jepsen_like.test_linearizability import r, w


def lines(*calls: tuple[Any, ...]) -> list[str]:
    """(process, op, asked, answer) one after the other; an answer of ... is none."""
    found = []
    for number, (process, op, asked, answer) in enumerate(calls):
        found.append({"time": 2 * number, "process": process, "type": "invoke", "f": op, "value": asked})
        if answer is not ...:
            found.append({"time": 2 * number + 1, "process": process, "type": "ok", "f": op, "value": answer})
    return [json.dumps(line) for line in found]


def judged(text: list[str]) -> Outcome:
    return checkers.overall(checkers.judge(list(history.parse(text)), None))


NEMESIS = ['{"time":1,"process":"nemesis","type":"info","f":"start","value":null}'] * 2
SAME = [
    line.replace(f'"time": {n}', '"time": 0')
    for n, line in enumerate(lines((0, "write", 1, 1), (0, "read", None, None)))
]
INDEPENDENT = lines(
    (0, "write", ["a", 1], ["a", 1]), (0, "write", ["b", 2], ["b", 2]), (0, "read", ["a", None], ["a", 1])
)
KEYED = [(0, "write", {"key": "x", "value": 1}, None), (1, "write", {"key": "x", "value": 2}, None)]

KNOWN: list[tuple[str, list[str], Outcome]] = [
    (
        "a nemesis speaks without being asked",
        [*NEMESIS, *lines((0, "write", 1, 1), (0, "read", None, 1))],
        Outcome.VALID,
    ),
    ("pairs of jepsen.independent are keys", INDEPENDENT, Outcome.VALID),
    ("at one instant the order of the lines decides", SAME, Outcome.INVALID),
    (
        "true is not 1, not within either",
        lines((0, "write", [1], [1]), (0, "read", None, [True])),
        Outcome.INVALID,
    ),
    (
        "an object is no list of pairs",
        lines((0, "write", {"a": 1}, None), (0, "read", None, [["a", 1]])),
        Outcome.INVALID,
    ),
    (
        "keys 1 and true are two registers",
        lines(
            (0, "write", {"key": 1, "value": 5}, None),
            (0, "write", {"key": True, "value": 6}, None),
            (0, "read", {"key": 1}, {"value": 5}),
        ),
        Outcome.VALID,
    ),
    (
        "an operation that nobody knows",
        lines((0, "write", 1, 1), (0, "incr", 1, 1), (0, "read", None, 2)),
        Outcome.UNKNOWN,
    ),
    ("a stale read under another name", lines((0, "write", 1, 1), (0, "get", None, None)), Outcome.UNKNOWN),
    ("a read that names no key", lines(*KEYED, (0, "read", None, 1)), Outcome.UNKNOWN),
    ("a key that is misspelt", lines(*KEYED, (0, "read", {"kee": "x"}, 1)), Outcome.UNKNOWN),
    (
        "an answer of another key",
        lines(*KEYED, (0, "read", {"key": "x"}, {"key": "y", "value": 2})),
        Outcome.UNKNOWN,
    ),
    (
        "a write that wrote something else",
        lines((0, "write", {"key": "x", "value": 1}, {"value": 7})),
        Outcome.UNKNOWN,
    ),
    ("a state that no job has", lines((0, "status", {"job": "j"}, {"state": "PAUSED"})), Outcome.UNKNOWN),
    (
        "existed is neither true nor false",
        lines((0, "submit", {"job": "j"}, {"existed": "no"})),
        Outcome.UNKNOWN,
    ),
    (
        "blank lines, and ends of lines within a text",
        ["", *lines((0, "write", "a\u2028b", 1), (0, "read", None, "a\u2028b")), " "],
        Outcome.VALID,
    ),
]


@pytest.mark.parametrize(("promise", "text", "outcome"), KNOWN, ids=[row[0] for row in KNOWN])
def test_histories_of_known_verdict(promise: str, text: list[str], outcome: Outcome) -> None:
    assert judged(text) is outcome, promise


CALL = '{"t":0,"process":"p","kind":"invoke","op":"read","value":null,"id":1}'
WRONG: list[tuple[str, list[str], str]] = [
    (
        "an end of another operation",
        [CALL, '{"t":1,"process":"p","kind":"ok","op":"reed","value":1,"id":1}'],
        "line 2",
    ),
    ("a time without end", [CALL.replace('"t":0', '"t":Infinity')], "line 1"),
    ("no number at all", [CALL.replace('"t":0', '"t":NaN')], "line 1"),
    ("too deep", ["[" * 100_000], "line 1"),
    ("two names that disagree", [CALL.replace('"kind"', '"type":"ok","kind"')], "line 1: type is"),
    ("an id that is no number", [CALL.replace('"id":1', '"id":true')], "line 1: id is True"),
]


@pytest.mark.parametrize(("promise", "text", "said"), WRONG, ids=[row[0] for row in WRONG])
def test_a_line_that_cannot_be_right_is_named(promise: str, text: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(history.parse(text))


SAID_WRONG: list[tuple[str, list[str], str]] = [
    (
        "a cas of one value",
        lines((0, "write", 1, 1), (0, "cas", 1, True)),
        "line 3: cas of 0 at 2: a cas has",
    ),
    (
        "an answer of another key",
        lines((0, "read", {"key": "x"}, {"key": "y", "value": 1})),
        "line 1: read of 0",
    ),
    (
        "another value than was written",
        lines((0, "write", {"key": "x", "value": 1}, {"value": 2})),
        "line 1: write",
    ),
]


@pytest.mark.parametrize(("promise", "text", "said"), SAID_WRONG, ids=[row[0] for row in SAID_WRONG])
def test_the_line_of_a_call_that_is_not_understood_is_named(promise: str, text: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        register_operations(history.parse(text))
    assert judged(text) is Outcome.UNKNOWN, promise


def test_names_cannot_write_to_the_terminal() -> None:
    (found,) = history.parse([CALL.replace('"p"', '"\\u001b[31m\\ud800"')])
    assert found.process == "\\x1b[31m\\ud800"


def test_an_answer_before_its_call_is_named() -> None:
    text = [
        CALL.replace('"t":0', '"t":5'),
        '{"t":1,"process":"p","kind":"info","op":"read","value":1,"id":1}',
    ]
    with pytest.raises(ValueError, match="came before it"):
        register_operations(history.parse(text))


def test_a_stale_read_among_many_clients_is_found_at_once() -> None:
    """64 clients, each value written once: a search alone gave up on that."""
    crowd = [w(1000 + n, 10 * (n // 64), 10 * (n // 64) + 9) for n in range(3000)]
    stale = [w(1, 500, 501), w(2, 502, 503), r(1, 504, 505)]
    assert check([*crowd, *stale], Register(), budget=1000).outcome is Outcome.INVALID
    assert check([*stale[:2], r(2, 504, 505)], Register()).outcome is Outcome.VALID
