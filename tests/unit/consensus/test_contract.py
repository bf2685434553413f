"""The contract of `consensus.replica`: every row is promised by the in-memory replica and by the real one alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from consensus.memory import MemoryCluster
from consensus.replica import CommitUnknown, ConsensusError, NotLeader, Replica, Unavailable
from tests.unit.consensus import rig


class World(Protocol):
    """A cluster of three, of either kind, and what a test does to it."""

    machines: dict[str, Any]
    replicas: dict[str, Any]

    async def start(self, *ids: str) -> None: ...
    async def leader(self, among: list[str] | None = None) -> Replica: ...
    async def cut(self, replica_id: str) -> None: ...
    async def heal(self, replica_id: str) -> None: ...
    async def kill(self, replica_id: str) -> None: ...
    async def close(self) -> None: ...


class MemoryWorld:
    def __init__(self, root: Path) -> None:
        self.cluster = MemoryCluster(["a", "b", "c"], seed=1)
        self.machines: dict[str, Any] = {}
        self.replicas: dict[str, Any] = {}

    async def start(self, *ids: str) -> None:
        for i in ids or ("a", "b", "c"):
            self.machines[i] = rig.Register()
            self.replicas[i] = self.cluster.replica(i, self.machines[i])
            await self.replicas[i].start()

    async def leader(self, among: list[str] | None = None) -> Replica:
        if self.cluster.leader not in self.cluster.reachable():
            self.cluster.elect()
        await asyncio.sleep(0.01)
        return self.replicas[self.cluster.leader or ""]

    async def cut(self, replica_id: str) -> None:
        self.cluster.isolate(replica_id)

    async def heal(self, replica_id: str) -> None:
        self.cluster.heal(replica_id)

    async def kill(self, replica_id: str) -> None:
        await self.replicas.pop(replica_id).stop()

    async def close(self) -> None:
        for i in list(self.replicas):
            await self.kill(i)


class RealWorld(rig.Cluster):
    async def cut(self, replica_id: str) -> None:
        self.hub.sever(replica_id, *(i for i in self.ids if i != replica_id))

    async def heal(self, replica_id: str) -> None:
        self.hub.mend(replica_id, *(i for i in self.ids if i != replica_id))

    async def kill(self, replica_id: str) -> None:
        await self.stop(replica_id)

    async def close(self) -> None:
        await self.stop()
        assert not self.fatal


@pytest.fixture(params=[MemoryWorld, RealWorld], ids=["memory", "syncobj"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made: World = request.param(tmp_path)
    await made.start()
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def insist(world: World, command: bytes, among: list[str] | None = None) -> Any:
    """Proposes on whoever leads until it is accepted."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await (await world.leader(among)).propose(command, timeout_s=1)
            except ConsensusError:
                await asyncio.sleep(0.02)


async def error_of(call: Awaitable[Any]) -> ConsensusError | None:
    try:
        await call
    except ConsensusError as error:
        return error
    return None


async def test_a_proposal_returns_what_apply_returned_and_reaches_every_replica(world: World) -> None:
    leader = await world.leader()
    assert [await leader.propose(c, timeout_s=5) for c in (b"x", b"y")] == [1, 2]
    await until(lambda: all([c for _, c in m.commands] == ["x", "y"] for m in world.machines.values()))
    assert len({tuple(m.commands) for m in world.machines.values()}) == 1  # C5, with indexes


async def test_a_follower_refuses_and_names_the_leader(world: World) -> None:
    leader = await world.leader()
    await until(lambda: all(r.leadership.leader == leader.id for r in world.replicas.values()))
    follower = next(r for r in world.replicas.values() if r.id != leader.id)
    for call in (follower.propose(b"x", timeout_s=1), follower.barrier(timeout_s=1)):
        error = await error_of(call)
        assert isinstance(error, NotLeader)
        assert error.leader == leader.id
        assert not error.maybe_applied


