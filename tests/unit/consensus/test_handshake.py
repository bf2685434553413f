"""Who may exchange frames with whom: a table (S1, S2, S3; hazard 28)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.handshake import Disk, Hello, Refused, check, is_newer, members_digest, read

MEMBERS = ("a", "b", "c")
MINE = Hello("a", 11, 1, "X", members_digest(MEMBERS))
THEIRS = Hello("b", 22, 5, "X", members_digest(MEMBERS), disk=Disk(3, 77))
B = ("master", "b")


@pytest.mark.parametrize("certified", [B, None])
def test_a_member_of_this_cluster_is_let_in(certified):
    check(MINE, THEIRS, MEMBERS, certified)


@pytest.mark.parametrize(
    ("theirs", "certified", "said"),
    [
        (THEIRS, ("worker", "b"), "certificate is of worker"),
        (THEIRS, ("client", "b"), "certificate is of client"),
        (THEIRS, ("master", "c"), "certificate is of master 'c'"),
        (replace(THEIRS, member="a"), ("master", "a"), "not another member"),
        (replace(THEIRS, member="z"), ("master", "z"), "not another member"),
        (replace(THEIRS, cluster_id="Y"), B, "belongs to cluster Y"),
        (replace(THEIRS, cluster_id=""), B, "belongs to cluster none yet"),
        (replace(THEIRS, members=members_digest("abcd")), B, "other members"),
        (replace(THEIRS, protocol=2), B, "protocol 2"),
    ],
)
def test_who_is_not_is_told_why(theirs, certified, said):
    with pytest.raises(Refused, match=said):
        check(MINE, theirs, MEMBERS, certified)


def test_before_the_founding_nobody_is_let_in():
    with pytest.raises(Refused, match="none yet"):
        check(replace(MINE, cluster_id=""), replace(THEIRS, cluster_id=""), MEMBERS, B)


def test_the_introduction_survives_the_wire():
    assert read(THEIRS.metadata()) == THEIRS


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        tuple(THEIRS.metadata())[:-1],
        (("raft-life", "x"), *(pair for pair in THEIRS.metadata() if pair[0] != "raft-life")),
    ],
)
def test_half_an_introduction_is_none(metadata):
    with pytest.raises(Refused):
        read(metadata)


def test_the_set_of_members_counts_and_not_its_order():
    assert members_digest(["b", "a"]) == members_digest(["a", "b"])
    assert members_digest(["a", "b"]) != members_digest(["a", "b", "c"])
    assert members_digest(["ab", "c"]) != members_digest(["a", "bc"])


@pytest.mark.parametrize(
    ("promise", "met", "theirs", "newer"),
    [
        ("who was never met is remembered", None, Disk(0, 5), True),
        ("the one we know is let in", Disk(3, 5), Disk(3, 5), False),
        ("its replacement is remembered instead", Disk(3, 5), Disk(4, 1), True),
    ],
)
def test_the_newest_disk_of_a_member_is_let_in(promise, met, theirs, newer):
    assert is_newer("b", met, theirs) is newer, promise


@pytest.mark.parametrize(
    "theirs",
    [Disk(2, 5), Disk(0, 9), Disk(3, 6)],  # the last: two replacements that did not know of each other
)
def test_a_disk_that_was_replaced_is_not(theirs):
    """C2, C13, FC27: two disks under one id could give the vote of that id twice."""
    with pytest.raises(Refused, match="was replaced"):
        is_newer("b", Disk(3, 5), theirs)
