"""Any number of workers and any shape of job comes to an end without waste (S2-06, S1-13, S3-14, FT23)."""

from __future__ import annotations

import pytest

from mr.rpc import table_pb2
from tests.bench.scheduler import Mill


@pytest.mark.parametrize(
    ("workers", "slots", "maps", "reduces"),
    [
        (1, 1, 5, 2),
        (2, 1, 200, 5),
        (7, 3, 100, 20),
        (1000, 2, 500, 50),
        (3, 2, 0, 4),
        (3, 2, 9, 0),
        (2, 8, 1, 40),
    ],
)
def test_every_task_is_run_once(workers: int, slots: int, maps: int, reduces: int) -> None:
    mill = Mill(workers, slots)
    mill.submit(maps, reduces)
    job = mill.table.jobs["big"]
    for _ in range(2000):
        if job.terminal:
            break
        mill.turn(50)
    mill.table.check()
    assert job.state == table_pb2.SUCCEEDED
    assert job.attempts == maps + reduces + 1, "one attempt a task, and the commit"
    assert not job.reruns


def test_ten_thousand_attempts_at_once() -> None:
    """S3-14: the leader keeps them all in view, and a tick costs no walk over them."""
    mill = Mill(workers=1000, slots=10)
    mill.submit(12_000, 3)
    for _ in range(20):
        mill.now_s += 0.1
        mill.turn(0)
    assert mill.table.jobs["big"].running == 10_000
