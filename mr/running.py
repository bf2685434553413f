"""What map and reduce attempts share while they run: user code, the record in hand, progress, failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mr import names
from mr.context import Context
from mr.errors import Cause, TaskFailure
from mr.failures import describe_failure, failure_of, short_repr
from mr.loader import Code
from mr.position import Marker
from mr.registry import Function
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.usercode import UserCode

REPORT_EVERY_S = 0.3
KEPT_SKIPPED = 100  # skipped records that are kept for inspection, a task


class Sink(Protocol):
    """Where pairs go: a MapBuffer or a PartWriter."""

    def extend(self, pairs: Iterable[Any], /) -> None:
        """Takes pairs."""


class Running:
    """One attempt under way. `in_hand` and `describe_record` are set by the loop that owns the records."""

    def __init__(
        self,
        request: task_pb2.RunAttempt,
        code: Code,
        context: Context,
        marker: Marker,
        report: Callable[[session_pb2.Progress], None],
        staged: Path,
    ) -> None:
        self.request = request
        self.spec = request.spec
        self.task = request.attempt.task
        self.step = request.spec.steps[request.attempt.task.step]
        self.scratch = Path(request.attempt_dir)
        self.staged = staged
        self.context = context
        self.marker = marker
        self.user = UserCode(code, request.spec, context)
        self.function: Function | None = None
        self.skipped: list[pb.SkippedRecord] = []
        self.skipped_count = 0
        self.describe_record: Callable[[], tuple[str, str]] = lambda: ("", "")
        self.progress: Callable[[], session_pb2.Progress] = session_pb2.Progress
        self.on_discard: list[Callable[[], None]] = []
        self._folder = code.folder
        self._report = report
        self._next_report = time.monotonic() + REPORT_EVERY_S
        context.on_status = self.tick

    @property
    def is_last_step(self) -> bool:
        """Whether its records are the job's output."""
        return self.task.step == len(self.spec.steps) - 1

    @property
    def output_format(self) -> pb.Output:
        """How records are written: the job's format, or type-preserving pairs for the next step."""
        return self.spec.output if self.is_last_step else pb.Output(format="pairs")

    @property
    def output_name(self) -> str:
        """The name of its output below staging/attempts."""
        return names.attempt_name(self.request.attempt)

    def tick(self) -> None:
        """Reports progress, a few times a second at most."""
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_EVERY_S
        progress = self.progress()
        progress.attempt.CopyFrom(self.request.attempt)
        progress.status = self.context.status_text
        progress.counters.update(self.context.counters)
        self._report(progress)

    def skip(self, error: BaseException | str) -> None:
        """Skips the record in hand, if the job allows one more. Raises TaskFailure(TOO_MANY_BAD_RECORDS)."""
        where, record = self.describe_record()
        message = error if isinstance(error, str) else describe_failure(error)
        allowed = self.spec.options.skip_bad
        if self.skipped_count >= allowed:
            raise TaskFailure(
                Cause.TOO_MANY_BAD_RECORDS,
                f"more than {allowed} bad records; the last: {message}",
                input=where,
                record=record,
            ) from (None if isinstance(error, str) else error)
        self.skipped_count += 1
        if len(self.skipped) < KEPT_SKIPPED:
            self.skipped.append(pb.SkippedRecord(input=where, record=record, message=message))

    def failure(self, error: BaseException) -> pb.Failure:
        """The Failure for what ended the attempt."""
        try:
            where, record = self.describe_record()
        except Exception as failed:  # the file that the record came from may be gone
            where, record = "", short_repr(failed)
        return failure_of(
            error,
            folder=self._folder,
            function=self.function,
            functions=[f for f in self.user.bound if f.kind == "combiner"],
            input=where,
            record=record,
            record_number=self.marker.slots[0],
        )

    def discard(self) -> None:
        """Removes what a failed attempt has written."""
        for undo in self.on_discard:
            undo()

    def finish(self, result: pb.TaskResult) -> pb.TaskResult:
        """Adds what every result has."""
        result.skipped.extend(self.skipped)
        if self.skipped_count:
            result.counters["mr:records_skipped"] = self.skipped_count
        return result
