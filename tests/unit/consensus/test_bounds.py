"""C15, hazard 35: what is on its way into the log, and out of it, is bounded; and each waiter gets its own entry."""

from __future__ import annotations

import pytest

from consensus.applying import Proposal
from consensus.config import Limits
from consensus.core import REGULAR
from consensus.proposing import Proposals
from tests.unit.consensus.solo import Outcome, Solo, append, entries


def taken(limits: Limits, count: int, size: int) -> int:
    """How many of so many proposals go into a log of which nothing more is committed."""
    a = Solo(limits=limits)
    proposals = Proposals(limits)
    for _ in range(count):
        proposals.append(Proposal(b"x" * size, Outcome()))
    for _ in range(count):
        proposals.take(a.node.journal, 1, 1)
    return len(a.node.journal) - 1


def test_uncommitted_entries_are_bounded() -> None:
    assert taken(Limits(uncommitted_entries=5), 20, 10) == 5


def test_uncommitted_bytes_are_bounded() -> None:
    """One more than fits, at most."""
    assert taken(Limits(uncommitted_bytes=1000), 20, 100) == 10


def test_what_is_ahead_of_the_state_machine_is_bounded() -> None:
    a = Solo(limits=Limits(apply_lag_entries=3))
    a.applied = lambda: 1  # type: ignore[method-assign]  # it has not come round to it yet
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    assert (a.node.commit, a.node.handed) == (9, 4)


def test_a_waiter_is_bound_to_index_and_term() -> None:
    """The entry at its index is another's: nobody is told that his own was applied."""
    a = Solo()
    proposals = Proposals(Limits())
    proposals.append(Proposal(b"mine", Outcome()))
    proposals.take(a.node.journal, 1, 1)
    with pytest.raises(AssertionError, match="replaced"):
        proposals.claim([(REGULAR + b"other", 2, 2)])
