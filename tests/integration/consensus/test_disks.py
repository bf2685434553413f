"""Slow, failing, full and lost disks under real replicas (FC16, FC17, FC20, FC21, FC25; issue 3 part 1)."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.consensus.cluster import IDS, Cluster, Gone, until


@pytest.mark.parametrize("slow", ["leader", "follower", "all"])
def test_a_slow_disk_causes_no_election(tmp_path, slow):
    """Every fsync takes 300 ms longer: nobody loses patience; what a fast majority has is committed."""
    with Cluster(tmp_path / "c", shims=True) as cluster:
        cluster.start()
        leader = cluster.leader()
        cluster.propose("first")
        term = cluster.terms()
        follower = next(me for me in IDS if me != leader)
        struck = {"leader": [leader], "follower": [follower], "all": list(IDS)}[slow]
        for me in struck:
            cluster.shims[me].delay_syncs(0.3)
        end, count = time.monotonic() + 4.0, 0
        while time.monotonic() < end:
            cluster.propose(f"r{count}:x")
            count += 1
        assert all(cluster.shims[me].count("syncs_delayed") > 3 for me in struck), "the disks were slow"
        for me in struck:
            cluster.shims[me].delay_syncs(0.0)
        assert cluster.terms() == term
        assert cluster.leader() == leader
        assert cluster.converged()["count"] == count + 1


@pytest.mark.parametrize(("error", "status"), [(errno.EIO, 1), (errno.ENOSPC, 75)])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_failing_disk_ends_the_process_loudly(tmp_path, error, status, who):
    """It acknowledges nothing more; the others go on; it comes back when the disk is well again (FC17)."""
    with Cluster(tmp_path / "c", shims=True) as cluster:
        cluster.start()
        leader = cluster.leader()
        victim = leader if who == "leader" else next(me for me in IDS if me != leader)
        cluster.propose("before")
        shim = cluster.shims[victim]
        shim.fail_writes(error) if error == errno.ENOSPC else shim.fail_syncs(error)
        process = cluster.processes.pop(victim)
        try:
            process.ask("propose", command="during", timeout_s=1.0)
        except Gone:
            pass
        cluster.propose("during")
        assert process.wait() == status
        said = process.log.read_text()
        assert ("the disk is full" if error == errno.ENOSPC else "the disk failed") in said
        shim.fail_writes(0)
        shim.fail_syncs(0)
        cluster.start(victim)
        cluster.propose("after")
        assert cluster.converged()["count"] == 3


def test_without_its_reserve_a_master_waits_and_does_not_vote(tmp_path):
    with Cluster(tmp_path / "c") as cluster:
        cluster.start()
        leader = cluster.leader()
        victim, other = (me for me in IDS if me != leader)
        cluster.kill(victim)
        cluster.start(victim, reserve_bytes=1 << 60)
        until(lambda: "waiting for disk space" in cluster.status(victim)["note"], "reason")
        assert cluster.status(victim)["role"] == "waiting"
        cluster.kill(other)
        reply = cluster.processes[leader].ask("propose", command="x", timeout_s=1.5)
        assert "error" in reply, "a master that waits for space must not count"
        cluster.start(other)
        cluster.propose("y")


@pytest.mark.root
def test_a_really_full_disk_ends_with_75_and_waits_for_room(tmp_path):
    """FC17 on a file system of its own: exit 75, wait with a reason, rejoin when there is room."""
    with Cluster(tmp_path / "c", reserve_bytes=32 << 20) as cluster, small_disk(tmp_path / "c" / "c") as disk:
        cluster.start()
        cluster.leader()
        cluster.propose("before")
        filler = disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb") as file:
            while True:
                file.write(bytes(1 << 20))
        process = cluster.processes["c"]
        number = 0
        while process.popen.poll() is None:
            cluster.propose(f"r{number}:" + "x" * 100_000)
            number += 1
            assert number < 1000, "the disk never filled"
        assert cluster.processes.pop("c").wait() == 75
        cluster.start("c")
        until(lambda: "waiting for disk space" in cluster.status("c")["note"], "reason")
        cluster.propose("meanwhile")
        filler.unlink()
        until(lambda: cluster.status("c")["role"] in ("follower", "leader"), "return")
        assert cluster.converged()["count"] == number + 2
        cluster.kill("c")


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 200 MB at `directory`."""
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m,mode=0700", "none", str(directory)]
    subprocess.run(mount, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_second_process_on_the_same_directory_is_refused(tmp_path):
    """FC25."""
    with Cluster(tmp_path / "c") as cluster:
        cluster.start()
        cluster.leader()
        first = cluster.processes["a"]
        cluster.start("a")
        second, cluster.processes["a"] = cluster.processes["a"], first
        assert second.wait() == 1
        assert "in use by process" in second.log.read_text()
        cluster.propose("still here")


def test_a_lost_disk_stays_out_until_it_is_told_to_come_back(tmp_path):
    """FC20: never as an empty old member; then as a non-voter, then as a voter again."""
    with Cluster(tmp_path / "c") as cluster:
        cluster.start()
        leader = cluster.leader()
        for number in range(20):
            cluster.propose(f"r{number}")
        victim, other = (me for me in IDS if me != leader)
        cluster.kill(victim)
        shutil.rmtree(tmp_path / "c" / victim)
        cluster.start(victim)
        process = cluster.processes.pop(victim)
        assert process.wait() == 1
        assert "--replace" in process.log.read_text()
        cluster.start(victim, replace=True)
        cluster.propose("more")
        until(lambda: cluster.status(victim)["role"] == "follower", "vote given back")
        assert cluster.converged()["count"] == 21
        cluster.kill(other)
        cluster.propose("the replaced one counts again")


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_jump_of_the_wall_clock_moves_nobody(tmp_path, seconds):
    """FC21: elections and leases use the monotonic clock."""
    with Cluster(tmp_path / "c", shims=True) as cluster:
        cluster.start()
        leader, term = cluster.leader(), cluster.terms()
        cluster.shims[leader].shift_clock(seconds)
        for number in range(50):
            cluster.propose(f"r{number}")
        assert cluster.shims[leader].count("clocks_shifted") > 0
        assert (cluster.leader(), cluster.terms()) == (leader, term)
