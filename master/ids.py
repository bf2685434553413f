"""Names of tasks and attempts inside a master: tuples, because a protobuf message can be no key of a dict.

Text forms are those that people see (`mr tasks`): "m-7" in step 0, "2.m-7" in step 2, "m-7#3" for attempt 3.
"""

from __future__ import annotations

from typing import NamedTuple

from mr.rpc import job_pb2

MAP = job_pb2.MAP
REDUCE = job_pb2.REDUCE
COMMIT = job_pb2.COMMIT
CLEANUP = job_pb2.CLEANUP

_LETTERS: dict[int, str] = {
    job_pb2.MAP: "m",
    job_pb2.REDUCE: "r",
    job_pb2.SAMPLE: "sample",
    job_pb2.COMMIT: "commit",
    job_pb2.CLEANUP: "cleanup",
    job_pb2.SETUP: "setup",
    job_pb2.TEARDOWN: "teardown",
    job_pb2.MERGE: "merge",
}
_KINDS = {letters: kind for kind, letters in _LETTERS.items()}


class TaskKey(NamedTuple):
    """One task of one job. `kind` is a `job_pb2.Kind`."""

    job: str
    step: int
    kind: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs

    @property
    def text(self) -> str:
        """As people see it, without the job."""
        name = f"{_LETTERS.get(self.kind, f'kind{self.kind}')}-{self.index}"
        return f"{self.step}.{name}" if self.step else name

    def proto(self) -> job_pb2.TaskId:
        """As it travels."""
        return job_pb2.TaskId(job=self.job, step=self.step, kind=self.kind, index=self.index)  # type: ignore[arg-type]  # an open enum


class AttemptKey(NamedTuple):
    """One attempt of one task; numbers start at 1."""

    job: str
    step: int
    kind: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    number: int

    @property
    def task(self) -> TaskKey:
        """The task it is an attempt of."""
        return TaskKey(self.job, self.step, self.kind, self.index)

    @property
    def text(self) -> str:
        """As people see it, without the job."""
        return f"{self.task.text}#{self.number}"

    def proto(self) -> job_pb2.AttemptId:
        """As it travels. Written field by field: this is made several times for every attempt."""
        made = job_pb2.AttemptId(number=self.number)
        task = made.task
        task.job, task.step, task.kind, task.index = self.job, self.step, self.kind, self.index  # type: ignore[assignment]  # an open enum
        return made


def key_of(attempt: job_pb2.AttemptId) -> AttemptKey:
    """The key of an attempt that came over the wire."""
    task = attempt.task
    return AttemptKey(task.job, task.step, task.kind, task.index, attempt.number)


def task_named(job: str, text: str) -> TaskKey | None:
    """The task that a person means by "m-7" or "2.m-7" or "m-00007"; None when it is no such name."""
    step_text, dot, rest = text.partition(".")
    step, name = (step_text, rest) if dot else ("0", text)
    letters, _, index = name.partition("-")
    if letters not in _KINDS or not step.isdecimal():
        return None
    if not index and letters in ("commit", "cleanup"):
        index = "0"
    return TaskKey(job, int(step), _KINDS[letters], int(index)) if index.isdecimal() else None
