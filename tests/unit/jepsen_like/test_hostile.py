"""Hostile jobs (FT16): the harness knows how each must end, and nothing hostile happens in the harness itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepsen_like import hostile, reference, tasks, workloads
from jepsen_like.checkers_clients import ends
from jepsen_like.evidence import Evidence, Job, Mark
from jepsen_like.verdict import Outcome
from jepsen_like.workloads import Work
from mr.causes import Cause

GOOD = [deed for deed, (state, _, _) in hostile.ENDS.items() if state == "SUCCEEDED"]
BAD = [deed for deed in hostile.ENDS if deed not in GOOD]


def work(deed: str) -> Work:
    return Work(id="x-000", shape=f"hostile-{deed}", at_s=0, seed=3, files=2, lines=3, reduces=1)


def test_every_deed_has_a_shape_an_end_and_a_place_in_the_mix() -> None:
    assert tuple(hostile.ENDS) == tasks.DEEDS
    for deed, (_, causes, _) in hostile.ENDS.items():
        assert f"hostile-{deed}" in tasks.SHAPES
        assert workloads.MIX[f"hostile-{deed}"] > 0
        assert all(cause in Cause.__members__ for cause in causes)


@pytest.mark.parametrize("deed", hostile.ENDS)
def test_a_job_file_holds_the_deed_and_the_harness_does_not_do_it(
    deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MR_TASK_ID", raising=False)
    files = workloads.write_inputs(work(deed), tmp_path)
    assert sum(f"HOSTILE {deed}" in file.read_text() for file in files) == 1
    mapper, reducer, _ = tasks.SHAPES[f"hostile-{deed}"]
    assert reference.run(mapper, reducer, files, 1).records_in == 9
    there: dict[str, object] = {}
    exec(compile(tasks.source(f"hostile-{deed}"), "job.py", "exec"), there)
    struck = there["strike"]
    assert callable(struck)
    assert struck is not tasks.strike
    assert "mapper" in there


def test_a_deed_is_done_in_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, object] = {}
    exec(compile(tasks.source("hostile-chdir"), "job.py", "exec"), there)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MR_TASK_ID", "m-0")
    mapper = there["mapper"]
    assert callable(mapper)
    assert list(mapper("HOSTILE chdir")) == [("HOSTILE", 1)]
    assert os.getcwd() == "/"


def judged(deed: str, state: str, cause: str, message: str, tries: int = hostile.ATTEMPTS) -> Outcome:
    failure = {"cause": cause, "message": message, "task": "m-1"} if cause else None
    status = {"state": state, "reason": "", "failure": failure}
    job = Job(id="x", shape=f"hostile-{deed}", expected=work(deed).expected, status=status)
    marks = [Mark(job="x", task="m-1", attempt=n, t=n) for n in range(tries)]
    return ends([], Evidence(jobs=[job], marks=marks)).outcome


@pytest.mark.parametrize("deed", BAD)
def test_a_hostile_job_must_fail_by_its_own_cause(deed: str) -> None:
    """T6."""
    state, causes, word = hostile.ENDS[deed]
    assert judged(deed, state, causes[0], f"something {word}") is Outcome.VALID
    assert judged(deed, state, "WORKER_LOST", f"something {word}") is Outcome.INVALID
    assert judged(deed, "SUCCEEDED", "", "") is Outcome.INVALID
    assert judged(deed, state, causes[0], f"something {word}", tries=1) is Outcome.INVALID
    if word:
        assert judged(deed, state, causes[0], "something else") is Outcome.INVALID


@pytest.mark.parametrize("deed", GOOD)
def test_a_harmless_job_must_succeed(deed: str) -> None:
    assert judged(deed, "SUCCEEDED", "", "") is Outcome.VALID
    assert judged(deed, "FAILED", "USER_EXIT", "") is Outcome.INVALID
