"""The commands of `mr` against a real cluster: output, JSON and exit codes as interface.md has them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

import mr
from mr import cli
from mr.cluster import Cluster

pytestmark = pytest.mark.timeout(300)

WORDCOUNT = '''
"""Counts words."""
def mapper(line):
    for word in line.split():
        yield word.lower(), 1

def reducer(word, counts):
    yield word, sum(counts)

combiner = reducer
'''
SLOW = """
import time
def mapper(line):
    time.sleep(0.3)
    yield line, 1

def reducer(word, counts):
    yield word, sum(counts)
"""
BROKEN = """
def mapper(line):
    yield int(line), 1

def reducer(number, counts):
    yield number, sum(counts)
"""
WITH_ARGS = """
import mr

class Few(mr.JobClass):
    REDUCES = 2
    def configure_args(self, parser):
        parser.add_argument("--least", type=int, default=1)
    def mapper(self, _, line):
        for word in line.split():
            yield word, 1
    def reducer(self, word, counts):
        total = sum(counts)
        if total >= self.args.least:
            yield word, total
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.spawn(masters=1, workers=2) as one:
        yield one


class Told(NamedTuple):
    """What a command answered."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """A folder with job files and input, and `mr` in it."""

    def __init__(self, folder: Path, env: dict[str, str], captured: pytest.CaptureFixture[str]) -> None:
        self.folder, self.env, self.captured = folder, env, captured
        for name, text in (("wc", WORDCOUNT), ("slow", SLOW), ("broken", BROKEN), ("few", WITH_ARGS)):
            (folder / f"{name}.py").write_text(text)
        (folder / "text").mkdir()
        for n in range(3):
            (folder / "text" / f"{n}.txt").write_text(f"the quick brown fox {n}\nover the lazy dog")
        (folder / "lines.txt").write_text("".join(f"{n}\n" for n in range(200)))
        (folder / "numbers.txt").write_text("1\n2\n3x\n4\n")

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "mr.cli", *words]

    def mr(self, *words: str, code: int | None = 0, **env: str) -> Told:
        """Runs `mr` in this process: the same as its console script, without an interpreter's start each time."""
        self.captured.readouterr()
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, {**self.env, **env}, clear=True),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main(words)
        told = Told(int(ended.value.code or 0), *self.captured.readouterr())
        assert "Traceback (most recent call last)" not in told.stderr or "  traceback" in told.stderr, (
            told.stderr
        )
        assert code is None or told.returncode == code, told
        return told

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.mr(*words, "--json", code=code).stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*words),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, cluster.env(), capfd)


def parts(folder: Path) -> list[bytes]:
    return [part.read_bytes() for part in sorted(folder.glob("part-*"))]


def test_submit_follows_to_the_end_and_run_gives_the_same_bytes(shell: Shell) -> None:
    """The story in a pipe: acceptance, code and input, progress, end; one line a change, no control codes."""
    told = shell.mr("submit", "wc.py", "text", "-o", "out", "--reduces", "3").stdout
    lines = told.splitlines()
    assert re.fullmatch(
        r"job wc-[a-z0-9]{5}   queue default   prio 50   accepted: term \d+, index \d+, leader a", lines[0]
    )
    assert re.fullmatch(r"code [0-9a-f]{6} \(1 file, .*\)   input 3 files, \d+ B, 1 split", lines[1])
    assert lines[-2] == "map     1/1   reduce 3/3   commit ok"
    assert re.fullmatch(r"done .*   3 files  \d+ B   manifest [0-9a-f]{6}   records 6   skipped 0", lines[-1])
    assert re.search(r"[\x00-\x09\x0b-\x1f]", told) is None
    shell.mr("run", "wc.py", "text", "-o", "local", "--reduces", "3")
    shell.mr("run", "wc.py", "text", "-o", "inline", "--reduces", "3", "--inline")
    assert parts(shell.folder / "out") == parts(shell.folder / "local") == parts(shell.folder / "inline")
    assert b"the\t6\n" in b"".join(parts(shell.folder / "out"))


