"""Rules of one line that others mostly stand in for: rounds, sessions, what is found at a start."""

from __future__ import annotations

from consensus.config import Limits
from consensus.core import REGULAR, Core
from consensus.progress import Mode
from tests.unit.consensus.solo import Outcome, SlowStore, Solo, answer, append, entries


def led_by_a(limits: Limits | None = None) -> Solo:
    a = Solo(limits=limits)
    a.elect("b")
    a.hear("b", answer(1, 3))
    return a


def test_only_rounds_that_were_begun_are_answered() -> None:
    """26: an answer from nowhere confirms nothing, and a late one takes nothing back."""
    a = led_by_a()
    a.wait(0.2)
    now = a.node.leading.round
    a.hear("b", answer(1, 3, round=now))
    a.hear("b", answer(1, 3, round=now + 50))
    a.hear("b", answer(1, 3, round=1))
    assert a.node.leading.members["b"].round == now


def test_a_read_waits_for_all_that_was_committed_when_it_was_asked() -> None:
    """26: also when the state machine is behind."""
    a = led_by_a(Limits(apply_lag_entries=3))
    a.applied = lambda: 2  # type: ignore[method-assign]  # it has not come round to the rest yet
    for _ in range(6):
        a.propose()
    a.hear("b", answer(1, a.node.last + 1, round=a.node.leading.round))
    assert a.node.commit == a.node.last > a.node.handed
    a.node.read(read := Outcome())
    a.settle()
    a.hear("b", answer(1, a.node.last + 1, round=a.node.leading.round))
    assert read.result is None


def test_a_new_session_begins_with_a_question() -> None:
    """What was under way in the old one is lost."""
    a = led_by_a()
    assert a.node.leading.members["b"].mode is Mode.STREAM
    a.node.up("b")
    assert a.node.leading.members["b"].mode is Mode.PROBE


def test_a_new_session_may_be_of_a_life_that_says_an_earlier_time() -> None:
    """Its clock was set back; the transport vouches that the life before it is over."""
    a = led_by_a()
    a.propose()
    a.hear("b", answer(1, 3, incarnation=9))
    a.node.up("b")
    a.hear("b", answer(1, a.node.last + 1, incarnation=4))
    assert a.node.commit == a.node.last


def test_a_candidate_waits_for_its_own_disk() -> None:
    """FC16: before its vote is on disk it has asked nobody, so there is nothing to try again."""
    a = Solo()
    a.hear("b", append(1, (1, 0), []))
    a.store.slow = True
    a.node._campaign(transfer=False)
    term = a.node.term
    asked = a.wait(5.0)
    assert a.node.term == term
    assert asked == []
    a.store.catch_up()
    a.node.tick()
    said = [(m["term"], m["pre"]) for _, m in a.sent]
    assert said[:2] == [(term, False)] * 2
    assert said.count((term + 1, True)) <= 2, "one question, not one for each time that its patience ended"


def test_the_term_is_never_below_the_logs() -> None:
    store = SlowStore()
    first = Solo(store=store)
    first.node.journal.add(REGULAR + b"x", 2, 5)
    first.node.journal.sync()
    assert Solo(store=store).node.term == 5


def test_the_commit_index_is_never_beyond_the_log() -> None:
    """8: whatever was remembered."""
    a = Solo()
    a.node.journal.setRaftCommitIndex(99)
    assert Core("a", ["b", "c"], a.node.journal, 1, a.node).commit == 1


def test_the_commit_index_does_not_go_back() -> None:
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    a.node.core.advance(4)
    assert a.node.commit == 9


def test_a_rejection_takes_back_what_was_to_be_answered() -> None:
    """What the leader hears last is what it goes by."""
    a = Solo()
    a.store.slow = True
    a.hear("b", append(1, (1, 0), entries(2, 4, 1)))
    a.hear("b", append(1, (9, 1), []))
    a.sent.clear()
    a.store.catch_up()
    a.settle()
    assert [m for _, m in a.sent if m["success"] and m["next_node_idx"] > 2] == []
