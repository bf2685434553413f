"""T1 to T12, C6 to C8, D9 in simulated histories of the real table, leader and agents: any seed, however unlucky."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter

import pytest

from master import attempt_commands
from master.columns import Live, Tasks
from master.events import Event
from master.ids import AttemptKey
from master.jobs import Job
from master.task_table import TaskTable
from mr.rpc import job_pb2
from tests.simulation.control.histories import play

SEEDS = 240
CHUNK = 10
# Seeds that once failed, each with what was wrong; kept so that it stays mended.
ONCE_BROKEN = [(967, "a clean-up that was still under way when the disks were looked at")]


def play_many(seeds: range) -> tuple[Counter[str], list[str]]:
    """In a process of its own: what happened, and what broke."""
    counts: Counter[str] = Counter()
    broken = []
    for seed in seeds:
        try:
            counts += play(seed)
        except Exception as error:  # whatever it is, the seed is the news
            replay = f"PYTHONHASHSEED=0 python -m tests.simulation.control.run {seed}"
            broken.append(f"seed {seed}: {type(error).__name__}: {error}\nagain: {replay}")
    return counts, broken


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_history_keeps_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # for the processes: else a seed does not replay
    chunks = [range(first, min(first + CHUNK, SEEDS)) for first in range(0, SEEDS, CHUNK)]
    counts: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        for some, broken in pool.imap_unordered(play_many, chunks):
            assert not broken, "\n".join(broken)
            counts += some
    # A simulation in which nothing happens proves nothing.
    for what in (
        "LeaderChanged",
        "WorkerLost",
        "MapOutputLost",
        "AttemptFailed",
        "AttemptEnded",
        "stale inputs",
        "backup",
    ):
        assert counts[what] > SEEDS / 20, f"{what}: {counts}"


@pytest.mark.parametrize(("seed", "story"), ONCE_BROKEN)
def test_a_history_that_once_broke(seed: int, story: str) -> None:
    play(seed)


def test_a_seed_is_a_history() -> None:
    """Equal seeds give equal histories; else a failing seed could not be looked at."""
    assert play(5) == play(5)


def merge_what_was_lost(table: TaskTable, job: Job, tasks: Tasks, key: AttemptKey, live: Live) -> list[Event]:
    """T9 broken: a reduce that merged a lost output wins all the same."""
    file = job_pb2.TaskResult(
        file=job_pb2.OutputFile(name=f"{key.step}.{key.kind}.{key.index}.a{key.number}")
    )
    return attempt_commands._win(table, job, key, live, file, staged=True)


PLANTED = [
    ("a stale reduce wins", "master.attempt_commands._stale_inputs", merge_what_was_lost),
    ("a winner's output is discarded", "master.reports.has_won", lambda desk, key, life: False),
    (
        "who was away at a job's end is not told (D9)",
        "master.reattach._over",
        lambda desk, session, names: {},
    ),
]


@pytest.mark.parametrize(("story", "where", "instead"), PLANTED, ids=[p[0] for p in PLANTED])
def test_a_planted_bug_is_found(
    story: str, where: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation must be able to fail."""
    monkeypatch.setattr(where, instead)
    found = any(play_many(range(seed, seed + 1))[1] for seed in range(40))
    assert found, f"{story}, and nothing was noticed"
