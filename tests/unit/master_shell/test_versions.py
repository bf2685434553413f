"""The cluster's version: a log entry, and every release knows it before anything of it counts (FC28, C6)."""

from __future__ import annotations

import asyncio

import pytest

from master import versions
from master.events import ClusterVersionSet, Refused
from master.machine import Machine
from master.task_table import TaskTable
from mr.rpc import cluster_pb2, table_pb2
from tests.unit.master_shell.conftest import Town


@pytest.mark.parametrize(
    ("promise", "present", "answers", "version"),
    [
        ("a fresh cluster is raised to what all know", 0, [1, 1, 1], 1),
        ("the oldest release decides", 1, [3, 2, 3], 2),
        ("nothing is raised while one does not answer", 1, [2, None, 2], None),
        ("nothing is raised twice", 2, [2, 2, 2], None),
        ("it never goes back: an older release may not even start", 2, [2, 1, 2], None),
        ("a release before there were versions knows none", 1, [2, 0, 2], None),
    ],
)
def test_the_version_is_what_every_master_knows(
    promise: str, present: int, answers: list[int | None], version: int | None
) -> None:
    assert versions.next_version(present, answers) == version, promise


def entry(*commands: table_pb2.Command) -> bytes:
    return table_pb2.Entry(term=1, commands=commands).SerializeToString()


def set_version(version: int) -> table_pb2.Command:
    return table_pb2.Command(set_version=table_pb2.SetClusterVersion(version=version))


FORGET = table_pb2.Command(forget_jobs=table_pb2.ForgetJobs(jobs=["j"]))


def test_a_newer_command_has_no_effect_before_its_version_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever proposes it early, in whatever release: all tables stay equal."""
    monkeypatch.setattr(versions, "SINCE", {"forget_jobs": 2})
    monkeypatch.setattr(versions, "KNOWN", 2)
    here = Machine(TaskTable())
    (early,) = here.apply(1, entry(set_version(1), FORGET)).results[1]
    assert isinstance(early, Refused)
    assert early.code == "VERSION"
    raised, late = here.apply(2, entry(set_version(2), FORGET)).results
    assert raised == [ClusterVersionSet(2)]
    assert not any(isinstance(event, Refused) and event.code == "VERSION" for event in late)


def test_an_older_release_stops_at_the_entry_and_at_a_snapshot_of_a_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "KNOWN", 2)
    newer = Machine(TaskTable())
    newer.apply(1, entry(set_version(2)))
    saved = newer.snapshot()()
    monkeypatch.setattr(versions, "KNOWN", 1)
    with pytest.raises(versions.TooNew, match="start the newer release again"):
        Machine(TaskTable()).apply(1, entry(set_version(2)))
    with pytest.raises(versions.TooNew, match="start the newer release again"):
        Machine(TaskTable()).restore(saved)


def test_a_table_saved_at_a_newer_version_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would bring what others in mid-upgrade do not know; and the version stays the cluster's own."""
    monkeypatch.setattr(versions, "KNOWN", 2)
    saved = {}
    for version in (1, 2):
        old = TaskTable()
        old.apply(1, table_pb2.Entry(term=1, commands=[set_version(version)]))
        saved[version] = old.snapshot()()
    here = TaskTable()
    here.apply(1, table_pb2.Entry(term=1, commands=[set_version(1)]))
    before = here.digest()
    with pytest.raises(ValueError, match="version 2"):
        here.adopt(2, saved[2])
    assert here.digest() == before
    here.adopt(3, saved[1])
    assert (here.index, here.cluster_version) == (3, 1)


async def test_the_leader_raises_it_once_the_last_master_is_there(town: Town) -> None:
    away = town.masters["c"]
    away.masters.own = lambda: cluster_pb2.MasterInfo(id="c", role="follower", knows=0)  # type: ignore[method-assign]  # an older release
    leader = town.elect("a")
    await asyncio.sleep(1.5)
    assert leader.table.cluster_version == 0
    del away.masters.own
    async with asyncio.timeout(10):
        while {master.table.cluster_version for master in town.masters.values()} != {1}:
            await asyncio.sleep(0.05)
    reply = await town.cluster("b").ListMasters(cluster_pb2.ListMastersRequest())
    assert {(row.knows, row.cluster_version) for row in reply.masters} == {(1, 1)}
