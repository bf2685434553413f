"""The steps of a local job, one after the other, and how it ended. The rules of a cluster, without one.

User failures of one task are tried again up to `max_attempts`; other failures end the job; a record on which
two task processes died is skipped from then on, if the job allows it (P-07).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr import names
from mr.errors import CAUSES, Cause, JobFailed
from mr.executors import Inline, Pool, Runner
from mr.failures import AttemptFailed
from mr.results import read_results
from mr.rpc import job_pb2 as pb
from mr.rpc import task_pb2
from mr.shuffle import segment

DEATHS_BEFORE_SKIP = 2  # of a task process on one record (P-07)
DEATHS = (pb.USER_EXIT, pb.NATIVE_SIGNAL, pb.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True)
class Moved:
    """How far a local job is; what `on_progress` is called with after each task."""

    phase: str  # "map", "reduce", "commit"
    step: int
    done: int
    total: int


@dataclass(slots=True, weakref_slot=True, eq=False)
class LocalResult:
    """How a local job ended. `state` is SUCCEEDED or FAILED; `output` the published directory."""

    job_id: str
    output: Path
    state: str = "SUCCEEDED"
    counters: dict[str, int] = field(default_factory=dict)
    manifest: str = ""  # hex digest
    note: str = ""  # what `finalize` returned
    attempts: int = 0
    skipped: list[pb.SkippedRecord] = field(default_factory=list)
    failure: pb.Failure | None = None
    failed_task: str = ""
    seconds: float = 0.0
    error: AttemptFailed | None = (
        None  # its `__cause__` is the user's own exception, if it ran in this process
    )

    def results(self) -> Iterator[tuple[Any, Any]]:
        """The (key, value) pairs of the output, in the order of the parts, as its format reads them back."""
        yield from read_results(self.output)  # holds on to self, and so to a temporary output

    @property
    def skipped_count(self) -> int:
        """How many records were skipped."""
        return self.counters.get("mr:records_skipped", 0)

    def raise_if_failed(self) -> LocalResult:
        """Itself, or JobFailed."""
        if self.failure is None:
            return self
        raise JobFailed(
            f"{self.failed_task}: {self.failure.message}",
            job=self.job_id,
            cause=self.failure.cause,
            task=self.failed_task,
            traceback=self.failure.traceback,
            where=self.failure.where,
            input=self.failure.input,
        ) from (self.error.__cause__ if self.error else None)


class LocalJob:
    """The steps of one job, one after the other."""

    def __init__(
        self, spec: pb.JobSpec, plan: pb.SplitPlan, scratch: Path, on_progress: Callable[[Moved], None]
    ) -> None:
        self.spec = spec
        self.result = LocalResult(spec.job_id, Path(spec.output.path))
        self._plan = plan
        self._scratch = scratch
        self._map_dir = scratch / "map"
        self._on_progress = on_progress
        self._indices: dict[Path, segment.Index] = {}  # of the running step
        self._files: list[pb.OutputFile] = []  # with nothing but side files, for maps that feed a reduce

    def run(self, executor: Inline | Pool) -> None:
        """Runs everything. Raises AttemptFailed."""
        sources = [task_pb2.RunAttempt(split=split) for split in self._plan.splits]
        outputs: list[pb.OutputFile] = []
        for number, step in enumerate(self.spec.steps):
            maps = self._phase(executor, number, pb.MAP, sources)
            if step.reducer:
                self._keep_side_files(maps)
                merges = [task_pb2.RunAttempt(runs=self._runs(number, maps, p)) for p in range(step.reduces)]
                done = self._phase(executor, number, pb.REDUCE, merges)
                shutil.rmtree(self._map_dir, ignore_errors=True)
            else:
                done = maps
            outputs = [result.file for result, _ in done]
            if number < len(self.spec.steps) - 1:
                self._keep_side_files(done)
                sources = [task_pb2.RunAttempt(source_file=file) for file in outputs]
        commit = task_pb2.RunAttempt(files=[*outputs, *self._files], counters=self.result.counters)
        ((published, _),) = self._phase(executor, 0, pb.COMMIT, [commit])
        self.result.manifest = published.manifest_digest.hex()
        self.result.note = published.note

    def _keep_side_files(self, done: list[tuple[pb.TaskResult, int]]) -> None:
        self._files += [
            pb.OutputFile(side_files=result.file.side_files) for result, _ in done if result.file.side_files
        ]

    def _runs(self, step: int, maps: list[tuple[pb.TaskResult, int]], partition: int) -> list[task_pb2.Run]:
        runs = []
        for number, (_, tried) in enumerate(maps):
            path = self._map_dir / names.segment_name(self._attempt(step, pb.MAP, number, tried))
            index = self._index(path)
            runs.append(
                task_pb2.Run(
                    map=number,
                    attempt=tried,
                    path=str(path),
                    offset=index.offsets[partition],
                    length=index.lengths[partition],
                )
            )
        return runs

    def _index(self, path: Path) -> segment.Index:
        known = self._indices.get(path)
        if known is None:
            known = self._indices[path] = segment.open_index(path)
        return known

    def _attempt(self, step: int, kind: pb.Kind.ValueType, index: int, number: int) -> pb.AttemptId:
        task = pb.TaskId(job=self.spec.job_id, step=step, kind=kind, index=index)
        return pb.AttemptId(task=task, number=number)

    def _phase(
        self,
        executor: Inline | Pool,
        step: int,
        kind: pb.Kind.ValueType,
        requests: list[task_pb2.RunAttempt],
    ) -> list[tuple[pb.TaskResult, int]]:
        """Runs all tasks of one kind of one step; (result, number of the winning attempt) in task order."""
        self._indices = {}
        done: dict[int, tuple[pb.TaskResult, int]] = {}
        phase = {pb.MAP: "map", pb.REDUCE: "reduce"}.get(kind, "commit")

        def one(request: task_pb2.RunAttempt, run: Runner) -> None:
            index = request.attempt.task.index
            done[index] = self._until_done(request, run, executor.tries or self.spec.options.max_attempts)
            self._on_progress(Moved(phase, step, len(done), len(requests)))

        for index, request in enumerate(requests):
            request.attempt.CopyFrom(self._attempt(step, kind, index, 0))
            request.spec.CopyFrom(self.spec)
            request.job_dir = str(self._map_dir)
        self._on_progress(Moved(phase, step, 0, len(requests)))
        executor.each(requests, one)
        results = [done[index] for index in range(len(requests))]
        for result, _ in results:
            for name, count in result.counters.items():
                self.result.counters[name] = self.result.counters.get(name, 0) + count
            self.result.skipped.extend(result.skipped)
        return results

    def _until_done(self, request: task_pb2.RunAttempt, run: Runner, tries: int) -> tuple[pb.TaskResult, int]:
        """Tries a task until it is done, the user's failures are too many, or a failure is final."""
        deaths: dict[int, int] = {}
        while True:
            request.attempt.number += 1
            folder = self._scratch / names.attempt_name(request.attempt)
            request.attempt_dir = str(folder)
            self.result.attempts += 1
            try:
                return run(request), request.attempt.number
            except AttemptFailed as failed:
                cause = CAUSES[Cause(failed.failure.cause)]
                if request.attempt.number >= tries or cause.fatal or not cause.user:
                    self.result.failed_task = names.task_text(request.attempt.task)
                    raise
                self._note_death(request, failed.failure, deaths)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _note_death(self, request: task_pb2.RunAttempt, failure: pb.Failure, deaths: dict[int, int]) -> None:
        """Two deaths of the process on one record: it is skipped from now on, if the job allows it (P-07)."""
        record = failure.record_number
        if failure.cause not in DEATHS or not record or not self.spec.options.skip_bad:
            return
        deaths[record] = deaths.get(record, 0) + 1
        if deaths[record] >= DEATHS_BEFORE_SKIP:
            request.skip.append(record)
