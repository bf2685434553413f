"""Any process may die and the job still ends with the same bytes: real processes, real kills.

Each test runs one word count on a cluster of its own, kills what its name says while tasks run, and compares every part
with the reference interpreter (D1, D11). What a master's death may not cost is counted by the cluster itself and by the
tasks, which leave a mark in a folder whenever they start (T4).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mr.cluster import Cluster
from tests.reference import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILES = 40
REDUCES = 3
JOB = '''
"""Word count whose tasks take a while, and leave a mark when they start."""
import os, pathlib, time
MARKS = pathlib.Path({marks!r})

def mapper(line):
    if line.startswith("#file"):
        (MARKS / f"{{os.environ['MR_TASK_ID']}}.{{os.environ['MR_ATTEMPT']}}.{{time.time_ns()}}").touch()
        time.sleep({map_s})
    for word in line.split():
        yield word.lower(), 1

def reducer(word, counts):
    time.sleep({key_s})
    yield word, sum(counts)
'''


def words(line: str) -> Iterator[tuple[str, int]]:
    return ((word.lower(), 1) for word in line.split())


def total(word: str, counts: Iterator[int]) -> Iterator[tuple[str, int]]:
    yield word, sum(counts)


class Story:
    """One job on one cluster, and what may be asked of it."""

    def __init__(self, cluster: Cluster, home: Path, map_s: float = 0.5, key_s: float = 0.0) -> None:
        self.cluster, self.home, self.id = cluster, home, "story"
        self.corpus, self.out, self.marks = home / "corpus", home / "out", home / "marks"
        self.corpus.mkdir()
        self.marks.mkdir()
        text = "the quick brown fox jumps over the lazy dog naïve\n" * 40
        for n in range(FILES):
            (self.corpus / f"{n:03d}.txt").write_text(f"#file {n}\n{text}last{n}")
        self.job = home / "slowcount.py"
        self.job.write_text(JOB.format(marks=str(self.marks), map_s=map_s, key_s=key_s))

    def mr(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "mr.cli", *words]

    def submit(self, *flags: str) -> subprocess.Popen[str]:
        """`mr submit`: one file a split, so that there are FILES maps."""
        argv = self.mr("submit", str(self.job), str(self.corpus), "-o", str(self.out), "--id", self.id)
        argv += ["--reduces", str(REDUCES), "--split-size", "2KiB", "--json", *flags]
        return subprocess.Popen(
            argv, env=self.cluster.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def status(self) -> dict[str, object]:
        run = subprocess.run(
            self.mr("status", self.id, "--json"),
            env=self.cluster.env(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert run.returncode in (0, 1), run.stderr
        found: dict[str, object] = json.loads(run.stdout)
        return found

    def until_maps(self, low: int, timeout: float = 60) -> None:
        """Returns when at least `low` maps are completed, and asserts that some still are not."""
        deadline = time.monotonic() + timeout
        with self.cluster.connect() as client:
            while time.monotonic() < deadline:
                jobs = [job for job in client.jobs() if job.id == self.id]
                done = jobs[0].steps[0].map.completed if jobs else 0
                if done >= low:
                    assert done < FILES, "the job was too quick for this test"
                    return
                time.sleep(0.02)
        pytest.fail(f"not {low} maps within {timeout} s\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"--- {s.id}\n{s.log_tail(12)}" for s in self.cluster.servers.values())

    def finish(self, submitted: subprocess.Popen[str], timeout: float = 120) -> dict[str, object]:
        """Waits for `mr submit`, and holds the output against the reference."""
        try:
            out, err = submitted.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            submitted.kill()
            pytest.fail(f"the job did not end\n{self.logs()}")
        assert submitted.returncode == 0, f"{out}\n{err}\n{self.logs()}"
        self.check_output()
        answer: dict[str, object] = json.loads(out.strip().splitlines()[-1])
        return answer

    def check_output(self) -> None:
        expected = reference(words, total, sorted(self.corpus.iterdir()), REDUCES)
        parts = sorted(self.out.glob("part-r-*"))
        assert [part.read_bytes() for part in parts] == expected
        assert {path.name for path in self.out.iterdir()} == {"_SUCCESS", *(part.name for part in parts)}

    def starts(self) -> Counter[str]:
        """Map tasks by how often they were started, from the tasks' own marks."""
        return Counter(mark.name.split(".")[0] for mark in self.marks.iterdir())


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Callable[..., Story]]:
    clusters: list[Cluster] = []

    def make(masters: int = 3, workers: int = 3, **pace: float) -> Story:
        clusters.append(Cluster.spawn(masters=masters, workers=workers, slots=1, home=tmp_path / "cluster"))
        return Story(clusters[-1], tmp_path, **pace)

    yield make
    for cluster in clusters:
        cluster.stop()