def test_what_a_program_reads(shell: Shell) -> None:
    """The JSON of interface.md section 2."""
    answer = shell.json("submit", "wc.py", "text", "-o", "out")
    assert set(answer) >= {
        "id",
        "state",
        "reason",
        "attempts",
        "reruns",
        "leader_changes",
        "output",
        "manifest",
        "seconds",
    }
    assert (answer["state"], answer["reruns"], answer["leader_changes"]) == ("SUCCEEDED", {}, 0)
    assert answer["output"] == str(shell.folder / "out")
    status = shell.json("status", answer["id"])
    assert (status["id"], status["state"], status["reruns"]) == (answer["id"], "SUCCEEDED", {})
    assert status["manifest"] == answer["manifest"] != None  # noqa: E711 - one chain, read aloud
    assert status["steps"][0]["map"]["completed"] == 1
    assert answer["id"] in {job["id"] for job in shell.json("jobs")}
    assert shell.json("counters", answer["id"])["mr:map_records_in"] == 6
    assert {task["state"] for task in shell.json("tasks", answer["id"])} == {"completed"}
    kinds = [event["type"] for event in shell.json("events", answer["id"])]
    assert kinds[-1] == "JobFinished"
    assert "MapOutputReady" in kinds  # S1-07
    assert {"key": "the", "value": 6} in shell.json("results", answer["id"])
    [master] = shell.json("masters")
    assert (master["id"], master["role"]) == ("a", "leader")
    assert isinstance(master["term"], int)
    assert {worker["id"]: worker["state"] for worker in shell.json("workers")} == {
        "w1": "active",
        "w2": "active",
    }
    assert shell.json("explain", answer["id"])["cause"]


def test_an_output_that_is_not_here(shell: Shell) -> None:
    """Results of a job that published elsewhere, or not at all."""
    shell.mr("submit", "wc.py", "text", "-o", "gone", "--id", "gone", "-q")
    assert "the\t6" in shell.mr("results", "gone").stdout
    (shell.folder / "gone").rename(shell.folder / "elsewhere")
    assert "does not see the output" in shell.mr("results", "gone", code=6).stderr


def test_short_unique_ids_are_enough(shell: Shell) -> None:
    shell.mr("submit", "wc.py", "text", "-o", "out", "--id", "unique-name", "-q")
    assert shell.json("status", "unique")["id"] == "unique-name"
    shell.mr("submit", "wc.py", "text", "-o", "out2", "--id", "unique-other", "-q")
    told = shell.mr("status", "unique", code=6).stderr
    assert "unique-name" in told
    assert "unique-other" in told


def test_the_same_id_is_the_same_job(shell: Shell) -> None:
    """A retry is the same job, also when its output is there by now; another job under this id is refused."""
    first = shell.json("submit", "wc.py", "text", "-o", "out", "--id", "idem")
    again = shell.json("submit", "wc.py", "text", "-o", "out", "--id", "idem")
    assert (again["id"], again["manifest"]) == ("idem", first["manifest"])
    told = shell.mr("submit", "wc.py", "numbers.txt", "-o", "out", "--id", "idem", code=5).stderr
    assert "another job has the id idem" in told
    refused = shell.json("submit", "wc.py", "text", "-o", "out", code=5)
    assert (refused["kind"], refused["exit_code"]) == ("Rejected", 5)


def test_results_on_stdout_and_nothing_else(shell: Shell) -> None:
    for command in ("run", "submit"):
        told = shell.mr(command, "wc.py", "text", "--stdout", "--reduces", "1").stdout
        assert sorted(told.splitlines())[:3] == ["0\t1", "1\t1", "2\t1"]
    assert not list(shell.folder.glob(".mr-*")), "the temporary output stayed"


def test_arguments_of_the_job_stand_after_two_dashes(shell: Shell) -> None:
    for command in ("run", "submit"):
        told = shell.mr(command, "few.py", "text", "--stdout", "--", "--least", "6").stdout
        assert told == "the\t6\n"
    told = shell.mr("submit", "few.py", "text", "-o", "out", "--least", "6", code=2).stderr
    assert "No such option '--least'" in told


def test_detach_prints_the_id_alone(shell: Shell) -> None:
    told = shell.mr("submit", "wc.py", "text", "-o", "out", "--detach").stdout
    assert re.fullmatch(r"wc-[a-z0-9]{5}\n", told)
    assert shell.mr("wait", told.strip()).stdout == ""
    assert parts(shell.folder / "out")


