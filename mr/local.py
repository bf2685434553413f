"""A whole job without a cluster: all maps in order, then all reduces, then the publication (S0-18, S1-12).

The same attempts as on a worker, so the same bytes: in this process, where breakpoints work, or in N task
processes. Needs no server, no network and no configuration. `mr.local().run(job, inputs).results()`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from mr import attempt, bundle, context, formats, inputs, loader, names, output, splits
from mr.compile import compile_job
from mr.errors import CAUSES, Cause, JobFailed, Usage
from mr.failures import AttemptFailed
from mr.job import Job
from mr.jobclass import is_job_class
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.shuffle import segment
from mr.taskproc import TaskProcess

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
        yield from output.read_results(self.output)  # holds on to self, and so to a temporary output

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


Runner = Callable[[task_pb2.RunAttempt], pb.TaskResult]


def run_local(
    spec: pb.JobSpec,
    plan: pb.SplitPlan,
    code: loader.Code | Path,
    *,
    processes: int = 0,
    on_progress: Callable[[Moved], None] | None = None,
    work_dir: Path | None = None,
) -> LocalResult:
    """Runs a complete JobSpec. `code` is loaded code, run in this process, or an unpacked bundle for `processes`.

    A failed job is a result and no exception; its staging place is removed. Raises Usage, Rejected and
    OutputError for what is wrong before anything runs.
    """
    started = time.monotonic()
    if isinstance(code, Path) and processes < 1:
        raise ValueError("an unpacked bundle is run by processes; inline runs take loaded code")
    output.prepare_staging(spec)
    with tempfile.TemporaryDirectory(prefix="mr-local-", dir=work_dir) as scratch:
        job = _LocalJob(spec, plan, Path(scratch), on_progress or (lambda _: None))
        try:
            if isinstance(code, Path):
                with _Pool(processes, code) as pool:
                    job.run(pool)
            else:
                job.run(_Inline(code))
        except AttemptFailed as failed:
            job.result.state, job.result.failure, job.result.error = "FAILED", failed.failure, failed
            output.cleanup(spec)
        except BaseException:
            output.cleanup(spec)
            raise
    job.result.seconds = time.monotonic() - started
    return job.result


class _Inline:
    """Runs attempts in this process: an exception keeps its traceback, a breakpoint stops here."""

    tries = 1  # the same process would fail the same way

    def __init__(self, code: loader.Code) -> None:
        self._code = code

    def each(
        self, requests: Sequence[task_pb2.RunAttempt], run: Callable[[task_pb2.RunAttempt, Runner], None]
    ) -> None:
        """Calls `run(request, runner)` for each request, in order."""
        for request in requests:
            run(request, self._run)

    def _run(self, request: task_pb2.RunAttempt) -> pb.TaskResult:
        return attempt.run(request, self._code, _ignore)


class _Pool:
    """Runs attempts in N task processes."""

    tries = 0  # as many as the job allows

    def __init__(self, processes: int, code_dir: Path) -> None:
        self._code_dir = str(code_dir)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="mr-local")
        self._idle: SimpleQueue[TaskProcess] = SimpleQueue()
        self._all = [TaskProcess() for _ in range(processes)]
        for process in self._all:
            self._idle.put(process)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
        self._threads.shutdown()
        for process in self._all:
            process.close()

    def each(
        self, requests: Sequence[task_pb2.RunAttempt], run: Callable[[task_pb2.RunAttempt, Runner], None]
    ) -> None:
        """Calls `run(request, runner)` for each request, some at a time; begins in order."""
        futures = [self._threads.submit(run, request, self._run) for request in requests]
        for future in futures:
            future.result()

    def _run(self, request: task_pb2.RunAttempt) -> pb.TaskResult:
        request.code_dir = self._code_dir
        process = self._idle.get()
        try:
            return process.run(request, _ignore)
        finally:
            self._idle.put(process)


def _ignore(_: session_pb2.Progress) -> None:
    """Progress within a task is of no use here."""


class _LocalJob:
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
        self._files: list[pb.OutputFile] = []  # with nothing but side files, for maps that feed a reduce

    def run(self, executor: _Inline | _Pool) -> None:
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
        executor: _Inline | _Pool,
        step: int,
        kind: pb.Kind.ValueType,
        requests: list[task_pb2.RunAttempt],
    ) -> list[tuple[pb.TaskResult, int]]:
        """Runs all tasks of one kind of one step; (result, number of the winning attempt) in task order."""
        self._indices: dict[Path, segment.Index] = {}
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


class Local:
    """`mr.local()`: runs jobs on this machine."""

    def run(
        self,
        job: Job | type | str | Path,
        inputs: Sequence[str | Path] | str | Path = (),
        output: str | Path | None = None,
        *,
        args: Sequence[str] = (),
        processes: int = 0,
        py_files: Sequence[str | Path] = (),
        files: Sequence[str | Path] = (),
        on_progress: Callable[[Moved], None] | None = None,
        **flags: Any,
    ) -> LocalResult:
        """Runs a job and returns when it is done.

        `job` is a Job, a job class, or the path of a job file. With `processes=0` everything runs in this
        process and a failure carries the user's own exception as its `__cause__`. Without `output` the results
        are kept until the returned object is gone. `flags` are settings that win over the job's (`reduces=4`).
        Raises JobFailed, Usage, Rejected.
        """
        scratch = Path(tempfile.mkdtemp(prefix="mr-"))
        try:
            spec, code = _prepare(job, args, processes, py_files, files, flags, scratch)
            plan = plan_inputs(spec, inputs)
            spec.output.path = str(Path(output or spec.output.path or scratch / "out").absolute())
            result = run_local(spec, plan, code, processes=processes, on_progress=on_progress)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        weakref.finalize(result, shutil.rmtree, scratch, ignore_errors=True)
        return result.raise_if_failed()


def _prepare(
    job: Any,
    args: Sequence[str],
    processes: int,
    py_files: Sequence[str | Path],
    files: Sequence[str | Path],
    flags: dict[str, Any],
    scratch: Path,
) -> tuple[pb.JobSpec, loader.Code | Path]:
    """The JobSpec, and the code as the run needs it."""
    file = Path(job) if isinstance(job, str | Path) else Path(_file_of(job))
    if processes > 0:
        from mr.describe import describe

        name = job.name if isinstance(job, Job) else ""
        described = describe(file, args=args, py_files=py_files, files=files, flags=flags, name=name)
        spec = described.spec
        folder = bundle.unpack(described.bundle.data, described.bundle.digest, scratch / "code")
        code: loader.Code | Path = folder
        spec.code_digest = described.bundle.digest
    else:
        loaded = _load_inline(job, file, args)
        data = None
        if files:
            packed = bundle.build(file, [Path(p) for p in py_files], [Path(p) for p in files])
            data = bundle.unpack(packed.data, packed.digest, scratch / "code")
        code = loader.Code(loaded.job, loaded.registry, loaded.folder, data)
        spec = compile_job(loaded.job, job_file=file.name, args=args, flags=flags)
    spec.job_id = local_id(spec.name)
    return spec, code


def _load_inline(job: Any, file: Path, args: Sequence[str]) -> loader.Code:
    if isinstance(job, str | Path):
        return loader.load(file, args)
    context.set_arguments(args)
    made = job.job() if is_job_class(job) else job
    if not isinstance(made, Job):
        raise Usage(f"{job!r} is no job: give an mr.Job, a class of mr.JobClass or the path of a job file")
    return loader.Code(made, made.registry, file.parent.resolve())


def _file_of(job: Any) -> str:
    if isinstance(job, Job):
        return job.file
    return getattr(sys.modules.get(getattr(job, "__module__", "")), "__file__", None) or "job.py"


def local_id(name: str) -> str:
    """An id for a job that no cluster knows."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:16] or "job"
    return f"{stem}-{secrets.token_hex(3)}"


