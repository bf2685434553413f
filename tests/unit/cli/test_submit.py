"""Whose staging place it is: several clients may submit under one id, and only one of them is the job's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mr import errors, output, submit
from mr.client import connect
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2
from tests.unit.cli.fake import FakeMaster, job

Start = Callable[..., FakeMaster]
ABSENT = errors.NotFound("no such job")
FULL = errors.Rejected("100 jobs are queued", code="QUOTA", next="wait")


def prepared(folder: Path) -> submit.Prepared:
    spec = job_pb2.JobSpec(job_id="wc-1", output=job_pb2.Output(path=str(folder / "out"), format="tsv"))
    return submit.Prepared(spec, job_pb2.SplitPlan(), b"code", 1, None)  # type: ignore[arg-type]  # not described


def send(one: FakeMaster, what: submit.Prepared) -> pb.SubmitReply:
    with connect([one.address], insecure=True, timeout=1.0) as client:
        return submit.send(client.calls, what)


def found(spec: job_pb2.JobSpec, nonce: str) -> pb.JobStatus:
    status = job("RUNNING", "wc-1")
    status.spec.CopyFrom(spec)
    status.spec.nonce = nonce
    return status


# What Submit answers, what the masters say of the job afterwards, and whether the place stays.
CASES: dict[str, tuple[Any, str, bool]] = {
    "accepted": (pb.SubmitReply(job="wc-1"), "ours", True),
    "accepted before, from the same place": (pb.SubmitReply(job="wc-1", existed=True), "ours", True),
    "accepted before, and its own place is gone": (pb.SubmitReply(job="wc-1", existed=True), "other", False),
    "refused": (FULL, "absent", False),
    "refused, another client's from this place runs": (FULL, "ours", True),
    "refused, and then nobody answers": (FULL, "silent", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_place_is_removed_only_if_nobody_will_use_it(master: Start, tmp_path: Path, case: str) -> None:
    answer, afterwards, stays = CASES[case]
    what = prepared(tmp_path)
    submitted: list[bool] = []

    def script(method: str, request: Any) -> Any:
        if method == "Put":
            return pb.PutReply()
        if method == "Submit":
            submitted.append(True)
            return answer
        if not submitted or afterwards == "absent":
            return ABSENT
        if afterwards == "silent":
            return errors.Unavailable("no leader")
        return found(what.spec, what.spec.nonce if afterwards == "ours" else "other")

    if isinstance(answer, errors.Error):
        with pytest.raises(errors.Rejected):
            send(master(script), what)
    else:
        send(master(script), what)
    assert Path(what.spec.staging).exists() is stays


def test_a_job_that_another_client_submitted_and_finished_meanwhile_is_ours(
    master: Start, tmp_path: Path
) -> None:
    """Its output is there already: that is no error for the second client of the same job."""
    what = prepared(tmp_path)
    what.spec.output.path = str(tmp_path / "out")
    looked: list[bool] = []

    def script(method: str, request: Any) -> Any:
        if looked:
            return found(what.spec, "other")
        looked.append(True)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "_SUCCESS").touch()
        return ABSENT

    one = master(script)
    assert send(one, what).existed
    assert one.asked("Submit") == []
    assert output.MANIFEST in {path.name for path in (tmp_path / "out").iterdir()}
