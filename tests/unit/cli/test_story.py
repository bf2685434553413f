"""What people read: one line a change in a pipe, the failure form, the line on a change of leader."""

from __future__ import annotations

import io

import pytest

from mr import story
from mr.follow import Follower, Pipe
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2, table_pb2


def running(term: int = 12, leader: str = "b", maps: int = 281, reruns: int = 0) -> pb.JobStatus:
    status = pb.JobStatus(id="wc-7f3k2", state=table_pb2.RUNNING, term=term, leader=leader)
    status.steps.add(
        map=pb.KindStatus(total=423, completed=maps, in_progress=14, backups=3),
        reduce=pb.KindStatus(total=8, in_progress=8, fetched=266),
    )
    if reruns:
        status.reruns["worker lost"] = reruns
    return status


def test_acceptance_and_input() -> None:
    spec = job_pb2.JobSpec(code_digest=bytes.fromhex("1c9e5a" + "00" * 29), maps=423, input_files=412)
    spec.input_bytes = 28_346_784_154
    spec.options.priority = 50
    reply = pb.SubmitReply(job="wc-7f3k2", term=12, index=18231, leader="b")
    assert story.accepted(reply, spec) == (
        "job wc-7f3k2   queue default   prio 50   accepted: term 12, index 18231, leader b"
    )
    assert (
        story.taken_in(spec, 1, 1228)
        == "code 1c9e5a (1 file, 1.2 KiB)   input 412 files, 26.4 GiB, 423 splits"
    )


def test_progress_of_both_kinds() -> None:
    assert story.progress(running(), rate=1.9 * 2**30) == [
        "map       281/423  66%   14 running   0 failed   3 backup   1.9 GiB/s",
        "reduce        0/8   0%   8 running   0 failed   0 backup  fetched 266/423 outputs",
    ]


def test_a_publishing_job_shows_the_commit() -> None:
    status = running(maps=423)
    status.state = table_pb2.PUBLISHING
    status.steps[0].reduce.completed = 8
    assert story.progress(status) == ["map     423/423   reduce 8/8   commit …"]
    status.state = table_pb2.SUCCEEDED
    assert story.progress(status) == ["map     423/423   reduce 8/8   commit ok"]


def test_a_later_step_is_named() -> None:
    status = running(maps=423)
    status.steps[0].reduce.completed = 8
    status.steps.add(step=1, map=pb.KindStatus(total=8, completed=1))
    assert story.progress(status) == ["step 1  map           1/8  12%   0 running   0 failed   0 backup"]


CHANGES = [
    (running(), running(13, "c"), 1.4, "leader b lost, c elected after 1.4 s; 0 finished tasks run again"),
    (
        running(),
        running(13, "c", reruns=1),
        0.3,
        "leader b lost, c elected after 300 ms; 1 finished task runs again",
    ),
    (
        running(reruns=2),
        running(13, "c", reruns=2),
        None,
        "leader b lost, c elected; 0 finished tasks run again",
    ),
    (
        running(),
        running(14, "b"),
        0.5,
        "leader b elected again, term 14 after 500 ms; 0 finished tasks run again",
    ),
]


@pytest.mark.parametrize(("before", "after", "gap_s", "line"), CHANGES, ids=[row[3] for row in CHANGES])
def test_a_change_of_leader_is_one_line(
    before: pb.JobStatus, after: pb.JobStatus, gap_s: float | None, line: str
) -> None:
    assert story.leader_change(before, after, gap_s) == line


def failed_job() -> pb.JobStatus:
    status = pb.JobStatus(
        id="wc-7f3k2", state=table_pb2.FAILED, reason="m-107 failed 4 times: USER_EXCEPTION"
    )
    status.failed_task.task.CopyFrom(job_pb2.TaskId(kind=job_pb2.MAP, index=107))
    failure = job_pb2.Failure(
        cause=job_pb2.USER_EXCEPTION,
        message="ValueError: invalid literal for int(): '12x'",
        where="wordcount.py:14 in mapper",
        input="/logs/07.txt byte 88213 (record 1203)",
        peak_memory=212 * 2**20,
        traceback="Traceback (most recent call last):\nValueError: invalid\n",
    )
    status.failure.CopyFrom(failure)
    for number, worker in enumerate(("w3", "w5", "w1", "w8"), start=1):
        info = status.story.add(worker=worker, state="failed", failure=failure)
        info.attempt.number = number
    return status


def test_the_failure_form() -> None:
    """interface.md: why, where, who tried, what next; then the traceback."""
    assert story.failure(failed_job()) == [
        "FAILED  map m-107 failed 4 times, same record",
        "  cause   USER_EXCEPTION   ValueError: invalid literal for int(): '12x'",
        "  where   wordcount.py:14 in mapper        input /logs/07.txt byte 88213 (record 1203)",
        "  tried   w3 w5 w1 w8                      peak memory 212 MiB",
        "  next    try that record with `mr run --inline`, or resubmit with --skip-bad 10",
        "  traceback",
        "    Traceback (most recent call last):",
        "    ValueError: invalid",
    ]


def test_a_failure_without_a_task_still_says_why() -> None:
    status = pb.JobStatus(id="x", state=table_pb2.FAILED, reason="no worker is left for this job")
    assert story.failure(status) == ["FAILED  no worker is left for this job"]


def told(*events: pb.JobEvent, breaks_before: int | None = None) -> list[str]:
    """What a pipe gets of these events, without clocks."""
    out = io.StringIO()
    follower = Follower(Pipe(out))
    for n, event in enumerate(events):
        if n == breaks_before:
            follower.broken()
        follower.take(event)
    return [line.split("  ", 1)[1] if line[2:3] == ":" else line for line in out.getvalue().splitlines()]


def seen(status: pb.JobStatus) -> pb.JobEvent:
    return pb.JobEvent(type="Progress", status=status)


def test_a_pipe_gets_changes_and_news() -> None:
    lines = told(
        seen(running()),
        seen(running()),
        pb.JobEvent(index=9, type="AttemptFailed", text="m-3#1 on w2 failed: USER_EXCEPTION x"),
        pb.JobEvent(index=10, type="TaskCompleted", text="m-4#1 completed on w1"),
    )
    assert lines == [
        "map       281/423  66%   14 running   0 failed   3 backup",
        "reduce        0/8   0%   8 running   0 failed   0 backup  fetched 266/423 outputs",
        "m-3#1 on w2 failed: USER_EXCEPTION x",
    ]


def test_a_pipe_hears_of_a_new_leader_once_its_cost_is_known() -> None:
    """The line waits for a status of the new term: only that one knows how many tasks run again."""
    lines = told(
        seen(running()),
        pb.JobEvent(index=20, type="LeaderChanged", text="leader c took office"),
        seen(running(12, "b")),  # a follower that has not heard of it yet
        seen(running(13, "c")),
        seen(running(13, "c")),
        breaks_before=1,
    )
    assert [line for line in lines if line.startswith("leader")] == [
        "leader b lost, c elected after 0 ms; 0 finished tasks run again"
    ]


def test_lost_outputs_are_summed_up_by_worker() -> None:
    lost = [
        pb.JobEvent(index=7, type="MapOutputLost", worker=worker, text="…") for worker in ("w3", "w3", "w1")
    ]
    lines = told(seen(running()), *lost, seen(running()))
    assert lines[2:] == ["w3 lost: 2 finished maps run again", "w1 lost: 1 finished map runs again"]
