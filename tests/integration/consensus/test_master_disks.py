"""What `mr-master` does whose disk is slow, fails, is full, read-only, or was tampered with (FC16 to FC20)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mr.cluster import Cluster
from mr.errors import Error
from mr.processes import Server
from tests.integration.consensus import masters
from tests.integration.consensus.masters import Prepared, until

pytestmark = pytest.mark.timeout(300)


def test_fsyncs_of_300_ms_cost_no_election(tmp_path: Path) -> None:
    """Issue 3 part 1: on the leader, on a follower, on all; jobs are accepted all the while."""
    with masters.shimmed(tmp_path / "c") as (cluster, shims), cluster.connect() as client:
        leader = cluster.await_leader()
        follower = masters.others(cluster, leader.id)[0]
        accepted = {masters.submit(client, "first")}
        for number, struck in enumerate(([leader.id], [follower], list(shims))):
            for name in struck:
                shims[name].delay_syncs(0.3)
            before = {name: shims[name].count("syncs_delayed") for name in struck}
            while any(shims[name].count("syncs_delayed") < before[name] + 5 for name in struck):
                accepted.add(masters.submit(client, f"slow-{number}-{len(accepted)}"))
            for name in struck:
                shims[name].delay_syncs(0.0)
        now = cluster.await_leader()
        assert (now.id, now.term) == (leader.id, leader.term)
        assert masters.jobs(cluster) == accepted


@pytest.mark.parametrize(
    ("error", "status", "said"), [(errno.EIO, 1, "disk failed"), (errno.ENOSPC, 75, "disk is full")]
)
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_failing_disk_ends_mr_master_loudly(
    tmp_path: Path, who: str, error: int, status: int, said: str
) -> None:
    """FC17: never acknowledges, says why, ends; the others go on; started again on a sound disk it is there again."""
    with masters.shimmed(tmp_path / "c") as (cluster, shims), cluster.connect() as client:
        accepted = {masters.submit(client, "first")}
        leader = cluster.await_leader()
        victim = leader.id if who == "leader" else masters.others(cluster, leader.id)[0]
        shims[victim].fail_writes(error)
        shims[victim].fail_syncs(error)
        for number in range(3):
            with contextlib.suppress(Error):
                accepted.add(masters.submit(client, f"during-{number}"))
        assert masters.ended(cluster, victim) == status
        assert f"fatal: the {said}" in cluster.masters[victim].log.read_text()
        accepted.add(masters.submit(client, "without"))
        shims[victim].fail_writes(0)
        shims[victim].fail_syncs(0)
        cluster.restart(victim)
        until(lambda: _caught_up(cluster, victim), "return")
        assert accepted <= masters.jobs(cluster)


@pytest.mark.root
def test_a_disk_that_turns_read_only_ends_it_too(tmp_path: Path) -> None:
    """FC18, as the kernel does it after an error of ext4; not by a remount, which is refused while a log is open."""
    with mounted(tmp_path / "c", "b") as (cluster, disk), cluster.connect() as client:
        accepted = {masters.submit(client, "first")}
        device = Path(_said("findmnt", "-no", "SOURCE", str(disk))).name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("1")
        with pytest.raises(OSError, match="Read-only"):
            (disk / "probe").touch()
        accepted |= {masters.submit(client, f"during-{number}") for number in range(3)}
        assert masters.ended(cluster, "b") == 1
        assert "fatal: the disk failed" in cluster.masters["b"].log.read_text()
        status, said = masters.refusal(cluster, "b")
        assert status == 1, "it does not start on such a disk"
        assert "Read-only file system" in said
        _repair(disk)
        cluster.restart("b")
        until(lambda: _caught_up(cluster, "b"), "return")
        assert masters.jobs(cluster) == accepted


@pytest.mark.root
def test_a_full_disk_ends_with_75_and_does_not_vote_before_there_is_room(tmp_path: Path) -> None:
    """FC17 on a file system of its own: `mr masters` shows the reason; with another master gone nothing commits."""
    with mounted(tmp_path / "c", "b", megabytes=300) as (cluster, disk), cluster.connect() as client:
        accepted = {masters.submit(client, "first")}
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        number = 0
        process = cluster.masters["b"].process
        assert process
        while process.poll() is None:
            accepted.add(masters.submit(client, f"r{number}" + "x" * 50))
            number += 1
            assert number < 3000, "the disk never filled"
        assert process.returncode == 75
        assert "fatal: the disk is full" in cluster.masters["b"].log.read_text()
        cluster.restart("b")
        waiting = until(lambda: _waits(cluster, "b"), "a reason")
        assert "waiting for disk space" in waiting
        # the leader connects again within two seconds, and calls it down until then
        until(lambda: "waiting for disk space" in masters.mr(cluster, "masters").stdout, "row", within_s=5.0)
        other = masters.others(cluster, "b")[0]
        cluster.kill(other)
        with cluster.connect(timeout=3) as impatient, pytest.raises(Error):
            masters.submit(impatient, "must-not-count", timeout=3)
        filler.unlink()
        until(lambda: _caught_up(cluster, "b"), "return")
        accepted.add(masters.submit(client, "after"))
        assert accepted <= masters.jobs(cluster)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _largest(folder: Path, pattern: str) -> Path:
    """What is in it matters."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


