"""What a run asks its cluster in the end, against servers that are not there."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from jepsen_like.run import absent


def server(status: int | None = None, said: str = "") -> Any:
    return SimpleNamespace(
        alive=status is None, process=SimpleNamespace(returncode=status), log_tail=lambda _lines: said
    )


def place(
    masters: dict[str, Any],
    workers: dict[str, Any],
    applied: dict[str, int],
    note: str = "",
    states: dict[str, str] | None = None,
) -> Any:
    rows = [SimpleNamespace(id=id, state=state) for id, state in ({"w1": "active"} | (states or {})).items()]

    def ask(one: Any, _timeout: float) -> Any:
        id = next(id for id, server in masters.items() if server is one)
        return SimpleNamespace(role="follower", applied=applied[id], note=note)

    return SimpleNamespace(
        masters=masters,
        workers=workers,
        connect=lambda **_options: nullcontext(SimpleNamespace(workers=lambda: rows)),
        servers=masters | workers,
        leader=lambda: SimpleNamespace(id="a", commit=9),
        cluster=SimpleNamespace(ask=ask),
    )


@pytest.mark.parametrize(
    ("promise", "masters", "workers", "applied", "note", "said"),
    [
        ("all are there, and have everything", {"a": server()}, {"w1": server()}, {"a": 9}, "", []),
        (
            "a master ended by itself",
            {"a": server(), "b": server(1, "fatal: two leaders")},
            {},
            {"a": 9, "b": 0},
            "",
            ["b ended with status 1 after the last heal; its log ends with: fatal: two leaders"],
        ),
        (
            "a worker was killed by a signal",
            {"a": server()},
            {"w1": server(-11)},
            {"a": 9},
            "",
            ["w1 ended with status -11 after the last heal; its log ends with: "],
        ),
        (
            "a follower never catches up",
            {"a": server(), "b": server()},
            {},
            {"a": 9, "b": 7},
            "",
            ["nothing hurts, and the masters are not together after 0 s"],
        ),
        (
            "a master still has no vote",
            {"a": server()},
            {},
            {"a": 9},
            "its disk was replaced",
            ["nothing hurts, and the masters are not together after 0 s"],
        ),
    ],
)
def test_who_is_missing_in_the_end(
    promise: str,
    masters: dict[str, Any],
    workers: dict[str, Any],
    applied: dict[str, int],
    note: str,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C14: nothing hurts any more."""
    monkeypatch.setattr("jepsen_like.run.TOGETHER_S", 0.3)
    found = list(absent(place(masters, workers, applied, note), 1.0))
    assert len(found) == len(said), promise
    for text, begin in zip(found, said, strict=True):
        assert text.startswith(begin), promise


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("active", []),
        ("excluded", []),
        ("detached", ["nothing hurts, w2 runs, and to the masters it is detached"]),
        ("lost", ["nothing hurts, w2 runs, and to the masters it is lost"]),
    ],
)
def test_a_worker_that_runs_and_gets_no_work(
    state: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: it heartbeats, and nobody counts on it."""
    monkeypatch.setattr("jepsen_like.run.TOGETHER_S", 0.3)
    there = place({"a": server()}, {"w1": server(), "w2": server()}, {"a": 9}, states={"w2": state})
    assert list(absent(there, 1.0)) == said
