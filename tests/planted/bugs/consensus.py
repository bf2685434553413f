"""Bugs below and beside the log: what is acknowledged, promised, read and restored."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.planted.bug import Bug, work

STORM = {"workers": 2, "lossy": False, "calm_s": 45.0, "scenes": "none"}
LIGHT = tuple(work("tiny", n, files=1, reduces=1, at_s=0.7 * n) for n in range(20))


def acknowledge_before_fsync() -> None:
    """An entry counts as durable when it is written; the fsync comes a minute later."""
    import time

    from consensus.rocks import RocksStore

    def commit(self: Any, batches: list[Any]) -> None:
        if not batches:
            return
        for batch, _ in batches:
            self._put(batch)
        now = time.monotonic()
        if now - getattr(self, "synced_at", 0.0) > 60.0:
            self._db.flush_wal(True)
            self.synced_at = now
        with self._changed:
            self.durable = batches[-1][1]
            self._changed.notify_all()
        self.on_durable()

    RocksStore._commit = commit  # type: ignore[method-assign]


def forget_term_and_vote() -> None:
    """Term and vote are kept in memory only."""
    from consensus import rocks

    pack = rocks.pack_hard

    def packed(hard: Any) -> bytes:
        from dataclasses import replace

        return pack(replace(hard, term=min(hard.term, 1), vote=None))

    rocks.pack_hard = packed  # type: ignore[assignment]


def acknowledge_before_commit() -> None:
    """A submit is answered at once and proposed a moment later."""
    from master import events as ev
    from master import service
    from master.machine import AppliedEntry

    commit = service.ClusterService._commit

    async def eager(self: Any, command: Any, *wanted: Any) -> Any:
        if not command.HasField("submit"):
            return await commit(self, command, *wanted)
        self.check_leading()

        async def later() -> None:
            await asyncio.sleep(1.0)
            await commit(self, command, *wanted)

        task = asyncio.create_task(later())
        task.add_done_callback(lambda done: done.exception())
        entry = self._driver.entry([command])
        accepted = ev.JobAccepted(command.submit.spec.job_id, False)
        return AppliedEntry(index=0, entry=entry, results=[[accepted]]), accepted

    service.ClusterService._commit = eager  # type: ignore[method-assign]


def read_without_quorum() -> None:
    """Every master answers reads from what it has, as if it led and had asked."""
    from consensus.syncobj import SyncObjReplica

    async def barrier(self: Any, *, timeout_s: float) -> int:
        return 0

    SyncObjReplica.barrier = barrier  # type: ignore[method-assign]


def apply_differs_on_one_replica() -> None:
    """Master b sees one attempt more in each job than the others."""
    import sys

    from master import attempt_commands

    assign = attempt_commands.assign

    def differs(table: Any, command: Any) -> Any:
        events = assign(table, command)
        job = table.jobs.get(command.attempt.task.job)
        if job is not None and command.attempt.number == 1 and command.attempt.task.index == 0:
            job.attempts += 1
        return events

    if "--id" in sys.argv and sys.argv[sys.argv.index("--id") + 1] == "b":
        attempt_commands.assign = differs


def drop_a_job_on_restore() -> None:
    """A snapshot is read without the last of its jobs."""
    from master import table_snapshot

    thaw = table_snapshot.thaw

    def forgetful(table: Any, data: bytes) -> None:
        thaw(table, data)
        if table.jobs:
            job = table.jobs.pop(next(reversed(table.jobs)))
            table.live.pop(job.id, None)
            table.outputs.pop(job.spec.output.path, None)

    table_snapshot.thaw = forgetful


def conflicts_told_by_index() -> None:
    """An entry counts as present when the log has any entry at its index, of whatever term."""
    from consensus import fence

    def unmatched(log: Any, entries: Any) -> Any:
        lacking = (at for at, entry in enumerate(entries) if fence.term_at(log, entry[1]) is None)
        return entries[next(lacking, len(entries)) :]

    fence.unmatched = unmatched


BUGS = [
    Bug(
        name="acknowledge-before-fsync",
        breaks="C8",
        plant=acknowledge_before_fsync,
        run={
            **STORM,
            "lossy": True,
            "seconds": 20.0,
            "works": LIGHT,
            "script": ((7.0, "power-cut-all", 1.0), (14.0, "power-cut-all", 1.0)),
        },
    ),
    Bug(
        name="forget-term-and-vote",
        breaks="C2, C8",
        plant=forget_term_and_vote,
        run={
            **STORM,
            "seconds": 16.0,
            "script": ((3.0, "kill-leader", 1.0), (7.0, "kill-leader", 1.0), (11.0, "kill-all-masters", 1.0)),
            "works": LIGHT[:8],
        },
    ),
    Bug(
        name="acknowledge-before-commit",
        breaks="C8, C11",
        plant=acknowledge_before_commit,
        run={
            **STORM,
            "seconds": 14.0,
            "works": LIGHT[:12],
            "script": ((5.0, "kill-leader", 1.0), (10.0, "kill-leader", 1.0)),
        },
    ),
    Bug(
        name="read-without-quorum",
        breaks="C11",
        plant=read_without_quorum,
        run={
            **STORM,
            "seconds": 16.0,
            "works": LIGHT[:8],
            "script": ((4.0, "leader-from-masters", 3.0), (10.0, "pause-follower", 3.0)),
        },
    ),
    Bug(
        name="apply-differs-on-one-replica",
        breaks="C6, T11",
        plant=apply_differs_on_one_replica,
        run={**STORM, "seconds": 8.0, "faults": "none", "works": LIGHT[:6], "registers": False},
    ),
    Bug(
        name="drop-a-job-on-restore",
        breaks="C7, C8",
        plant=drop_a_job_on_restore,
        run={
            **STORM,
            "seconds": 16.0,
            "works": LIGHT[:8],
            "settings": {"MR_MASTER__SNAPSHOT_EVERY": "40"},
            "script": ((8.0, "kill-all-masters", 1.0),),
        },
    ),
    Bug(
        name="conflicts-told-by-index",
        breaks="C3, C5, C6, C14",
        plant=conflicts_told_by_index,
        run={
            **STORM,
            "registers": True,
            "seconds": 24.0,
            "works": tuple(work("tiny", n, files=1, reduces=1, at_s=1.2 * n) for n in range(16)),
            "settings": {"MR_MASTER__SNAPSHOT_EVERY": "100000"},
            "job_every_s": 1.0,
            "script": tuple((2.0 + 4.5 * n, "leader-from-masters", 2.5) for n in range(5)),
        },
    ),
]
