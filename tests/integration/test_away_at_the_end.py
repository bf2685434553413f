"""D9 with real processes: what a job left on a worker goes, though the worker was away when the job ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mr.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JOB = '''
"""One map. Its first attempt fails, the second one waits until it may end."""
import os, pathlib, time
MARKS = pathlib.Path({marks!r})

def mapper(line):
    number = int(os.environ["MR_ATTEMPT"])
    (MARKS / str(number)).write_text(__file__)
    if number == 1:
        raise RuntimeError("not here")
    while not (MARKS / "go").exists():
        time.sleep(0.05)
    yield line, 1
'''


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.spawn(masters=3, workers=2, slots=1, home=tmp_path / "cluster") as running:
        yield running


def await_true(what: str, holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def left_on(cluster: Cluster, worker: str) -> list[Path]:
    """Folders and code of jobs on that worker's disk."""
    work = cluster.workers[worker].work_dir
    return [*(work / "jobs").iterdir(), *(work / "code").iterdir()]


def await_second(cluster: Cluster, marks: Path, submitted: subprocess.Popen[bytes]) -> tuple[str, str]:
    """On which worker the first attempt failed, and on which one the second one waits."""
    await_true("no second attempt", lambda: (marks / "2").exists() or submitted.poll() is not None)
    failed, other = sorted(cluster.workers, key=lambda w: f"/worker-{w}/" not in (marks / "1").read_text())
    assert f"/worker-{other}/" in (marks / "2").read_text(), "the task came back to where it had failed"
    return failed, other


def nothing_left_on(cluster: Cluster, worker: str) -> bool:
    return not left_on(cluster, worker)


@pytest.mark.parametrize("away", [True, False], ids=["away at the end", "not away"])
def test_a_worker_with_only_a_failed_attempt_keeps_nothing(
    away: bool, cluster: Cluster, tmp_path: Path
) -> None:
    """D9, FC3: the attempt fails on one worker, all masters die and come back, the job ends on the other one."""
    marks, corpus = tmp_path / "marks", tmp_path / "corpus.txt"
    marks.mkdir()
    corpus.write_text("a line\n")
    job = tmp_path / "one.py"
    job.write_text(JOB.format(marks=str(marks)))
    argv = [sys.executable, "-m", "mr.cli", "submit", str(job), str(corpus), "-o", str(tmp_path / "out")]
    with subprocess.Popen(argv, env=cluster.env(), stdout=subprocess.DEVNULL) as submitted:
        try:
            failed, other = await_second(cluster, marks, submitted)
            assert left_on(cluster, failed), "the failed attempt left nothing: this proves nothing"
            for master in cluster.masters:
                cluster.kill(master)
            if away:
                cluster.pause(failed)
            for master in cluster.masters:
                cluster.restart(master)
            cluster.await_leader()
            (marks / "go").touch()
            assert submitted.wait(120) == 0
            cluster.resume(failed)
        finally:
            submitted.kill()
    for worker in (failed, other):
        await_true(f"{worker} keeps something", partial(nothing_left_on, cluster, worker), 30)
