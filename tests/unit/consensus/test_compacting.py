"""Snapshots of a member's own and one that arrives, when they meet; and a disk that failed."""

from __future__ import annotations

import pytest

from consensus.applying import Mark
from consensus.config import Limits
from consensus.journal import JournalFailed
from consensus.snapshots import Snapshot, serialise
from tests.unit.consensus.solo import Solo, append, entries, piece


def whole(index: int) -> bytes:
    return serialise(Snapshot(index, 1, b"", b"[]"))


def test_while_a_snapshot_goes_to_the_disk_no_other_is_begun() -> None:
    """It would take the place of what is just being verified."""
    a = Solo()
    a.hear("b", piece(1, whole(50), 50, 1))
    a.hear("b", piece(1, whole(70), 70, 1))
    (told,) = [m for _, m in a.hear("b", piece(1, whole(50), 50, 1)) if m["type"] == "snapshot_answer"]
    assert [meta[0] for meta in a.stored] == [50]
    assert told["held"] == len(whole(50)), "it need not be sent again"


def test_no_own_snapshot_is_begun_while_one_arrives() -> None:
    a = Solo(limits=Limits(compact_entries=5, keep_entries=1))
    a.hear("b", piece(1, whole(50), 50, 1))
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    assert not [i for i in a.items if isinstance(i, Mark)]
    a.node.snapshot_refused()
    a.settle()
    assert [i for i in a.items if isinstance(i, Mark)], "it was damaged: now it is our turn"


def test_a_snapshot_that_ends_where_the_log_is_not_trims_nothing() -> None:
    """The log was replaced while the snapshot was being written."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    before = a.log()
    a.node.snapshot_taken(100)
    assert a.log() == before


def test_a_disk_that_failed_ends_the_turn() -> None:
    """FC17: nothing is said any more."""
    a = Solo()
    a.store.failed = JournalFailed("the disk failed")
    with pytest.raises(JournalFailed):
        a.node.tick()
