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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mr import bundle, context, formats, inputs, loader, output, splits
from mr.compile import compile_job
from mr.errors import Usage
from mr.executors import Inline, Pool
from mr.failures import AttemptFailed
from mr.job import Job
from mr.jobclass import is_job_class
from mr.local_job import LocalJob, LocalResult, Moved
from mr.rpc import job_pb2 as pb

__all__ = ["Local", "LocalResult", "Moved", "local", "local_id", "plan_inputs", "run_local"]


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
        job = LocalJob(spec, plan, Path(scratch), on_progress or (lambda _: None))
        try:
            if isinstance(code, Path):
                with Pool(processes, code) as pool:
                    job.run(pool)
            else:
                job.run(Inline(code))
        except AttemptFailed as failed:
            job.result.state, job.result.failure, job.result.error = "FAILED", failed.failure, failed
            output.cleanup(spec)
        except BaseException:
            output.cleanup(spec)
            raise
    job.result.seconds = time.monotonic() - started
    return job.result


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
        scratch = Path(tempfile.mkdtemp(prefix="mr-result-"))
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