def next_leader(cluster: Cluster, older_than: int) -> str:
    """The id of the first leader of a newer term."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        leader = cluster.leader()
        if leader and leader.term > older_than:
            return leader.id
        time.sleep(0.02)
    raise AssertionError("no new leader within 20 s")


def test_each_leader_killed_in_turn_costs_no_finished_task(story: Callable[..., Story]) -> None:
    """S3-07, T4, FT10: three failovers in one job; a killed master comes back and is killed again when it leads."""
    tale = story(map_s=1.2)
    submitted = tale.submit()
    for done in (4, 12, 20):
        tale.until_maps(done)
        leader = tale.cluster.await_leader()
        tale.cluster.kill(leader.id)
        next_leader(tale.cluster, leader.term)
        tale.cluster.restart(leader.id)
    answer = tale.finish(submitted)
    assert answer["reruns"] == {}
    assert answer["leader_changes"] >= 3  # type: ignore[operator]  # a number of the JSON
    assert set(tale.starts().values()) == {1}, "a map started twice"


def test_a_worker_that_held_finished_maps_is_replaced(story: Callable[..., Story]) -> None:
    """FT1, FD1, S4-20: its finished maps run again, because their outputs lay on its disk; nothing else does."""
    tale = story()
    submitted = tale.submit()
    tale.until_maps(15)
    tale.cluster.kill("w1")
    answer = tale.finish(submitted)
    assert sum(answer["reruns"].values()) > 0  # type: ignore[attr-defined]  # a JSON object of counts
    assert tale.starts().total() > FILES


def test_losing_the_client_does_not_lose_the_job(story: Callable[..., Story]) -> None:
    """interface.md section 4: handles are ids, not ownership."""
    tale = story()
    submitted = tale.submit()
    tale.until_maps(5)
    submitted.send_signal(signal.SIGKILL)
    submitted.communicate()
    waited = subprocess.run(
        tale.mr("wait", tale.id),
        env=tale.cluster.env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert waited.returncode == 0, waited.stderr
    tale.check_output()


def test_all_masters_killed_and_restarted(story: Callable[..., Story]) -> None:
    """FC3, C8: the task table is on their disks; the workers go on and keep what they finished."""
    tale = story()
    submitted = tale.submit()
    tale.until_maps(8)
    for name in tale.cluster.masters:
        tale.cluster.kill(name)
    time.sleep(1)
    for name in tale.cluster.masters:
        tale.cluster.restart(name)
    answer = tale.finish(submitted)
    assert answer["reruns"] == {}
    assert set(tale.starts().values()) == {1}, "a map started twice"


def test_a_single_master_is_the_same_code(story: Callable[..., Story]) -> None:
    """S0-08: one replica, killed and started again in mid-job."""
    tale = story(masters=1, workers=2)
    submitted = tale.submit()
    tale.until_maps(8)
    tale.cluster.kill("a")
    tale.cluster.restart("a")
    assert tale.finish(submitted)["reruns"] == {}


def test_every_worker_killed_and_replaced(story: Callable[..., Story]) -> None:
    """FT3, T12: nobody is left for a moment; the job waits, then ends."""
    tale = story(workers=2)
    submitted = tale.submit()
    tale.until_maps(6)
    for name in tuple(tale.cluster.workers):
        tale.cluster.kill(name)
    for name in tuple(tale.cluster.workers):
        tale.cluster.restart(name)
    tale.finish(submitted)


def test_a_paused_worker_comes_back_too_late(story: Callable[..., Story]) -> None:
    """FT4: a zombie's outputs were made again elsewhere; what it says on its return is refused."""
    tale = story()
    submitted = tale.submit()
    tale.until_maps(6)
    tale.cluster.pause("w2")
    time.sleep(12)  # longer than a worker's lease
    tale.cluster.resume("w2")
    tale.finish(submitted)
