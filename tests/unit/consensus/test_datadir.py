"""Whose directory it is, and who may use it now (FC20, FC25; issue 3 part 1)."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from consensus.datadir import DataDir, _write_identity, read_identity
from consensus.handshake import Disk, Refused
from consensus.replica import RefusedToStart

MEMBERS = ("a", "b", "c")


def used(directory, *, entries: int = 3) -> None:
    """The directory of member a after it took part."""
    opened = DataDir(directory, "a", MEMBERS)
    opened.become(replace(opened.identity, cluster_id="X"))
    journal = opened.open_log()
    journal.setCurrentTerm(1, "a")
    for index in range(1, entries + 1):
        journal.add(b"x", index, 1)
    journal._destroy()
    opened.close()


def test_a_new_directory_is_private_and_remembers_who_it_is_for(tmp_path):
    path = tmp_path / "deep" / "data"
    first = DataDir(path, "a", MEMBERS)
    nonce = first.identity.nonce
    first.close()
    assert path.stat().st_mode & 0o777 == 0o700
    second = DataDir(path, "a", MEMBERS)
    assert second.identity.nonce == nonce, "the nonce is drawn once for a disk"
    second.close()


def test_a_second_process_is_refused(tmp_path):
    """FC25."""
    first = DataDir(tmp_path / "d", "a", MEMBERS)
    with pytest.raises(RefusedToStart, match="in use by process"):
        DataDir(tmp_path / "d", "a", MEMBERS)
    first.close()
    DataDir(tmp_path / "d", "a", MEMBERS).close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.chmod(0o750), "chmod 700"),
        (lambda d: _write_identity(d, replace(read_identity(d), format=99)), "newer release"),
        (lambda d: (d / "identity").write_text("{}"), "identity of this master is damaged"),
        (lambda d: (d / "identity").unlink(), "identity of this master is damaged"),
        (lambda d: shutil.rmtree(d / "log"), "log of this master is damaged"),
        (lambda d: shutil.rmtree(d / "snapshots"), "snapshots of this master is damaged"),
    ],
)
def test_a_directory_that_was_tampered_with_is_refused(tmp_path, change, said):
    directory = tmp_path / "d"
    used(directory)
    change(directory)
    with pytest.raises(RefusedToStart, match=said):
        DataDir(directory, "a", MEMBERS)
    directory.chmod(0o700)


@pytest.mark.parametrize(
    ("member", "members", "said"),
    [("b", MEMBERS, "belongs to master 'a'"), ("a", ("a", "b", "c", "d"), "mr master recover")],
)
def test_somebody_elses_directory_is_refused(tmp_path, member, members, said):
    used(tmp_path / "d")
    with pytest.raises(RefusedToStart, match=said):
        DataDir(tmp_path / "d", member, members)


@pytest.mark.parametrize("step", ["nothing", "log begun", "log made"])
def test_a_crash_while_the_directory_was_made_is_no_damage(tmp_path, step):
    directory = tmp_path / "d"
    DataDir(directory, "a", MEMBERS).close()
    (directory / "identity").unlink()
    if step == "log begun":
        (directory / "log" / "watermark").unlink()
    elif step == "nothing":
        shutil.rmtree(directory / "log")
    DataDir(directory, "a", MEMBERS).close()


def test_a_refusal_leaves_the_lock_free(tmp_path):
    used(tmp_path / "d")
    for _ in range(2):
        with pytest.raises(RefusedToStart, match="belongs to master"):
            DataDir(tmp_path / "d", "b", MEMBERS)
    DataDir(tmp_path / "d", "a", MEMBERS).close()


def test_who_was_met_is_remembered_and_an_older_disk_of_it_refused(tmp_path):
    """C13, FC27: also after a restart; a machine that was given up and comes back is not let in."""
    used(tmp_path / "d")
    first = DataDir(tmp_path / "d", "a", MEMBERS)
    first.meet("b", Disk(0, 5))
    first.meet("c", Disk(0, 6))
    first.meet("b", Disk(9, 7))
    first.close()
    second = DataDir(tmp_path / "d", "a", MEMBERS)
    assert second.identity.met == {"b": Disk(9, 7), "c": Disk(0, 6)}
    for disk in (Disk(0, 5), Disk(9, 8)):
        with pytest.raises(Refused, match="was replaced"):
            second.meet("b", disk)
    second.meet("b", Disk(9, 7))
    second.close()