async def test_proposals_of_one_caller_apply_in_the_order_they_were_made(world: World) -> None:
    leader = await world.leader()
    results = await asyncio.gather(*(leader.propose(b"%d" % i, timeout_s=10) for i in range(300)))
    assert results == list(range(1, 301))
    assert [c for _, c in world.machines[leader.id].commands] == [str(i) for i in range(300)]


async def test_a_barrier_sees_everything_that_was_acknowledged_before_it(world: World) -> None:
    leader = await world.leader()
    await leader.propose(b"x", timeout_s=5)
    index = await leader.barrier(timeout_s=5)
    assert index >= world.machines[leader.id].commands[-1][0]
    assert index == leader.status().applied


async def test_a_cut_off_leader_acknowledges_nothing_and_confirms_no_read(world: World) -> None:
    """C12, C15, FC7: it says so within the deadline, and in doubt it says "in doubt"."""
    leader = await world.leader()
    await leader.propose(b"x", timeout_s=5)
    await world.cut(leader.id)
    doubt = await error_of(leader.propose(b"lost", timeout_s=1))
    assert isinstance(doubt, CommitUnknown | NotLeader)
    assert isinstance(await error_of(leader.barrier(timeout_s=0.5)), Unavailable | NotLeader)
    rest = [i for i in world.replicas if i != leader.id]
    assert await insist(world, b"y", rest) == 2
    await world.heal(leader.id)
    await until(lambda: [c for _, c in world.machines[leader.id].commands] == ["x", "y"])  # C9


async def test_a_new_leader_has_everything_that_was_acknowledged(world: World) -> None:
    leader = await world.leader()
    for i in range(20):
        await leader.propose(b"%d" % i, timeout_s=5)
    await world.kill(leader.id)
    assert await insist(world, b"after", list(world.replicas)) == 21  # C4, C8


async def test_leadership_is_announced_in_order_with_apply(world: World) -> None:
    """What was committed before it led comes before its own, and its own after the announcement. What it had in its log
    at its election may become committed, as far as it can know, only with the first entry of its term (Raft, 5.4.2,
    section 8): so the announcement may come before that is applied."""
    story: list[Any] = []
    leader = await world.leader()
    other = next(r for r in world.replicas.values() if r.id != leader.id)
    machine = world.machines[other.id]
    other.on_leadership(lambda told: story.append((told, [c for _, c in machine.commands])))
    await leader.propose(b"x", timeout_s=5)
    await leader.transfer(other.id, timeout_s=5)
    await until(lambda: bool(story) and story[-1][0].mine)
    mine, before = story[-1]
    assert mine.leader == other.id
    assert [told.term for told, _ in story] == sorted(told.term for told, _ in story)
    await other.propose(b"y", timeout_s=5)
    assert before in ([], ["x"])
    assert [c for _, c in machine.commands] == ["x", "y"]


async def test_a_transfer_hands_over_without_losing_anything(world: World) -> None:
    leader = await world.leader()
    await leader.propose(b"x", timeout_s=5)
    successor = await leader.transfer(None, timeout_s=5)
    assert successor != leader.id
    await until(lambda: world.replicas[successor].leadership.mine)
    assert await insist(world, b"y") == 2


async def test_a_snapshot_ends_where_it_was_taken(world: World) -> None:
    leader = await world.leader()
    for i in range(10):
        await leader.propose(b"%d" % i, timeout_s=5)
    info = await leader.snapshot(timeout_s=10.0)
    assert info.index == world.machines[leader.id].commands[-1][0]
    assert leader.status().snapshot == info.index
    state, data = await leader.snapshot_bytes()
    fresh = rig.Register()
    fresh.restore(data)
    assert fresh.commands == world.machines[leader.id].commands
    assert state.index == info.index


async def test_a_stopped_replica_refuses(world: World) -> None:
    leader = await world.leader()
    await world.kill(leader.id)
    assert isinstance(await error_of(leader.propose(b"x", timeout_s=1)), NotLeader | CommitUnknown)
