"""What must not happen when little goes wrong: no election without need (C13, C14, FC16), on virtual time."""

from __future__ import annotations

import pytest

from tests.simulation.consensus.plan import Fault, Profile
from tests.simulation.consensus.world import World


def world(seed: int, members: int, faults: list[Fault]) -> World:
    kind = Profile(members=members, network="tcp", snapshots=True, small_appends=False, disk_losses=False)
    made = World(seed, kind, faults)
    made.network.calm = True  # a few milliseconds, in order, nothing lost
    return made


@pytest.mark.parametrize("members", [1, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_cluster_keeps_its_first_leader(seed: int, members: int) -> None:
    quiet = world(seed, members, [])
    quiet.run()
    assert quiet.counts["leaders"] == 1


@pytest.mark.parametrize("slow", ["a", "ab", "abc"])
@pytest.mark.parametrize("seed", range(5))
def test_a_disk_that_takes_300_ms_causes_no_election(seed: int, slow: str) -> None:
    """FC16: as long as the shortest election timeout; heartbeats and their answers do not wait for it."""
    faults = [Fault(1.2, "slow_disk", (name, 5.0)) for name in slow]
    tired = world(seed, 3, faults)
    tired.run()
    assert tired.counts["leaders"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_member_that_comes_back_deposes_nobody(seed: int) -> None:
    """C13, pre-vote: whichever follower was away, the leader and its term stay."""
    returned = world(seed, 3, [])
    returned.clock = 0.0
    for name in "abc":
        returned.at(2.0, lambda name=name: _cut_follower(returned, name))
    returned.run()
    assert returned.counts["leaders"] == 1
    assert max(returned.checker.leaders) == min(returned.checker.leaders)


def _cut_follower(one: World, name: str) -> None:
    leader = one.leader()
    followers = sorted(m for m in one.members if leader is not None and m != leader.name)
    if followers and name == followers[0]:
        one.fault_partition((name,), 3.0, "both")


@pytest.mark.parametrize("members", [3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_a_leader_that_dies_is_replaced_within_a_second(seed: int, members: int) -> None:
    """C14: one reset connection, one pre-vote, one election."""
    died = world(seed, members, [Fault(2.0, "crash_leader", (3.0,))])
    times: list[float] = []
    original = died.checker.leads

    def leads(member: str, life: int, term: int, log: object) -> None:
        times.append(died.clock)
        original(member, life, term, log)

    died.checker.leads = leads  # type: ignore[method-assign]
    died.run()
    assert died.counts["leaders"] == 2
    assert times[1] - 2.0 < 1.0


@pytest.mark.parametrize("seed", range(10))
def test_a_cut_off_leader_gives_up_within_its_lease(seed: int) -> None:
    """C12, FC7: counted from the moment of the cut; a tick and a heartbeat are allowed on top."""
    cut = world(seed, 3, [])
    seen: dict[str, float] = {}

    def strike() -> None:
        leader = cut.leader()
        assert leader is not None
        seen["name"], seen["at"] = leader.name, cut.clock  # type: ignore[assignment]
        cut.fault_partition((leader.name,), 3.0, "both")
        cut.at(cut.peers[leader.name].node.config.timing.lease_s + 0.1, look)

    def look() -> None:
        seen["leads"] = cut.peers[str(seen["name"])].node.leading is not None

    cut.at(2.0, strike)
    cut.run()
    assert seen["leads"] is False
