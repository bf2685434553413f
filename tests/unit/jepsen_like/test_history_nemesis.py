"""A schedule is a function of its seed; a history is read back as it was written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepsen_like import history
from jepsen_like.nemesis import Kind, fixed, length_s, schedule

KINDS = [
    Kind(name="kill", group="process", hurt_s=(1, 4)),
    Kind(name="cut", group="net", hurt_s=(2, 6)),
    Kind(name="ring", group="net", hurt_s=(2, 6)),
    Kind(name="slow", group="disk", hurt_s=(1, 2), weight=0.1),
]


@given(st.integers(0, 2**32), st.floats(5, 300))
def test_equal_seeds_give_equal_storms_and_groups_never_overlap(seed: int, duration: float) -> None:
    steps = schedule(seed, KINDS, duration)
    assert steps == schedule(seed, KINDS, duration)
    net = sorted((s for s in steps if s.fault in {"cut", "ring"}), key=lambda s: s.at_s)
    assert all(a.until_s <= b.at_s for a, b in pairwise(net))
    assert all(s.at_s < duration for s in steps)


@given(st.integers(0, 2**32))
def test_every_fault_at_least_once_when_asked(seed: int) -> None:
    steps = schedule(seed, KINDS, 1, at_least_once=True)
    assert {step.fault for step in steps} == {kind.name for kind in KINDS}


def test_different_seeds_differ() -> None:
    assert schedule(1, KINDS, 100) != schedule(2, KINDS, 100)


@pytest.mark.parametrize("seed", range(10))
def test_what_has_come_is_less_likely_to_come_again(seed):
    kinds = [Kind(name=f"k{n}", group=f"g{n}", hurt_s=(0.1, 0.2)) for n in range(40)]
    steps = schedule(seed, kinds, 200.0, every_s=2.0)
    assert len({step.fault for step in steps}) == 40, "a hundred steps of 40 kinds"


def test_two_faults_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        schedule(0, [KINDS[0], KINDS[0]], 10)


def test_a_written_schedule_keeps_its_times() -> None:
    assert length_s(fixed([(1, "kill", 2), (2, "cut", 5)])) == 7


def test_what_comes_after_the_end_is_not_recorded(tmp_path: Path) -> None:
    """Ctrl-C leaves threads behind for a moment: they must not fail, and memory and file say the same."""
    kept = history.History(tmp_path / "h.jsonl")
    kept.record("p", "note", "work")
    kept.close()
    kept.record("p", "note", "late")
    kept.close()
    assert [event.op for event in kept.events] == [event.op for event in history.read(kept.path)] == ["work"]


def test_a_history_is_read_back_as_written(tmp_path: Path) -> None:
    written = history.History(tmp_path / "h.jsonl")
    call = written.record("client-1", "invoke", "submit", {"id": "x"}, node="a")
    written.record("client-1", "info", "submit", "timeout", id=call)
    written.close()
    assert history.read(tmp_path / "h.jsonl") == written.events
    assert written.events[1].id == call
    assert written.events[0].t <= written.events[1].t


@pytest.mark.parametrize(
    "line", ["{", "{}", '{"t":1,"process":"p","kind":"maybe","op":"x","value":1,"node":"","id":1}']
)
def test_a_line_that_is_no_event_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        list(history.parse([line]))
