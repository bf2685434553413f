"""Bugs that need a certain loss: of a disk, of a log's end, of a leader whom others still hear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.planted.bug import Bug, work
from tests.planted.bugs.consensus import LIGHT, STORM


def lease_never_over() -> None:
    """A leader whom no majority answers goes on leading."""
    from consensus.electing import Electing

    Electing.lease_over = lambda self, now, quorum_at: False  # type: ignore[method-assign]


def shorter_log_accepted() -> None:
    """A master does not ask how far its log once reached."""
    from consensus.watermark import Watermark

    Watermark.check = lambda self, hard, entries: None  # type: ignore[method-assign]


def replaced_disk_votes() -> None:
    """A master that comes back on an empty disk may vote at once."""
    from consensus import founding

    join = founding._join

    def voter(mine: Any, founded: Any, replacing: bool) -> Any:
        found = join(mine, founded, replacing)
        return replace(found, voter=True) if isinstance(found, founding.Join) else found

    founding._join = voter  # type: ignore[assignment]


def snapshot_not_synced() -> None:
    """A snapshot gets its name before its content is on the disk."""
    import os

    from consensus import snapshots

    class Lazy:
        def __getattr__(self, name: str) -> Any:
            return (lambda _file: None) if name == "fsync" else getattr(os, name)

    snapshots.os = Lazy()  # type: ignore[assignment]


def winners_counters_not_restored() -> None:
    """A snapshot is read without what the winners have counted."""
    from master import table_snapshot

    thaw = table_snapshot._thaw_tasks

    def forgetful(packed: Any) -> Any:
        tasks = thaw(packed)
        tasks.counters = [b""] * len(tasks.counters)
        return tasks

    table_snapshot._thaw_tasks = forgetful


def commit_beyond_what_was_verified() -> None:
    """A follower takes the leader's commit index for entries that it has not compared."""
    from consensus import fence

    fence.verified_commit = lambda leader_commit, verified: leader_commit  # type: ignore[assignment]


def wall_clock_in_each_entry() -> None:
    """Entries carry the wall clock as it is, and not that of the term."""
    import time

    from master.driver import Driver

    Driver.wall_ms = lambda self: time.time_ns() // 1_000_000  # type: ignore[method-assign]


def incarnation_by_the_clock() -> None:
    """A worker's new life has the number that the clock shows, also when that is less than before."""
    from worker.store import Store

    state = Store._read_state

    def forgetful(self: Any) -> Any:
        return {**state(self), "incarnation_ms": 0}

    Store._read_state = forgetful  # type: ignore[method-assign]


JOBS = tuple(work("tiny", n, files=1, reduces=1, at_s=1.5 * n) for n in range(10))
SHORT = {**STORM, "job_every_s": 0.5}  # the calm is as long as the jobs need, and no longer

BUGS = [
    Bug(
        name="lease-never-over",
        breaks="C14, C15",
        plant=lease_never_over,
        run={
            **SHORT,
            "seconds": 11.0,
            "works": LIGHT[:8],
            "script": ((3.0, "leader-from-masters", 7.0),),
        },
    ),
    Bug(
        name="shorter-log-accepted",
        breaks="C4, C8, FC20",
        plant=shorter_log_accepted,
        run={**SHORT, "seconds": 16.0, "works": JOBS, "script": ((3.0, "shorter-log", 4.0),)},
    ),
    Bug(
        name="replaced-disk-votes",
        breaks="C2, C4, C8",
        plant=replaced_disk_votes,
        run={**SHORT, "seconds": 16.0, "works": JOBS, "script": ((3.0, "early-replacement", 4.0),)},
    ),
    Bug(
        name="snapshot-not-synced",
        breaks="C8, C14",
        plant=snapshot_not_synced,
        run={
            **SHORT,
            "lossy": True,
            "seconds": 20.0,
            "works": JOBS,
            "settings": {"MR_MASTER__SNAPSHOT_EVERY": "40"},
            "script": ((9.0, "power-cut-all", 1.0), (15.0, "power-cut-all", 1.0)),
        },
    ),
    Bug(
        name="winners-counters-not-restored",
        breaks="C6, C7, T11",
        plant=winners_counters_not_restored,
        run={
            **SHORT,
            "seconds": 16.0,
            "works": (work("long", 0, files=8, map_s=0.8, reduces=2), *LIGHT[:8]),
            "settings": {"MR_MASTER__SNAPSHOT_EVERY": "40"},
            "script": ((6.0, "kill-follower", 1.0), (11.0, "kill-follower", 1.0)),
        },
    ),
    Bug(
        name="commit-beyond-what-was-verified",
        breaks="C4, C5, C14, T12",
        plant=commit_beyond_what_was_verified,
        run={
            **SHORT,
            "seconds": 22.0,
            "works": JOBS,
            "script": tuple((3.0 + 6.0 * n, "leader-from-masters", 4.0) for n in range(3)),
        },
    ),
    Bug(
        name="wall-clock-in-each-entry",
        breaks="T14, FC21",
        plant=wall_clock_in_each_entry,
        run={
            **SHORT,
            "seconds": 28.0,
            "works": (work("long", 0, files=12, map_s=1.5, reduces=2), *JOBS[:5]),
            "script": tuple((3.0 + 3.0 * n, "clock-jump", 2.0) for n in range(8)),
        },
    ),
    Bug(
        name="incarnation-by-the-clock",
        breaks="FT20, T12",
        plant=incarnation_by_the_clock,
        run={
            **SHORT,
            "seconds": 24.0,
            "works": LIGHT[:8],
            "script": tuple((3.0 + 7.0 * n, "clock-at-start", 1.0) for n in range(3)),
        },
    ),
]
