"""What a replica stands on when it starts, after whatever a crash left (hazard 3; FC20, FC24)."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from consensus.config import ReplicaConfig
from consensus.datadir import DataDir
from consensus.opening import Parts, open_parts
from consensus.replica import RefusedToStart
from consensus.snapshots import Snapshot


def config(
    directory: Path, member: str = "a", *, peers: dict[str, str] | None = None, **more
) -> ReplicaConfig:
    peers = peers or {member: "127.0.0.1:0"}
    return ReplicaConfig(id=member, peers=peers, listen=peers[member], data_dir=directory / member, **more)


def opened(configuration: ReplicaConfig) -> Parts:
    return open_parts(configuration, lambda _: None, threading.Event())


def addresses(*members: str) -> dict[str, str]:
    sockets = {member: socket.create_server(("127.0.0.1", 0)) for member in members}
    found = {member: f"127.0.0.1:{one.getsockname()[1]}" for member, one in sockets.items()}
    for one in sockets.values():
        one.close()
    return found


def test_a_single_master_founds_at_once_and_keeps_its_cluster(tmp_path):
    first = opened(config(tmp_path))
    first.close()
    second = opened(config(tmp_path))
    second.close()
    assert first.cluster_id == second.cluster_id != ""
    assert second.journal[:] == [(b"\x01", 1, 0)]


def test_three_found_one_cluster_together(tmp_path):
    peers = addresses("a", "b", "c")
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda one: opened(config(tmp_path, one, peers=peers)), peers))
    for one in parts:
        one.close()
    assert len({one.cluster_id for one in parts}) == 1
    assert all(one.journal.voter for one in parts)


def test_a_master_that_waits_for_its_peers_says_for_whom_and_can_be_stopped(tmp_path):
    said, stopping = [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        stopping.set()

    with pytest.raises(RefusedToStart, match="stopped"):
        open_parts(config(tmp_path, peers=addresses("a", "b")), say, stopping)
    assert "waiting for b" in said[0]


def test_a_lost_disk_comes_back_without_a_vote_and_that_is_durable(tmp_path):
    peers = addresses("a", "b")
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda one: opened(config(tmp_path, one, peers=peers)), peers)
    b.close()
    lost = tmp_path / "lost"
    with pytest.raises(RefusedToStart, match="--replace"):
        opened(config(lost, "b", peers=peers))
    for replacing in (True, False):  # once told, it does not have to be told again, and is still no voter
        again = opened(config(lost, "b", peers=peers, replace=replacing))
        assert again.cluster_id == a.cluster_id
        assert not again.journal.voter
        again.close()
    a.close()


def used(directory: Path, *, last: int, snapshot: int = 0, first: int = 1) -> ReplicaConfig:
    """A single master's directory with entries from `first` to `last`, and perhaps a snapshot."""
    configuration = config(directory)
    opened(configuration).close()
    inside = DataDir(configuration.data_dir, "a", ("a",))
    journal = inside.open_log()
    journal.clear()
    for index in range(first, last + 1):
        journal.add(b"\x00x", index, int(index > 1))
    if snapshot:
        inside.open_snapshots().write(Snapshot(snapshot, 1, b"\x01", b"state")).close()
    journal._destroy()
    inside.close()
    return configuration


@pytest.mark.parametrize(
    ("last", "snapshot", "first", "log"),
    [
        (9, 6, 1, (1, 9)),  # killed between the snapshot's rename and the trimming of the log
        (9, 6, 5, (5, 9)),
        (4, 6, 1, (6, 6)),  # killed between a received snapshot's rename and the change of the log
    ],
)
def test_log_and_snapshot_agree_after_a_crash_between_them(tmp_path, last, snapshot, first, log):
    parts = opened(used(tmp_path, last=last, snapshot=snapshot, first=first))
    try:
        assert (parts.journal[0][1], parts.journal[-1][1]) == log
        assert parts.journal.getRaftCommitIndex() >= snapshot
        assert parts.journal.durable_index == parts.journal[-1][1]
    finally:
        parts.close()


@pytest.mark.parametrize(
    ("snapshot", "first", "said"),
    [(0, 5, "there is no snapshot"), (3, 5, "begins at entry 5, but the newest snapshot ends at 3")],
)
def test_a_gap_between_snapshot_and_log_is_refused(tmp_path, snapshot, first, said):
    configuration = used(tmp_path, last=9, snapshot=snapshot, first=first)
    for _ in range(2):  # and everything is let go again
        with pytest.raises(RefusedToStart, match=said):
            opened(configuration)


def test_a_log_without_a_cluster_is_refused(tmp_path):
    """Half of a recovery, or an identity put back by hand: it must not found a cluster with what it holds."""
    configuration = config(tmp_path)
    inside = DataDir(configuration.data_dir, "a", ("a",))
    journal = inside.open_log()
    journal.add(b"\x01", 1, 0)
    journal.add(b"\x00x", 2, 1)
    journal._destroy()
    inside.close()
    with pytest.raises(RefusedToStart, match="names no cluster"):
        opened(configuration)
