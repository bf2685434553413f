"""A cluster is founded once; a lost disk never comes back as a founder (C2, C8, FC20; design.md section 10)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.datadir import Identity
from consensus.founding import Join, Stop, Wait, decide, identification
from consensus.handshake import Disk

MEMBERS = ("a", "b", "c")
IDS = (f"new{number}" for number in itertools.count())


def empty(member: str, nonce: int = 0, members: tuple[str, ...] = MEMBERS) -> Identity:
    return Identity(member=member, members=members, nonce=nonce or ord(member))


def founded(member: str, *, cluster: str = "X", nonces: str = "abc", nonce: int = 0) -> Identity:
    return replace(empty(member, nonce), cluster_id=cluster, founders={one: ord(one) for one in nonces})


def answers(*identities: Identity) -> dict:
    return {identity.member: identification(identity) for identity in identities}


def test_the_first_founds_when_all_are_empty():
    decision = decide(empty("a"), answers(empty("b"), empty("c")), replacing=False, new_id=next(IDS))
    assert isinstance(decision, Join)
    assert decision.voter
    assert decision.identity.cluster_id
    assert decision.identity.founders == {"a": 97, "b": 98, "c": 99}


def test_one_master_founds_at_once():
    decision = decide(empty("a", members=("a",)), {}, replacing=False, new_id=next(IDS))
    assert isinstance(decision, Join)
    assert decision.identity.founders == {"a": 97}


@pytest.mark.parametrize(
    ("me", "others", "reason"),
    [
        ("a", [], "waiting for b, c"),
        ("a", [empty("b")], "waiting for c"),  # a silent peer may know a cluster
        ("b", [empty("a")], "waiting for c"),
        ("b", [empty("a"), empty("c")], "waiting for a to found"),
    ],
)
def test_until_all_are_there_nobody_founds(me, others, reason):
    decision = decide(empty(me), answers(*others), replacing=False, new_id=next(IDS))
    assert isinstance(decision, Wait)
    assert reason in decision.reason


@pytest.mark.parametrize("known_by", [["a"], ["c"], ["a", "c"]])
def test_who_was_there_at_the_founding_joins_late(known_by):
    """It crashed before it heard the id; its disk has promised nothing yet, and is the one that was counted."""
    decision = decide(
        empty("b"), answers(*(founded(one) for one in known_by)), replacing=False, new_id=next(IDS)
    )
    founders = {"a": 97, "b": 98, "c": 99}
    met = {"a": Disk(0, 97), "c": Disk(0, 99)}
    assert decision == Join(replace(empty("b"), cluster_id="X", founders=founders, met=met), voter=True)


def test_a_lost_disk_stops_and_names_the_command():
    decision = decide(
        empty("b", nonce=1), answers(founded("a"), founded("c")), replacing=False, new_id=next(IDS)
    )
    assert isinstance(decision, Stop)
    assert "--replace" in decision.reason


def test_a_lost_disk_comes_back_as_a_non_voter_when_told_to():
    decision = decide(empty("b", nonce=1), answers(founded("c")), replacing=True, new_id=next(IDS))
    assert isinstance(decision, Join)
    assert not decision.voter
    assert decision.identity.cluster_id == "X"


@pytest.mark.parametrize(
    ("promise", "met", "born", "generation"),
    [
        ("the first replacement comes after the founder", {}, 0, 1),
        ("a later one after the earlier", {"c": Disk(7, 5)}, 0, 8),
        ("also after one that nobody who answers has met", {"c": Disk(7, 5)}, 1000, 1000),
        ("a clock that went back does not matter", {"c": Disk(2000, 5)}, 1000, 2001),
    ],
)
def test_a_replacement_is_newer_than_every_disk_before_it(promise, met, born, generation):
    """C13, FC27."""
    mine = replace(empty("c", nonce=1), born=born)
    others = answers(replace(founded("a"), met=met), founded("b"))
    decision = decide(mine, others, replacing=True, new_id=next(IDS))
    assert isinstance(decision, Join)
    assert decision.identity.generation == generation, promise
    assert decision.identity.met == {"a": Disk(0, 97), "b": Disk(0, 98)}


def test_a_founder_that_was_replaced_before_it_heard_the_id_stays_out():
    """Its disk is among the founders', but another one has taken its place."""
    others = answers(replace(founded("a"), met={"b": Disk(1, 55)}), founded("c"))
    decision = decide(empty("b"), others, replacing=False, new_id=next(IDS))
    assert isinstance(decision, Stop)
    assert "--replace" in decision.reason


def test_a_replacement_never_founds():
    assert isinstance(
        decide(empty("a"), answers(empty("b"), empty("c")), replacing=True, new_id=next(IDS)), Wait
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (empty("c"), "'c' answers"),  # the address of b leads to c
        (empty("b", members=("a", "b")), "other members in --peers"),
    ],
)
def test_a_peer_that_is_not_who_we_were_told_stops_us(answer, said):
    decision = decide(empty("a"), {"b": identification(answer)}, replacing=False, new_id=next(IDS))
    assert isinstance(decision, Stop)
    assert said in decision.reason


def test_two_clusters_are_never_mixed():
    decision = decide(
        empty("b"), answers(founded("a"), founded("c", cluster="Y")), replacing=False, new_id=next(IDS)
    )
    assert isinstance(decision, Stop)
    assert "different clusters" in decision.reason


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_schedule_founds_two_clusters_or_lets_a_lost_disk_vote(random):
    """Any order of asking, of answers lost, of restarts and of lost disks."""
    nonces = itertools.count(1)
    disks = {one: replace(empty(one), nonce=next(nonces)) for one in MEMBERS}
    lost: set[tuple[str, str]] = set()  # (member, cluster) whose disk is gone
    for _ in range(40):
        one = random.choice(MEMBERS)
        if random.random() < 0.1:
            lost.add((one, disks[one].cluster_id))
            disks[one] = replace(empty(one), nonce=next(nonces))
        if disks[one].cluster_id:
            continue
        heard = [other for other in MEMBERS if other != one and random.random() < 0.8]
        replacing = random.random() < 0.3
        decision = decide(
            disks[one], answers(*(disks[other] for other in heard)), replacing=replacing, new_id=next(IDS)
        )
        if isinstance(decision, Join):
            disks[one] = decision.identity
            if (one, decision.identity.cluster_id) in lost:
                assert not decision.voter, "an old member votes on an empty disk"
        living = {disk.cluster_id for disk in disks.values() if disk.cluster_id}
        assert len(living) <= 1, f"two clusters at once: {living}"
