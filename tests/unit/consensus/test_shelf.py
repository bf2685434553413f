"""A replica's snapshots: what is damaged is not installed, what is being sent stays readable, a full disk is loud."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from consensus.journal import JournalFailed
from consensus.shelf import Shelf
from consensus.snapshots import BadSnapshot, Snapshot, SnapshotStore, serialise

CONTENT = serialise(Snapshot(9, 2, b"\x01", b"state" * 100))
OFFER = (9, 2, len(CONTENT), CONTENT[-32:])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(SnapshotStore(tmp_path / "snapshots"))


def test_pieces_in_order_make_a_snapshot(shelf: Shelf) -> None:
    """Hazard 14: a piece counts where it belongs, once, whatever comes twice or too early."""
    assert shelf.put(OFFER, 0, CONTENT[:200]) == 200
    assert shelf.put(OFFER, 300, CONTENT[300:400]) == 200
    assert shelf.put(OFFER, 0, CONTENT[:200]) == 200
    assert shelf.put(OFFER, 200, CONTENT[200:]) == len(CONTENT)
    assert shelf.install(OFFER)
    stored = shelf.read()
    assert stored is not None
    assert (stored.index, stored.term, stored.data) == (9, 2, b"state" * 100)


def test_a_damaged_snapshot_is_not_installed_and_can_come_again(shelf: Shelf) -> None:
    """Hazard 12, D7: stock pysyncobj acknowledged it as a success."""
    bad = bytearray(CONTENT)
    bad[150] ^= 4
    shelf.put(OFFER, 0, bytes(bad))
    assert not shelf.install(OFFER)
    assert shelf.latest() is None
    assert shelf.put(OFFER, 0, CONTENT) == len(CONTENT)
    assert shelf.install(OFFER)


def test_a_snapshot_that_is_being_sent_outlives_a_newer_one(shelf: Shelf) -> None:
    shelf.write(5, 1, b"old")
    first = shelf.piece(5, 0, 10)
    shelf.write(8, 1, b"new")
    assert shelf.latest().index == 8  # type: ignore[union-attr]  # it is there
    assert shelf.piece(5, 0, 10) == first
    shelf.write(11, 1, b"newest")
    assert shelf.piece(5, 0, 10) is None
    assert shelf.piece(8, 0, 10) is not None


def test_an_older_snapshot_never_replaces_a_newer_one(shelf: Shelf) -> None:
    """One that was written and one that was received may cross (hazard 13)."""
    shelf.write(20, 3, b"newer")
    shelf.put(OFFER, 0, CONTENT)
    shelf.install(OFFER)
    assert shelf.latest().index == 20  # type: ignore[union-attr]  # it is there


def test_a_snapshot_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    SnapshotStore(tmp_path / "s").write(Snapshot(3, 1, b"\x02", b""))
    with pytest.raises(BadSnapshot, match="format"):
        Shelf(SnapshotStore(tmp_path / "s")).read()


def test_a_full_disk_is_loud(shelf: Shelf) -> None:
    """FC17: exit code 75."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("os.pwrite", side_effect=full), pytest.raises(JournalFailed) as caught:
        shelf.put(OFFER, 0, CONTENT)
    assert caught.value.exit_code == 75
