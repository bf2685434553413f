"""Runs one attempt of one task, given all it needs in a RunAttempt; the same code in a worker and in `mr run`.

An attempt writes under names of its own and reports; whether it counts is decided elsewhere. It never touches
what another attempt wrote, and a failed one leaves nothing under a final name. The output is a function of
split, code and arguments alone: not of time, machine, process or the number of tries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mr import context as contexts
from mr import names, output
from mr.attempt_map import run_map
from mr.attempt_reduce import run_reduce
from mr.errors import Cause, TaskFailure
from mr.failures import AttemptFailed, failure_of, peak_memory
from mr.finish import run_finalize
from mr.loader import Code
from mr.position import Marker, Phase
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.running import Running
from mr.sidefiles import SideFiles

Report = Callable[[session_pb2.Progress], None]
KINDS = {pb.MAP: "map", pb.REDUCE: "reduce"}


def run(request: task_pb2.RunAttempt, code: Code | None, report: Report) -> pb.TaskResult:
    """Runs the attempt and returns what its winner reports. `code` is None for tasks without user code.

    Raises AttemptFailed with the one Failure that tells why.
    """
    started = time.monotonic()
    try:
        match request.attempt.task.kind:
            case pb.MAP | pb.REDUCE:
                if code is None:
                    raise TaskFailure(Cause.CODE_UNAVAILABLE, "the task came without its code")
                result = _with_user_code(request, code, report)
            case pb.COMMIT:
                result = _commit(request, code)
            case pb.CLEANUP:
                output.cleanup(request.spec)
                result = pb.TaskResult()
            case other:
                raise TaskFailure(Cause.INTERNAL, f"this version runs no {pb.Kind.Name(other)} tasks")
    except AttemptFailed:
        raise
    except Exception as error:
        raise AttemptFailed(failure_of(error, folder=code.folder if code else None)) from error
    result.duration_ms = round(1000 * (time.monotonic() - started))
    result.peak_memory = peak_memory()
    return result


def _with_user_code(request: task_pb2.RunAttempt, code: Code, report: Report) -> pb.TaskResult:
    """A map or a reduce: context, marker, working directory; then its own file says how it goes."""
    attempt, spec = request.attempt, request.spec
    task = attempt.task
    step = spec.steps[task.step]
    attempt_dir = Path(request.attempt_dir)
    attempt_dir.mkdir(parents=True, exist_ok=True)
    staged = Path(spec.staging) / "attempts"
    sides = SideFiles(staged, attempt, spec.output)
    context = contexts.Context(
        job_id=spec.job_id,
        task_id=names.task_text(task),
        kind=KINDS[task.kind],
        index=task.index,
        attempt=attempt.number,
        step=task.step,
        reduces=step.reduces,
        args=tuple(spec.args),
        scratch=attempt_dir,
        open_side=sides.open,
        open_emit=sides.emit,
    )
    contexts.attempt_environment(context, task.index if task.kind == pb.REDUCE else None, attempt_dir)
    marker = Marker(attempt_dir)
    running = Running(request, code, context, marker, report, staged)
    before = Path.cwd()
    try:
        contexts.enter(context)
        if code.data is not None:
            os.chdir(_working_dir(context, code.data))
        result = (run_map if task.kind == pb.MAP else run_reduce)(running)
        marker.phase(Phase.FINISH)
        if side_files := sides.close():
            result.file.side_files.extend(side_files)
        result.counters.update(context.counters)
        return result
    except BaseException as error:
        running.discard()
        sides.discard()
        if isinstance(error, AttemptFailed | KeyboardInterrupt):
            raise
        raise AttemptFailed(running.failure(error)) from error
    finally:
        os.chdir(before)
        contexts.enter(None)
        marker.close()


def _working_dir(context: contexts.Context, data: Path) -> Path:
    """The attempt's own folder, in which the bundle's data files can be opened by their names."""
    folder = context.temp_dir
    for file in data.iterdir():
        link = folder / file.name
        if file.suffix != ".py" and file.name != "__pycache__" and not link.is_symlink():
            link.symlink_to(file)
    return folder


def _commit(request: task_pb2.RunAttempt, code: Code | None) -> pb.TaskResult:
    digest = output.publish(request.spec, request.files, dict(request.counters))
    note = run_finalize(request.spec, code) if request.spec.finalize else ""
    return pb.TaskResult(manifest_digest=digest, note=note)
