"""Snapshots: complete and verified, or not there (hazards 4, 7, 12, 14; FC19, FC24)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.journal import JournalFailed
from consensus.replica import RefusedToStart
from consensus.snapshots import BadSnapshot, Offer, Snapshot, SnapshotStore, parse, serialise

ONE = Snapshot(7, 2, b"meta", b"state" * 1000)


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def store(directory) -> SnapshotStore:
    directory.mkdir(exist_ok=True)
    return SnapshotStore(directory / "snapshots")


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.binary(max_size=200), st.binary(max_size=200))
def test_what_is_serialised_is_parsed(index, term, meta, data):
    snapshot = Snapshot(index, term, meta, data)
    assert parse(serialise(snapshot)) == snapshot


@settings(max_examples=300)
@given(st.data())
def test_no_altered_byte_and_no_cut_passes(data):
    content = bytearray(serialise(Snapshot(7, 2, b"meta", b"state")))
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with pytest.raises(BadSnapshot):
        parse(bytes(content))


def test_the_newest_is_found_and_the_older_are_gone(tmp_path):
    snapshots = store(tmp_path)
    assert snapshots.latest() is None
    for index in (5, 9, 12):
        snapshots.write(Snapshot(index, 1, b"", b"%d" % index))
    assert names(tmp_path / "snapshots") == ["snapshot-00000000000000000012-1.snap"]
    latest = store(tmp_path).latest()
    assert latest is not None
    assert latest.load() == Snapshot(12, 1, b"", b"12")


def test_an_older_one_never_replaces_a_newer(tmp_path):
    snapshots = store(tmp_path)
    newest = snapshots.write(Snapshot(9, 1, b"", b"nine"))
    assert snapshots.write(Snapshot(5, 1, b"", b"five")).index == 9
    receiver = snapshots.receive(newest.offer)
    receiver.write(0, newest.read(0, newest.size))
    assert receiver.install().index == 9
    assert names(tmp_path / "snapshots") == ["snapshot-00000000000000000009-1.snap"]


def test_a_superseded_snapshot_can_still_be_sent(tmp_path):
    snapshots = store(tmp_path)
    old = snapshots.write(ONE)
    snapshots.write(Snapshot(99, 2, b"", b"new"))
    assert parse(old.read(0, old.size)) == ONE


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_pieces_make_the_whole_again(tmp_path, piece):
    sent = store(tmp_path / "a").write(ONE)
    receiver = store(tmp_path / "b").receive(sent.offer)
    while not receiver.complete:
        receiver.write(receiver.held, sent.read(receiver.held, piece))
    assert receiver.install().load() == ONE
    assert names(tmp_path / "b" / "snapshots") == ["snapshot-00000000000000000007-2.snap"]


@given(st.lists(st.integers(0, 20), max_size=60))
def test_lost_repeated_and_reordered_pieces_leave_no_hole(tmp_path_factory, order):
    """Hazard 14: whatever order pieces come in, what is held is a prefix of the file."""
    directory = tmp_path_factory.mktemp("pieces")
    content = serialise(Snapshot(3, 1, b"", bytes(range(200))))
    receiver = store(directory).receive(Offer(3, 1, len(content), content[-32:]))
    size = -(-len(content) // 20)
    for number in order:
        receiver.write(number * size, content[number * size : (number + 1) * size])
        assert receiver._aside.read_bytes()[: receiver.held] == content[: receiver.held]
    receiver.abandon()


def test_the_same_offer_goes_on_after_a_reconnect_and_another_begins_anew(tmp_path):
    sent = store(tmp_path / "a").write(ONE)
    snapshots = store(tmp_path / "b")
    snapshots.receive(sent.offer).write(0, sent.read(0, 100))
    assert snapshots.receive(sent.offer).held == 100
    assert snapshots.receive(Offer(8, 2, 10, b"x" * 32)).held == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda offer, content: (offer, content[:-1] + b"x"),  # altered in flight
        lambda offer, content: (
            Offer(8, offer.term, offer.size, offer.checksum),
            content,
        ),  # not what was offered
        lambda offer, content: (Offer(offer.index, offer.term, offer.size, b"x" * 32), content),
        lambda offer, content: (Offer(offer.index, offer.term, 50, offer.checksum), content[:50]),
    ],
)
def test_a_bad_transfer_installs_nothing_and_starts_again(tmp_path, change):
    """Hazard 12: a failed installation is never taken for one."""
    content = serialise(ONE)
    offer, content = change(Offer(7, 2, len(content), content[-32:]), content)
    snapshots = store(tmp_path)
    receiver = snapshots.receive(offer)
    receiver.write(0, content)
    with pytest.raises(BadSnapshot):
        receiver.install()
    assert snapshots.latest() is None
    assert names(tmp_path / "snapshots") == []
    assert snapshots.receive(offer).held == 0


def test_what_a_crash_left_aside_is_swept(tmp_path):
    """FC24: killed while it wrote, and while it received."""
    snapshots = store(tmp_path)
    snapshots.write(ONE)
    snapshots.receive(Offer(9, 1, 100, b"x" * 32)).write(0, b"part")
    (tmp_path / "snapshots" / "aside-write-9").write_bytes(b"part")
    latest = store(tmp_path).latest()
    assert latest is not None
    assert latest.index == 7
    assert names(tmp_path / "snapshots") == ["snapshot-00000000000000000007-2.snap"]


def test_a_damaged_snapshot_refuses_to_start(tmp_path):
    """FC19: its log is trimmed, so there is nothing to go back to."""
    store(tmp_path).write(ONE)
    (path,) = (tmp_path / "snapshots").iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(RefusedToStart, match=r"snapshot of this master is damaged.*--replace"):
        store(tmp_path).latest()


def test_a_newer_format_is_named(tmp_path):
    content = serialise(ONE).replace(b"SNAPSHOT-1", b"SNAPSHOT-2", 1)
    with pytest.raises(BadSnapshot, match="newer release"):
        parse(content)


def test_a_full_disk_ends_with_75(tmp_path, monkeypatch):
    """FC17: EX_TEMPFAIL, and no half of a snapshot stays."""
    snapshots = store(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("consensus.snapshots.os.fsync", full)
    with pytest.raises(JournalFailed) as caught:
        snapshots.write(ONE)
    assert caught.value.exit_code == 75
    assert names(tmp_path / "snapshots") == []
