"""A replaced disk gets its vote back when the disk before it can give that vote to nobody (C2, C13, FC27)."""

from __future__ import annotations

from tests.unit.consensus.solo import Solo, append, entries


def test_it_votes_only_once_every_other_member_has_let_it_in() -> None:
    """Who has not met it would still listen to the old disk: two disks could vote twice under one id."""
    a = Solo(up=("b",))
    a.node.journal.set_voter(False)
    a.hear("b", append(1, (1, 0), entries(2, 4, 1), commit=4, promote=(4, 7)))
    assert not a.node.journal.voter, "c has not met this disk"
    a.node.up("c")
    a.node.down("c")  # once is enough: c remembers
    a.hear("b", append(1, (4, 1), [], commit=4, promote=(4, 7)))
    assert a.node.journal.voter