def plan_inputs(spec: pb.JobSpec, given: Sequence[str | Path] | str | Path) -> pb.SplitPlan:
    """Lists the inputs, from the arguments or the job file, and plans their splits into `spec`.

    Raises Usage when there are none, InputError for one that is missing.
    """
    patterns = [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
    if patterns:
        spec.input.patterns[:] = patterns
    if not spec.input.patterns:
        raise Usage(
            f"{spec.job_file} has no input",
            next=f"name files or folders after the job: {spec.job_file} INPUT...",
        )
    found = inputs.list_inputs(spec.input.patterns)
    splittable = formats.input_format(spec.input.format, dict(spec.input.options)).splittable
    plan = splits.plan(found, spec.options.split_bytes, splittable=splittable)
    spec.maps = len(plan.splits)
    spec.input_files = len(found)
    spec.input_bytes = sum(one.size for one in found)
    spec.splits_digest = hashlib.sha256(plan.SerializeToString(deterministic=True)).digest()
    return plan


def local() -> Local:
    """Runs jobs on this machine, with no cluster."""
    return Local()


class _Callable(ModuleType):
    """`mr.local()` and `mr.local` as a module are one name: the import system would hide the function."""

    def __call__(self) -> Local:
        return Local()


sys.modules[__name__].__class__ = _Callable