def _newer_format(path: Path) -> None:
    import zlib

    text, _, _ = path.read_text().rpartition("\n#")
    text = json.dumps({**json.loads(text), "format": 99})
    path.write_text(f"{text}\n#{zlib.crc32(text.encode()):08x}")


def _another_cluster(path: Path) -> None:
    import zlib

    text, _, _ = path.read_text().rpartition("\n#")
    text = json.dumps({**json.loads(text), "cluster_id": "deadbeefdeadbeef"})
    path.write_text(f"{text}\n#{zlib.crc32(text.encode()):08x}")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose master b is stopped, after some snapshots; the others run."""
    env = {"MR_MASTER__SNAPSHOT_EVERY": "40"}
    home = tmp_path_factory.mktemp("damage")
    with Cluster.spawn(masters=3, workers=0, home=home, env=env) as cluster:
        with cluster.connect() as client:
            for number in range(120):
                masters.submit(client, f"j{number}")
        until(lambda: masters.row(cluster, "b").snapshot_index, "snapshot")
        cluster.kill("b")
        # what a kill may leave in the middle of a snapshot, and larger than any that is whole
        (cluster.masters["b"].data_dir / "raft" / "snapshots" / "aside-write-999").write_bytes(bytes(1 << 20))
        yield cluster


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        (
            "a byte of the log",
            lambda raft: _flip(_largest(raft / "log" / "rocks", "*.log")),
            "log of this master is damaged",
        ),
        (
            "a byte of the manifest",
            lambda raft: _flip(_largest(raft / "log" / "rocks", "MANIFEST-*")),
            "is damaged",
        ),
        (
            "the log cut short",
            lambda raft: os.truncate(_largest(raft / "log" / "rocks", "*.log"), 100),
            "is damaged",
        ),
        (
            "CURRENT",
            lambda raft: (raft / "log" / "rocks" / "CURRENT").unlink(),
            "log of this master is damaged",
        ),
        (
            "the watermark",
            lambda raft: (raft / "log" / "watermark").unlink(),
            "log of this master is damaged",
        ),
        ("the whole log", lambda raft: shutil.rmtree(raft / "log"), "log of this master is damaged"),
        ("the identity", lambda raft: (raft / "identity").unlink(), "identity of this master is damaged"),
        (
            "a byte of the identity",
            lambda raft: _flip(raft / "identity"),
            "identity of this master is damaged",
        ),
        (
            "a byte of the snapshot",
            lambda raft: _flip(max((raft / "snapshots").glob("snapshot-*.snap"))),
            "is damaged",
        ),
        (
            "the snapshots",
            lambda raft: shutil.rmtree(raft / "snapshots"),
            "snapshots of this master is damaged",
        ),
        ("everything", shutil.rmtree, "start this master with --replace"),
        ("who may read it", lambda raft: raft.chmod(0o755), "chmod 700"),
        ("its owner", lambda raft: os.chown(raft, 12345, 12345), "belongs to user 12345"),
        ("a newer format", lambda raft: _newer_format(raft / "identity"), "newer release"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_message(
    stopped: Cluster, tmp_path: Path, what: str, change: Callable[[Path], None], said: str
) -> None:
    """FC19, FC20: it does not start, votes for nobody, and says what to do; the others do not notice."""
    if what == "its owner" and os.geteuid() != 0:
        pytest.skip("needs root")
    data = stopped.masters["b"].data_dir
    kept = tmp_path / "kept"
    shutil.copytree(data, kept, symlinks=True)
    term = stopped.await_leader().term
    try:
        change(data / "raft")
        status, text = masters.refusal(stopped, "b")
    finally:
        shutil.rmtree(data)
        shutil.copytree(kept, data, symlinks=True)
    assert status == 1, f"{what}: {text}"
    lines = [line for line in text.splitlines() if line.startswith("mr-master: ")]
    assert len(lines) == 1, text
    assert said in lines[0], f"{what}: {text}"
    assert "Traceback" not in text
    assert stopped.await_leader().term == term


def test_a_master_of_another_cluster_is_let_in_by_nobody(stopped: Cluster, tmp_path: Path) -> None:
    data = stopped.masters["b"].data_dir
    kept = tmp_path / "kept"
    shutil.copytree(data, kept, symlinks=True)
    term = stopped.await_leader().term
    try:
        _another_cluster(data / "raft" / "identity")
        stopped.restart("b")
        until(lambda: "belongs to cluster" in stopped.masters["b"].log_tail(3), "refusal")
        assert masters.row(stopped, "b").role == "follower"
        assert stopped.await_leader().term == term
    finally:
        stopped.kill("b")
        shutil.rmtree(data)
        shutil.copytree(kept, data, symlinks=True)


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    """FC25."""
    with Cluster.spawn(masters=1, workers=0, home=tmp_path / "c") as cluster:
        server = cluster.masters["a"]
        first = server.process
        done = subprocess.run(
            [*server.argv, "--listen", "127.0.0.1:0"],
            env=dict(server.env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "another master uses" in done.stderr
        assert first is not None
        assert first.poll() is None


def _caught_up(cluster: Cluster, name: str) -> bool:
    own, leader = masters.row(cluster, name), cluster.leader()
    return bool(own and leader and own.role in ("leader", "follower") and own.applied >= leader.commit)


def _waits(cluster: Cluster, name: str) -> str:
    own = masters.row(cluster, name)
    return str(own.note) if own and own.role == "waiting" else ""


@contextlib.contextmanager
def mounted(home: Path, name: str, *, megabytes: int = 400) -> Iterator[tuple[Cluster, Path]]:
    """Three masters; the data directory of `name` is an ext4 of its own, from a file."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("mkfs.ext4", "losetup", "findmnt")):
        pytest.skip("needs root and ext4 tools")
    home.mkdir(parents=True)
    disks: list[Path] = []

    def prepare(server: Server) -> None:
        if server.id == name:
            image = home / "image"
            with image.open("wb") as file:
                file.truncate(megabytes << 20)
            _said("mkfs.ext4", "-q", "-m", "0", str(image))
            server.data_dir.mkdir(parents=True, mode=0o700)
            _said("mount", "-o", "loop,errors=remount-ro", str(image), str(server.data_dir))
            disks.append(server.data_dir)
            (server.data_dir / "lost+found").rmdir()
            server.data_dir.chmod(0o700)

    try:
        with Cluster.spawn(masters=3, workers=0, home=home, ground=Prepared(prepare)) as cluster:
            yield cluster, disks[0]
    finally:
        for disk in disks:
            _said("umount", "-l", str(disk))


def _repair(disk: Path) -> None:
    """What an operator does: a copy of the disk on a sound one, fsck, mount. (The old one stays read-only as long as
    anybody holds it, a mount namespace for one.)"""
    device = _said("findmnt", "-no", "SOURCE", str(disk))
    image = _said("losetup", "-nO", "BACK-FILE", device)
    _said("umount", "-l", str(disk))
    sound = shutil.copyfile(image, f"{image}.sound")
    subprocess.run(["fsck.ext4", "-fy", sound], capture_output=True, check=False)
    _said("mount", "-o", "loop,errors=remount-ro", sound, str(disk))


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()