def test_a_dry_run_changes_nothing(shell: Shell) -> None:
    before = {job["id"] for job in shell.json("jobs")}
    told = shell.mr("submit", "wc.py", "text", "-o", "out", "-n").stdout
    assert "nothing was changed" in told
    assert shell.json("plan", "wc.py", "text", "--split-size", "20B")["splits"] == 6
    assert {job["id"] for job in shell.json("jobs")} == before
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_failure_says_why_where_and_what_next(shell: Shell, command: str) -> None:
    done = shell.mr(command, "broken.py", "numbers.txt", "-o", "out", "-q", code=1)
    assert "cause   USER_EXCEPTION   ValueError: invalid literal for int()" in done.stderr
    assert re.search(r"where   broken.py:3 in mapper +input .*numbers.txt .*record 3", done.stderr)
    assert "--skip-bad 10" in done.stderr
    assert not (shell.folder / "out").exists()
    answer = shell.json(command, "broken.py", "numbers.txt", "-o", "out", code=1)
    assert (answer["state"], answer["failure"]["cause"]) == ("FAILED", "USER_EXCEPTION")
    told = shell.mr(command, "broken.py", "numbers.txt", "-o", "out", "--skip-bad", "1", code=0)
    assert "skipped 1" in told.stdout


@pytest.mark.parametrize("command", ["run", "submit"])
def test_more_skipped_than_allowed_is_done_but_not_well(shell: Shell, command: str) -> None:
    """Exit 9: every task stayed within --skip-bad, their sum did not; the output is there."""
    (shell.folder / "bad").mkdir()
    for n in range(2):
        (shell.folder / "bad" / f"{n}.txt").write_text(f"{n}\nx\n")
    told = shell.mr(
        command, "broken.py", "bad", "-o", "out", "--skip-bad", "1", "--split-size", "4B", code=9
    ).stderr
    assert "skipped 2 records; 1 are allowed" in told
    assert b"".join(sorted(parts(shell.folder / "out"))) == b"0\t1\n1\t1\n"


NOTHING_SUBMITTED = [
    ("no input", ["wc.py", "-o", "out"], 2, "wc.py has no input"),
    ("no output", ["wc.py", "text"], 2, "wc.py has no output"),
    ("no job file", ["nix.py", "text", "-o", "out"], 2, "no job file nix.py"),
    ("a missing input", ["wc.py", "texx", "-o", "out"], 2, "did you mean"),
    ("an unknown flag", ["wc.py", "text", "-o", "out", "--reduce", "3"], 2, "--reduces"),
    ("a bad size", ["wc.py", "text", "-o", "out", "--split-size", "3 bananas"], 2, "is not a size"),
    ("a bad format", ["wc.py", "text", "-o", "out", "--input-format", "xml"], 2, "no input format 'xml'"),
    ("an output that exists", ["wc.py", "text", "-o", "text"], 5, "is not empty"),
    ("a job file that breaks", ["syntax.py", "text", "-o", "out"], 2, "syntax.py:1"),
    ("a job file without a job", ["empty.py", "text", "-o", "out"], 2, "empty.py"),
]


@pytest.mark.parametrize(
    ("promise", "words", "code", "told"), NOTHING_SUBMITTED, ids=[row[0] for row in NOTHING_SUBMITTED]
)
@pytest.mark.parametrize("command", ["run", "submit"])
def test_what_is_refused_before_anything_runs(
    shell: Shell, command: str, promise: str, words: list[str], code: int, told: str
) -> None:
    """The same exit code in `run` and `submit`; one clear message; nothing is left behind."""
    (shell.folder / "syntax.py").write_text("def mapper(\n")
    (shell.folder / "empty.py").write_text("x = 1\n")
    before = sorted(os.listdir(shell.folder))
    done = shell.mr(command, *words, code=code)
    assert told in done.stderr, promise
    assert sorted(os.listdir(shell.folder)) == before


