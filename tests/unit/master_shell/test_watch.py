"""Watching costs bounded memory: who does not keep up is told to come back, and misses nothing."""

from __future__ import annotations

import asyncio

import pytest

from master import watch as watching
from master.events import JobAccepted, LeaderChanged, Refused, TaskCompleted
from master.ids import MAP, AttemptKey
from master.machine import AppliedEntry
from master.task_table import TaskTable
from master.watch import Watch
from mr.errors import Rejected, Unavailable
from mr.rpc import job_pb2, table_pb2


def entry(*commands: table_pb2.Command) -> table_pb2.Entry:
    return table_pb2.Entry(term=1, now_ms=1000, commands=commands)


def table_with_job() -> TaskTable:
    table = TaskTable()
    spec = job_pb2.JobSpec(
        job_id="j1",
        name="j",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=1, partitioner="hash")],
        maps=1,
        code_digest=b"c" * 32,
        splits_digest=b"s" * 32,
        output=job_pb2.Output(path="/out"),
        staging="/.out",
        job_file="j.py",
    )
    results = table.apply(1, entry(table_pb2.Command(submit=table_pb2.SubmitJob(spec=spec, request_id="r"))))
    assert not isinstance(results[0][0], Refused), results
    return table


def happened(index: int, *events: object) -> AppliedEntry:
    return AppliedEntry(index, entry(), [list(events)])  # type: ignore[arg-type]  # events, as the table gives them


DONE = TaskCompleted(AttemptKey("j1", 0, MAP, 0, 1), "w1")
OTHER = JobAccepted("other", existed=False)
ELECTED = LeaderChanged("a", 1, "")


def test_history_is_of_the_job_and_above_the_index() -> None:
    watch = Watch(table_with_job(), lambda: None, limit=10)
    watch.applied(happened(5, DONE, OTHER, ELECTED, Refused("late")))
    said = [(event.index, event.type) for event in watch.history("j1", 0, tasks=True)]
    assert said == [(1, "JobAccepted"), (5, "TaskCompleted"), (5, "LeaderChanged")]
    assert [event.type for event in watch.history("j1", 0, tasks=False)] == ["JobAccepted", "LeaderChanged"]
    assert watch.history("j1", 5, tasks=True) == []


def test_what_happened_to_the_cluster_before_the_job_is_not_its_history() -> None:
    table = table_with_job()
    table.jobs["j1"].index = 7
    watch = Watch(table, lambda: None, limit=10)
    for index in (5, 9):
        watch.applied(happened(index, ELECTED))
    assert [event.index for event in watch.history("j1", 0, tasks=True) if event.type == "LeaderChanged"] == [
        9
    ]


def test_a_ring_that_has_turned_over_loses_no_significant_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_RING", 2)
    watch = Watch(table_with_job(), lambda: None, limit=10)
    watch.applied(happened(1, DONE, JobAccepted("j1", existed=False), DONE))
    assert [event.type for event in watch.history("j1", 0, tasks=False)] == ["JobAccepted"]


async def test_a_watcher_gets_history_and_then_what_happens() -> None:
    watch = Watch(table_with_job(), lambda: None, limit=10)
    stream = watch.stream("j1", 0, follow=True, tasks=True)
    assert (await anext(stream)).type == "JobAccepted"
    assert (await anext(stream)).type == "Progress"
    watch.applied(happened(5, OTHER, DONE))
    event = await asyncio.wait_for(anext(stream), 2)
    assert (event.index, event.type) == (5, "TaskCompleted")
    await stream.aclose()
    assert len(watch) == 0


async def test_one_that_falls_behind_is_ended_with_the_index_to_come_back_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FT25."""
    monkeypatch.setattr(watching, "_QUEUE", 3)
    watch = Watch(table_with_job(), lambda: None, limit=10)
    stream = watch.stream("j1", 0, follow=True, tasks=True)
    assert (await anext(stream)).index == 1
    await anext(stream)
    for index in range(5, 10):
        watch.applied(happened(index, DONE))
    with pytest.raises(Unavailable, match="after index 1"):
        await anext(stream)
    again = watch.stream("j1", 1, follow=False, tasks=True)
    assert [event.index async for event in again][:5] == [5, 6, 7, 8, 9]


async def test_a_restored_table_ends_all_watches() -> None:
    watch = Watch(table_with_job(), lambda: None, limit=10)
    stream = watch.stream("j1", 0, follow=True, tasks=True)
    await anext(stream)
    await anext(stream)
    watch.restored()
    with pytest.raises(Unavailable):
        await anext(stream)


async def test_there_are_no_more_watchers_than_allowed() -> None:
    watch = Watch(table_with_job(), lambda: None, limit=1)
    first = watch.stream("j1", 0, follow=True, tasks=False)
    await anext(first)
    with pytest.raises(Rejected) as refused:
        await anext(watch.stream("j1", 0, follow=True, tasks=False))
    assert refused.value.code == "QUOTA"
    await first.aclose()
    await anext(watch.stream("j1", 0, follow=True, tasks=False))


async def test_without_follow_it_ends_with_the_status() -> None:
    watch = Watch(table_with_job(), lambda: None, limit=1)
    events = [event async for event in watch.stream("j1", 0, follow=False, tasks=False)]
    assert events[-1].status.id == "j1"
    assert events[-1].index == 0
