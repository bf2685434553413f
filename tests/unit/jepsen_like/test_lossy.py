"""The file system that forgets: what it must keep, what it must lose (FC5), and what our own stores make of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.datadir import DataDir
from jepsen_like import lossy
from jepsen_like.leftovers import Marker
from master.blobs import BlobStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[lossy.LossyDisk]:
    if why := lossy.possible(tmp_path):
        pytest.skip(f"no power can be cut here: {why}")
    marker = Marker()
    made = lossy.LossyDisk(marker, tmp_path / "lossyfs", tmp_path / "backing", tmp_path / "disk")
    yield made
    marker.sweep()
    made.close()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def stood(disk: lossy.LossyDisk) -> None:
    (disk.mount / "a").write_text("old")
    sync(disk.mount / "a")
    sync(disk.mount)


def appended(folder: Path) -> None:
    with (folder / "a").open("a") as file:
        file.write(" and new")


def overwritten(folder: Path) -> None:
    with (folder / "a").open("r+b") as file:
        file.write(b"OLD")


def moved_over(folder: Path) -> None:
    (folder / "b").write_text("new")
    sync(folder / "b")
    (folder / "b").rename(folder / "a")


def written_aside(folder: Path) -> None:
    (folder / "b").write_text("new")
    sync(folder / "b")


@pytest.mark.parametrize(
    ("change", "settled"),
    [
        (appended, lambda folder: sync(folder / "a")),
        (overwritten, lambda folder: sync(folder / "a")),
        (lambda folder: os.truncate(folder / "a", 1), lambda folder: sync(folder / "a")),
        (moved_over, sync),
        (written_aside, sync),
        (lambda folder: (folder / "a").unlink(), sync),
        (lambda folder: (folder / "d").mkdir(), sync),
    ],
    ids=["append", "overwrite", "truncate", "rename", "create", "unlink", "mkdir"],
)
def test_a_change_is_gone_unless_it_was_synced(disk, change, settled):
    """The strict reading of POSIX: data by fsync of the file, names by fsync of the directory."""

    def seen() -> dict[str, str]:
        entries = [path for path in disk.mount.iterdir() if not path.name.startswith(".")]
        return {path.name: path.read_text() if path.is_file() else "/" for path in entries}

    stood(disk)
    before = seen()
    change(disk.mount)
    assert seen() != before
    lost = disk.lose()
    assert lost["bytes"] + lost["names"] > 0, "what was lost is counted"
    assert seen() == before
    change(disk.mount)
    after = seen()
    settled(disk.mount)
    disk.lose()
    assert seen() == after


def test_a_torn_write_keeps_a_part_of_what_was_appended(disk):
    stood(disk)
    sizes = set()
    for seed in range(1, 30):
        with (disk.mount / "a").open("ab") as file:
            file.truncate(3)
            file.flush()
            os.fsync(file.fileno())
            file.write(b"x" * 100)
        disk.lose(torn=seed)
        sizes.add((disk.mount / "a").stat().st_size)
    assert len(sizes) > 5
    assert min(sizes) >= 3
    assert max(sizes) <= 103


def test_read_only_refuses_and_counts(disk):
    stood(disk)
    disk.read_only(True)
    with pytest.raises(OSError, match="Read-only"):
        (disk.mount / "a").write_text("new")
    disk.read_only(False)
    assert disk.lost()["refused"] > 0
    assert (disk.mount / "a").read_text() == "old"


def test_a_new_state_directory_survives_a_power_cut(disk):
    """C8, FC5: `raft/` itself, made for the first start, must be durable before anything is acknowledged in it."""
    members = ("a", "b", "c")
    first = DataDir(disk.mount / "raft", "a", members)
    nonce = first.identity.nonce
    journal = first.open_log()
    journal.setCurrentTerm(7, "a")
    journal.add(b"x", 1, 7)
    journal.sync()
    journal._destroy()
    first.close()
    disk.lose()
    second = DataDir(disk.mount / "raft", "a", members)
    assert second.identity.nonce == nonce
    again = second.open_log()
    assert again.getCurrentTerm() == 7
    assert len(again) == 1
    again._destroy()
    second.close()


async def test_a_blob_that_was_taken_survives_a_power_cut(disk):
    """C8: what a job names must be there when the job is."""
    blobs = BlobStore(disk.mount / "blobs", limit_bytes=1 << 20, each_bytes=1 << 20)
    blobs.open()
    digest = await blobs.put_bytes(b"code")
    blobs.close()
    disk.lose()
    blobs = BlobStore(disk.mount / "blobs", limit_bytes=1 << 20, each_bytes=1 << 20)
    blobs.open()
    assert await blobs.read_all(digest) == b"code"
    blobs.close()


def test_a_disk_that_was_emptied_and_used_anew_does_not_remember_what_was_there_before(
    disk: lossy.LossyDisk,
) -> None:
    """FC20, then FC5: the damaged state of a replaced disk must not come back with a power cut."""
    folder = disk.mount / "raft"
    folder.mkdir()
    DataDir(folder, "a", ("a",)).close()
    for entry in disk.mount.iterdir():
        shutil.rmtree(entry)
    for number in range(8):
        (disk.mount / f"{number}").mkdir()  # takes the inode numbers that were given back
    folder.mkdir()
    second = DataDir(folder, "a", ("a",))
    second.become(replace(second.identity, generation=1, cluster_id="X"))
    second.close()
    disk.lose()
    again = DataDir(folder, "a", ("a",))
    assert again.identity == second.identity
    again.close()