def test_nobody_answers(shell: Shell) -> None:
    """Exit 3 within --timeout, and what to do."""
    started = time.monotonic()
    told = shell.mr("jobs", "--masters", "127.0.0.1:1", "--insecure", "--timeout", "1s", code=3).stderr
    assert time.monotonic() - started < 30
    assert "no master answers at 127.0.0.1:1" in told
    assert "mr dev" in told


def test_no_certificate_no_service(shell: Shell, cluster: Cluster, tmp_path: Path) -> None:
    """S0-21: exit 4 for plaintext to another machine, no certificate, and a certificate of another authority."""
    bare = {"MR_TLS__DIR": "", "XDG_CONFIG_HOME": str(tmp_path / "none")}
    told = shell.mr("jobs", "--masters", "192.0.2.1:7070", code=4, **bare).stderr
    assert "no certificate to talk to 192.0.2.1:7070" in told
    told = shell.mr("submit", "wc.py", "text", "-o", "out", "--timeout", "2s", code=4, **bare).stderr
    assert "asks for a certificate" in told
    shell.mr("tls", "init", "--dir", "other")
    told = shell.mr("jobs", "--timeout", "2s", code=4, MR_TLS__DIR=str(tmp_path / "other")).stderr
    assert "do not fit" in told
    assert not (shell.folder / "out").exists()


def test_cancel(shell: Shell) -> None:
    """Exit 7 where it is waited for; nothing is left; cancelling again is no error, after success it is refused."""
    waiting = shell.start("submit", "slow.py", "lines.txt", "-o", "out", "--id", "long", "-q")
    until(shell, "long", "RUNNING")
    shell.mr("cancel", "long", "--reason", "enough")
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 7
    assert "enough" in told
    shell.mr("cancel", "long")
    assert shell.json("wait", "long", code=7)["state"] == "CANCELLED"
    shell.mr("submit", "wc.py", "text", "-o", "out", "--id", "done", "-q")
    assert "SUCCEEDED" in shell.mr("cancel", "done", code=5).stderr


def test_ctrl_c_and_patience_end_the_watching_not_the_job(shell: Shell) -> None:
    """Exit 130 and 124, each with a hint; the job goes on (interface.md, exit codes)."""
    waiting = shell.start(
        "submit", "slow.py", "lines.txt", "-o", "out", "--id", "going", "--split-size", "100B"
    )
    until(shell, "going", "RUNNING")
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 130, told
    assert "mr watch going" in told
    assert "mr cancel going" in told
    told = shell.mr("watch", "going", "--timeout", "1s", code=124).stderr
    assert "going goes on" in told
    answer = shell.json("wait", "going", "--timeout", "1s", code=124)
    assert (answer["id"], answer["state"], answer["exit_code"]) == ("going", "RUNNING", 124)
    assert shell.json("status", "going")["state"] == "RUNNING"
    shell.mr("cancel", "going")


def test_a_deadline_of_the_job(shell: Shell) -> None:
    """Exit 8."""
    told = shell.mr("submit", "slow.py", "lines.txt", "-o", "out", "--deadline", "2s", "-q", code=8).stderr
    assert "deadline" in told.lower()


def test_a_worker_is_drained_and_taken_back(shell: Shell) -> None:
    assert shell.json("worker", "exclude", "w2", "--reason", "odd")["state"] == "excluded"
    assert shell.json("workers")[1]["reason"] == "odd"
    assert shell.json("worker", "include", "w2")["state"] == "active"
    shell.mr("worker", "drain", "w9", code=6)


def test_a_job_that_waits_says_for_what(shell: Shell) -> None:
    """L8: `mr explain` answers with one cause; the job goes on when the cause is gone."""
    for worker in ("w1", "w2"):
        shell.mr("worker", "drain", worker)
    shell.mr("submit", "wc.py", "text", "-o", "out", "--id", "waiting", "--detach")
    answer = shell.json("explain", "waiting")
    assert answer["cause"] == "NO_WORKERS"
    assert "w1 is draining" in " ".join(answer["details"])
    told = shell.mr("plan", "wc.py", "text", code=5).stderr
    assert "no worker could take a task" in told
    for worker in ("w1", "w2"):
        shell.mr("worker", "undrain", worker)
    shell.mr("wait", "waiting")


