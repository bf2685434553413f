"""Handing leadership over: to whom, what waits meanwhile, and what those hear who wait when a member is stopped."""

from __future__ import annotations

from consensus.replica import CommitUnknown, Unavailable
from tests.unit.consensus.solo import Outcome, Solo, answer


def led_by_a() -> Solo:
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    return a


def test_nothing_is_proposed_while_leadership_is_handed_over() -> None:
    """Else the successor would never have everything."""
    a = led_by_a()
    last = a.node.last
    a.propose()
    a.node.transfer("c", 0.5, handed := Outcome())
    waiting = a.propose()
    assert a.node.last == last + 1
    for _ in range(8):  # c does not answer: the leader stays, and goes on
        a.clock += 0.1
        a.hear("b", answer(1, a.node.last + 1, round=a.node.leading.round))
    assert isinstance(handed.error, Unavailable)
    assert a.node.last == last + 2
    assert waiting.error is None


def returned(a: Solo, peer: str) -> None:
    """`peer` came back with an empty disk."""
    a.hear(peer, answer(1, 2, matched=False, rejected=a.node.last, incarnation=5, non_voter=True))


def test_an_empty_disk_is_no_successor() -> None:
    """It may not stand; the hand-over would only cost time."""
    a = led_by_a()
    returned(a, "b")
    a.node.transfer("b", 5.0, asked := Outcome())
    a.settle()
    assert isinstance(asked.error, Unavailable)
    assert a.node.leading.transfer is None


def test_the_successor_is_a_voter_also_when_another_has_more() -> None:
    a = led_by_a()
    returned(a, "c")
    a.hear("c", answer(1, a.node.last + 1, incarnation=5, non_voter=True))
    assert a.node.leading.members["c"].match > a.node.leading.members["b"].match
    a.node.transfer(None, 5.0, Outcome())
    assert a.node.leading.transfer is not None
    assert a.node.leading.transfer.to == "b"


def test_who_waits_when_a_member_is_stopped_is_told() -> None:
    """Of an entry in the log, that its fate is open; of one that never got there, and of a read, that it was not."""
    a = led_by_a()
    a.propose()
    a.node.read(Outcome())
    in_log, *never = a.node.abandon()
    assert isinstance(in_log.error, CommitUnknown)
    assert len(in_log.waiters) == 1
    assert [(type(f.error), len(f.waiters)) for f in never] == [(Unavailable, 1)]
