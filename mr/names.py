"""Names of tasks, attempts and files: pure functions, so that whoever knows an attempt knows its files.

A task is "m-7" in step 0 and "2.m-7" in step 2, as people type it; its attempt 1 owns the files that begin
with "0.m-00007.a1", so two attempts never meet in one file (S1-05). Published parts are "part-r-00003".
"""

import re

from mr.rpc import job_pb2 as pb

LETTERS = {
    pb.MAP: "m",
    pb.REDUCE: "r",
    pb.SAMPLE: "s",
    pb.COMMIT: "c",
    pb.CLEANUP: "x",
    pb.SETUP: "u",
    pb.TEARDOWN: "t",
    pb.MERGE: "g",
}
KINDS = {letter: kind for kind, letter in LETTERS.items()}
_TASK = re.compile(r"(?:(\d+)\.)?([a-z])-(\d+)")
_ATTEMPT = re.compile(r"(\d+)\.([a-z])-(\d+)\.a(\d+)")


def task_text(task: pb.TaskId) -> str:
    """What people read and type: "m-7", "2.r-3"."""
    short = f"{LETTERS[task.kind]}-{task.index}"
    return f"{task.step}.{short}" if task.step else short


def parse_task(text: str, job: str = "") -> pb.TaskId:
    """The inverse of `task_text`, leading zeros allowed. Raises ValueError."""
    match = _TASK.fullmatch(text)
    if match is None or match[2] not in KINDS:
        raise ValueError(f"{text!r} names no task; a task is m-7 or r-3, in step 2 it is 2.m-7")
    return pb.TaskId(job=job, step=int(match[1] or 0), kind=KINDS[match[2]], index=int(match[3]))


def attempt_name(attempt: pb.AttemptId) -> str:
    """The stem of every file of one attempt: "0.m-00007.a1"."""
    task = attempt.task
    return f"{task.step}.{LETTERS[task.kind]}-{task.index:05d}.a{attempt.number}"


def parse_attempt(name: str, job: str = "") -> pb.AttemptId:
    """The inverse of `attempt_name`. Raises ValueError."""
    match = _ATTEMPT.fullmatch(name)
    if match is None or match[2] not in KINDS:
        raise ValueError(f"{name!r} names no attempt")
    task = pb.TaskId(job=job, step=int(match[1]), kind=KINDS[match[2]], index=int(match[3]))
    return pb.AttemptId(task=task, number=int(match[4]))


def segment_name(attempt: pb.AttemptId) -> str:
    """The file of a map's output; its index is the same with ".idx" for ".seg"."""
    return attempt_name(attempt) + ".seg"


def part_name(task: pb.TaskId) -> str:
    """The published name of a task's output: "part-r-00003", "part-m-00007" of a map-only job."""
    return f"part-{LETTERS[task.kind]}-{task.index:05d}"


def side_name(task: pb.TaskId, name: str) -> str:
    """Where a side file is published, below the output: "side/m-00003/thumbs.zip"."""
    return f"side/{LETTERS[task.kind]}-{task.index:05d}/{name}"


def emit_name(task: pb.TaskId, name: str) -> str:
    """Where records emitted to `name` are published: "errors-r-00003"."""
    return f"{name}-{LETTERS[task.kind]}-{task.index:05d}"
