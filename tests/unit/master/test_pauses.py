"""A task that fails again and again by the machine's fault waits before its next attempt, and never for long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from master.ids import MAP, TaskKey
from master.jobs import EndedAttempt
from master.planner import paused_ms
from mr.rpc import job_pb2

TASK = TaskKey("wc", 0, MAP, 0)
NOW_MS = 10_000_000
FULL, USER = job_pb2.OUTPUT_FULL, job_pb2.USER_EXCEPTION


def failed(*causes: Any, ended_ms: int = NOW_MS, state: str = "failed") -> Any:
    """A job whose task failed so, the last time at `ended_ms`."""
    story = tuple(
        EndedAttempt(n, "w1", 0, ended_ms, job_pb2.Failure(cause=cause).SerializeToString(), state)
        for n, cause in enumerate(causes, 1)
    )
    return SimpleNamespace(failures={TASK: story})


PAUSES: list[tuple[str, Any, int]] = [
    ("one that never failed", SimpleNamespace(failures={}), 0),
    ("the first retry is at once", failed(FULL), 0),
    ("the second waits a little", failed(FULL, FULL), 250),
    ("and then twice as long", failed(FULL, FULL, FULL), 500),
    ("half a minute at most", failed(*[FULL] * 16), 30_000),
    ("what is over is over", failed(FULL, FULL, ended_ms=NOW_MS - 250), 0),
    ("the user's own failures are tried at once", failed(USER, USER, USER), 0),
    ("only those in a row count", failed(FULL, FULL, USER, FULL), 0),
    ("a lost worker is no failure", failed(FULL, FULL, state="lost"), 0),
    ("another leader's clock was an hour ahead (FC21)", failed(FULL, FULL, ended_ms=NOW_MS + 3_600_000), 0),
]


@pytest.mark.parametrize(("promise", "job", "left_ms"), PAUSES, ids=[row[0] for row in PAUSES])
def test_how_long_a_task_waits(promise: str, job: Any, left_ms: int) -> None:
    assert paused_ms(job, TASK, NOW_MS) == left_ms, promise