def test_what_a_task_printed(shell: Shell) -> None:
    (shell.folder / "talks.py").write_text("def mapper(line):\n    print('saw', line)\n    yield line, 1\n")
    shell.mr("submit", "talks.py", "numbers.txt", "-o", "out", "--id", "talks", "-q")
    assert "saw 3x" in shell.mr("logs", "talks", "--task", "m-0").stdout
    [first, *_] = [
        json.loads(line) for line in shell.mr("logs", "talks", "--task", "m-0", "--json").stdout.splitlines()
    ]
    assert (first["task"], first["attempt"]) == ("m-0", 1)
    assert first["worker"] in {"w1", "w2"}


def test_a_failed_job_is_tried_again(shell: Shell) -> None:
    """S2-17: `mr retry`, once what was wrong is put right outside the job."""
    switch = shell.folder / "ready"
    (shell.folder / "needs.py").write_text(
        f"import pathlib\ndef mapper(line):\n    assert pathlib.Path({str(switch)!r}).exists()\n    yield line, 1\n"
    )
    shell.mr("submit", "needs.py", "numbers.txt", "-o", "out", "--id", "needs", "-q", code=1)
    switch.touch()
    again = shell.json("retry", "needs")
    assert shell.json("wait", again["id"])["state"] == "SUCCEEDED"
    shell.mr("retry", again["id"], code=5)


def test_the_client_in_python(shell: Shell, cluster: Cluster) -> None:
    """S0-05: submit, wait, results, counters, events; TimeoutError leaves the job alone; cancel_on_exit opts in."""
    folder = shell.folder
    with cluster.connect() as client:
        handle = client.submit(folder / "wc.py", [folder / "text"], folder / "out", reduces=2, id="py-1")
        assert dict(handle.results())["the"] == 6
        assert handle.state == "SUCCEEDED"
        assert handle.counters()["mr:map_records_in"] == 6
        assert handle.events()[-1].type == "JobFinished"
        assert "py-1" in handle._repr_html_()
        assert client.attach("py-1").wait().id == "py-1"
        with pytest.raises(mr.Rejected, match="not empty"):
            client.submit(folder / "wc.py", [folder / "text"], folder / "out")
        with pytest.raises(mr.JobFailed, match="m-0") as failed:
            client.submit(folder / "broken.py", folder / "numbers.txt", folder / "out2").wait()
        assert (failed.value.cause, failed.value.task) == (mr.Cause.USER_EXCEPTION, "m-0")
        assert "int(line)" in failed.value.traceback
        assert "int(line)" in str(failed.value.__cause__)
    with cluster.connect() as client:
        handle = client.submit(folder / "slow.py", folder / "lines.txt", folder / "out3", cancel_on_exit=True)
        with pytest.raises(TimeoutError):
            handle.wait(timeout=0.5)
        assert handle.state in {"QUEUED", "RUNNING"}
    with cluster.connect() as client, pytest.raises(mr.Cancelled):
        client.attach(handle.id).wait()


async def test_the_client_for_coroutines(shell: Shell, cluster: Cluster) -> None:
    """The same names, awaitable."""
    folder = shell.folder
    async with mr.aconnect(cluster.masters_flag, tls=cluster.tls) as client:
        handle = await client.submit(folder / "wc.py", [folder / "text"], folder / "out")
        await handle
        assert {key: value async for key, value in handle.results()}["the"] == 6
        assert [event.type async for event in handle.follow() if event.index][-1] == "JobFinished"
        assert (await handle.status()).id == handle.id
        assert [worker.id for worker in await client.workers()] == ["w1", "w2"]


def test_map_over_small_things(shell: Shell, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.folder / "squares.py").write_text("def square(x):\n    return x * x\n")
    monkeypatch.syspath_prepend(str(shell.folder))
    import squares  # type: ignore[import-not-found]  # written above

    with cluster.connect() as client:
        assert client.map(squares.square, range(5), folder=shell.folder) == [0, 1, 4, 9, 16]
    assert not list(shell.folder.glob(".mr-map-*"))


def until(shell: Shell, id: str, state: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        done = shell.mr("status", id, "--json", code=None)
        if done.returncode == 0 and json.loads(done.stdout)["state"] == state:
            return
        time.sleep(0.1)
    pytest.fail(f"{id} did not become {state}")
