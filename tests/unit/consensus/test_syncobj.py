"""What the threads around a node promise: loud ends, bounded queues, definite answers, growth and recovery."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from consensus import guard
from consensus.applying import Poisoned, digest
from consensus.config import Limits
from consensus.fence import LawBroken
from consensus.node import Node
from consensus.replica import CommitUnknown, ConsensusError, RefusedToStart, Unavailable
from consensus.shelf import Shelf
from tests.unit.consensus.rig import Cluster


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    await made.stop()


async def test_one_master_is_the_same_code(tmp_path: Path) -> None:
    """One member elects itself, commits what is on its own disk, and remembers it."""
    alone = Cluster(tmp_path, 1, rocks=True)
    await alone.start()
    leader = await alone.leader()
    assert [await leader.propose(b"%d" % i, timeout_s=5) for i in range(3)] == [1, 2, 3]
    assert await leader.barrier(timeout_s=5) == leader.status().applied
    await alone.stop()
    await alone.start()
    assert await (await alone.leader()).propose(b"again", timeout_s=5) == 4
    await alone.stop()


async def test_a_cluster_on_real_disks_survives_the_stop_of_all(tmp_path: Path) -> None:
    """FC3: everything acknowledged is there after all three were stopped and started."""
    three = Cluster(tmp_path, rocks=True)
    await three.start()
    leader = await three.leader()
    for i in range(50):
        await leader.propose(b"%d" % i, timeout_s=5)
    await three.stop()
    await three.start()
    leader = await three.leader()
    assert await leader.propose(b"after", timeout_s=5) == 51
    await three.settled(leader.status().applied)
    assert len({tuple(m.commands) for m in three.machines.values()}) == 1
    await three.stop()


async def test_an_entry_that_apply_chokes_on_ends_every_process_and_is_named(cluster: Cluster) -> None:
    """Hazards 20, 21, 31: loud, not a silent retry for ever; with refuse_entry the same log goes on."""
    await cluster.start()
    leader = await cluster.leader()
    doomed = asyncio.create_task(leader.propose(b"boom", timeout_s=2))
    await until(lambda: len(cluster.fatal) == 3)
    assert all(isinstance(e, Poisoned) for e in cluster.fatal)
    index = leader.status().applied + 1
    assert f"--refuse-entry {index}:{digest(b'boom')}" in str(cluster.fatal[0])
    await cluster.stop()
    with pytest.raises(ConsensusError):
        await doomed
    cluster.fatal.clear()
    cluster.refuse = (index, digest(b"boom")[:16])
    await cluster.start()
    leader = await cluster.leader()
    assert await leader.propose(b"fine", timeout_s=5) == 1
    assert not cluster.fatal


async def test_a_leadership_callback_that_raises_ends_the_process(cluster: Cluster) -> None:
    await cluster.start()
    leader = await cluster.leader()
    other = next(r for r in cluster.replicas.values() if r is not leader)

    def bad(_: object) -> None:
        raise KeyError("bad")

    other.on_leadership(bad)
    await leader.transfer(other.id, timeout_s=3)
    await until(lambda: any(isinstance(e, KeyError) for e in cluster.fatal))


async def test_a_broken_law_on_the_tick_thread_ends_the_process(cluster: Cluster) -> None:
    """Hazard 31: the tick thread never ends in silence."""
    await cluster.start("a")
    with mock.patch.object(Node, "tick", side_effect=LawBroken("broken")):
        await until(lambda: bool(cluster.fatal))
    assert isinstance(cluster.fatal[0], LawBroken)


async def test_a_disk_that_fails_ends_the_process_with_its_exit_code(cluster: Cluster) -> None:
    """FC17: nothing is acknowledged any more; 75 for a full disk."""
    from consensus.journal import JournalFailed

    await cluster.start()
    leader = await cluster.leader()
    cluster.stores[leader.id].failed = JournalFailed("the disk is full", 75)
    await until(lambda: bool(cluster.fatal))
    assert getattr(cluster.fatal[0], "exit_code", None) == 75


async def test_a_full_queue_says_unavailable_and_nothing_was_written(tmp_path: Path) -> None:
    """Bounded queues: a definite error, not unbounded memory."""
    cluster = Cluster(tmp_path, limits=Limits(queued_proposals=5, uncommitted_entries=10))
    await cluster.start()
    leader = await cluster.leader()
    await leader.propose(b"first", timeout_s=5)
    others = [i for i in cluster.ids if i != leader.id]
    with mock.patch.object(Node, "_take_proposals"):
        calls = [asyncio.create_task(leader.propose(b"%d" % i, timeout_s=0.3)) for i in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(r, Unavailable) for r in results), results
    assert sum("too many" in str(r) for r in results) == 15
    assert sum("not taken into the log" in str(r) for r in results) == 5
    await leader.propose(b"last", timeout_s=5)
    for i in others:
        await until(lambda i=i: [c for _, c in cluster.machines[i].commands] == ["first", "last"])
    await cluster.stop()


async def test_too_large_a_command_is_the_callers_mistake(cluster: Cluster) -> None:
    await cluster.start()
    leader = await cluster.leader()
    with pytest.raises(ValueError, match="limit"):
        await leader.propose(b"z" * (Limits().command_bytes + 1), timeout_s=1)


async def test_a_deadline_that_passes_in_the_log_leaves_doubt(cluster: Cluster) -> None:
    """C15: within the deadline, typed, and indefinite because some log has it."""
    await cluster.start()
    leader = await cluster.leader()
    await leader.propose(b"x", timeout_s=5)
    with mock.patch.object(Node, "_set_commit"), pytest.raises(CommitUnknown):
        await leader.propose(b"y", timeout_s=0.2)


async def test_stopping_answers_everyone_who_waits(cluster: Cluster) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await leader.propose(b"x", timeout_s=5)
    with mock.patch.object(Node, "_set_commit"):
        waiting = [asyncio.create_task(leader.propose(b"y", timeout_s=60)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await cluster.stop(leader.id)
    assert all(isinstance(e, ConsensusError) for e in await asyncio.gather(*waiting, return_exceptions=True))


async def test_a_snapshot_that_the_disk_does_not_take_keeps_nobody_waiting(cluster: Cluster) -> None:
    await cluster.start()
    leader = await cluster.leader()
    await leader.propose(b"x", timeout_s=5)
    stuck = threading.Event()
    with mock.patch.object(Shelf, "write", side_effect=lambda *_: stuck.wait(30)):
        with pytest.raises(Unavailable, match="no snapshot within"):
            await leader.snapshot(timeout_s=0.2)
        assert await leader.propose(b"y", timeout_s=5) == 2, "and the log goes on"
        stuck.set()


async def test_a_hand_over_ends_with_an_answer_when_the_replica_is_stopped(cluster: Cluster) -> None:
    await cluster.start()
    leader = await cluster.leader()
    other = next(i for i in cluster.ids if i != leader.id)
    cluster.hub.links[other].poll = lambda handler: None  # it is there, and deaf
    await leader.propose(b"x", timeout_s=5)
    waiting = asyncio.create_task(leader.transfer(other, timeout_s=60))
    await asyncio.sleep(0.05)
    await cluster.stop(leader.id)
    async with asyncio.timeout(5):
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], Unavailable)


async def test_an_entry_of_a_newer_release_ends_the_process_without_blaming_the_entry(
    cluster: Cluster,
) -> None:
    """Issue 3 part 5: an older release never goes on past what it does not know."""
    await cluster.start()
    leader = await cluster.leader()

    def refuse(index: int, command: bytes) -> None:
        raise RefusedToStart("start the newer release again")

    cluster.machines[leader.id].apply = refuse
    with contextlib.suppress(ConsensusError, TimeoutError):
        await leader.propose(b"new", timeout_s=1)
    await until(lambda: cluster.fatal)
    assert isinstance(cluster.fatal[0], RefusedToStart)
    assert "--refuse-entry" not in str(cluster.fatal[0])


async def test_a_member_that_was_away_comes_back_by_snapshot_while_load_goes_on(tmp_path: Path) -> None:
    """FC26: the log it would need is gone; pieces, install, restore, then appends."""
    cluster = Cluster(tmp_path, limits=Limits(compact_entries=300, keep_entries=50, piece_bytes=2000))
    await cluster.start()
    leader = await cluster.leader()
    away = next(i for i in cluster.ids if i != leader.id)
    await cluster.stop(away)
    cluster.stores.pop(away).close()  # as if it had been away since the beginning
    for _ in range(20):
        await asyncio.gather(*(cluster.insist(b"%d" % i) for i in range(100)))
    leader = await cluster.leader()
    await until(lambda: leader.status().log_entries < 1000)
    await cluster.start(away)
    for i in range(100):
        await cluster.insist(b"more%d" % i)
    leader = await cluster.leader()
    await cluster.settled(leader.status().applied)
    assert cluster.machines[away].restored >= 1
    assert cluster.machines[away].commands == cluster.machines[leader.id].commands
    assert cluster.replicas[away].status().snapshot > 0
    await cluster.stop()


async def test_a_restart_after_compaction_restores_and_goes_on(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, rocks=True, limits=Limits(compact_entries=200, keep_entries=20))
    await cluster.start()
    leader = await cluster.leader()
    for _ in range(8):
        await asyncio.gather(*(cluster.insist(b"%d" % i) for i in range(100)))
    await until(lambda: all(r.status().snapshot > 0 for r in cluster.replicas.values()))
    leader = await cluster.leader()
    await leader.barrier(timeout_s=5)
    before = list(cluster.machines[leader.id].commands)
    await cluster.stop()
    await cluster.start()
    leader = await cluster.leader()
    await leader.barrier(timeout_s=5)
    assert cluster.machines[leader.id].commands == before
    assert cluster.machines[leader.id].restored == 1
    await cluster.stop()


async def test_a_member_that_returns_from_a_partition_deposes_nobody(cluster: Cluster) -> None:
    """Hazard 27: pre-vote. The term stays what it was."""
    await cluster.start()
    leader = await cluster.leader()
    term = leader.leadership.term
    away = next(i for i in cluster.ids if i != leader.id)
    cluster.hub.sever(away, *(i for i in cluster.ids if i != away))
    await asyncio.sleep(2.5)
    cluster.hub.mend(away, *(i for i in cluster.ids if i != away))
    await leader.propose(b"x", timeout_s=5)
    await asyncio.sleep(1.2)
    assert leader.leadership.mine
    assert leader.leadership.term == term


def test_importing_pysyncobj_breaks_nothing_else() -> None:
    """Its import replaces `socket.inet_ntop` by a function that raises anywhere but on Windows."""
    assert socket.inet_ntop(socket.AF_INET, b"\x7f\0\0\1") == "127.0.0.1"


def test_another_pysyncobj_refuses_to_start() -> None:
    with (
        mock.patch.object(guard, "version", return_value="0.3.16"),
        pytest.raises(RefusedToStart, match=r"0\.3\.17"),
    ):
        guard.check_library()


def test_a_pysyncobj_that_lacks_a_private_name_refuses_to_start() -> None:
    with (
        mock.patch.object(guard, "METHODS", ("onMessageReceived", "gone")),
        pytest.raises(RefusedToStart, match="gone"),
    ):
        guard.check_library()
    guard.check_library()


def test_every_private_name_that_is_used_is_listed() -> None:
    """The list in `guard` is the list: what the sources name must stand in it."""
    import re

    used = set()
    for source in Path(guard.__file__).parent.glob("*.py"):
        if source.name != "guard.py":
            used |= set(re.findall(r"_SyncObj__(\w+)", source.read_text()))
    assert used <= set(guard.METHODS) | set(guard.ATTRIBUTES)


async def test_without_room_a_member_waits_and_says_so(tmp_path: Path) -> None:
    """FC17: started again on a full disk it does not vote before its reserve is free."""
    import shutil

    cluster = Cluster(tmp_path, 1)
    real = shutil.disk_usage(tmp_path)
    with (
        mock.patch("consensus.syncobj.shutil.disk_usage", return_value=real._replace(free=-1)),
        mock.patch("consensus.syncobj.DISK_POLL_S", 0.01),
    ):
        starting = asyncio.create_task(cluster.start())
        await until(lambda: "a" in cluster.replicas and "disk space" in cluster.replicas["a"].status().note)
        assert cluster.replicas["a"].status().role == "waiting"
        assert not starting.done()
    await starting
    assert await (await cluster.leader()).propose(b"x", timeout_s=5) == 1
    await cluster.stop()
