"""P-06: the side files of every winner are published, also those of maps whose pairs went to reduces. And where another
try of a job stages its output."""

from __future__ import annotations

from pathlib import Path

import pytest

from master import orders
from master.ids import COMMIT, AttemptKey
from master.task_table import TaskTable
from mr.output import check_nonce, prepare_staging
from mr.rpc import job_pb2, table_pb2
from mr.submit import _stage_again
from tests.scenarios.commands import command

STORY = (
    "submit wc maps=1 reduces=1,1",
    "attach w1 slots=9",
    "assign m-0#1 w1",
    "complete m-0#1 w1",
    "lose-output m-0#1 w1",
    "assign m-0#2 w1",
    "complete m-0#2 w1",
    "assign r-0#1 w1",
    "complete r-0#1 w1",
    "assign 1.m-0#1 w1",
    "complete 1.m-0#1 w1",
    "assign 1.r-0#1 w1",
    "complete 1.r-0#1 w1",
)


def played(*, thaw_after: str = "") -> TaskTable:
    """Every attempt of the story has made a side file of its name; the table may come from a snapshot in between."""
    table = TaskTable()
    for index, text in enumerate(STORY, 1):
        said = command(table, text)
        if said.HasField("complete"):
            name = said.complete.result.file.name
            said.complete.result.file.side_files.add(name=f"side.{name}", part=f"side/{name}", bytes=1)
        table.apply(index, table_pb2.Entry(term=1, now_ms=index, commands=[said]))
        if text == thaw_after:
            kept = table.snapshot()()
            table = TaskTable()
            table.restore(kept)
    return table


def published(table: TaskTable) -> tuple[list[str], list[str]]:
    """(parts, side files) that the COMMIT task is told of."""
    order = orders.assign(
        table.jobs["wc"], AttemptKey("wc", 0, COMMIT, 0, 1), 99, split=None, with_spec=False, deadline_ms=0
    )
    files: list[job_pb2.OutputFile] = list(order.assign.files)
    return [f.name for f in files if f.name], sorted(s.part for f in files for s in f.side_files)


def test_side_files_of_every_step_and_kind_are_published_once() -> None:
    parts, sides = published(played())
    assert parts == ["1.r-0.a1"]
    assert sides == ["side/1.m-0.a1", "side/1.r-0.a1", "side/m-0.a2", "side/r-0.a1"]


def test_a_snapshot_keeps_them() -> None:
    assert published(played(thaw_after="complete m-0#2 w1")) == published(played())


@pytest.mark.parametrize("job", ["wc", "a"])
@pytest.mark.parametrize("output", ["/data/out", "/data/wc", "/a/wc-a/wc"])
def test_a_retry_has_the_staging_place_that_its_client_made(job: str, output: str, tmp_path: Path) -> None:
    """Also when the path of the output holds the name of the job: then only its end changes."""
    table = TaskTable()
    submit = command(table, f"submit {job} maps=1 reduces=1")
    submit.submit.spec.output.path = f"{tmp_path}{output}"
    prepare_staging(submit.submit.spec)
    for index, said in enumerate((submit, command(table, f"cancel {job}"), command(table, f"retry {job}"))):
        table.apply(index + 1, table_pb2.Entry(term=1, now_ms=index, commands=[said]))
    again = table.jobs[f"{job}-r1"].spec
    _stage_again(table.jobs[job].spec, f"{job}-r1")
    check_nonce(again)
