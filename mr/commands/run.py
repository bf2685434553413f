"""`mr run`: the same job on this machine, with no server, no network and no configuration (S0-15, S0-18, P-08)."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mr.commands import flags
from mr.commands.flags import Session

if TYPE_CHECKING:
    from mr.follow import View
    from mr.local import LocalResult, Moved
    from mr.rpc.cluster_pb2 import JobStatus
    from mr.submit import Prepared, Request


@click.command(cls=flags.JobCommand)
@flags.job_flags
@click.option("--inline", is_flag=True, help="Everything in this process, in order: breakpoints work.")
@click.option("--processes", type=click.IntRange(min=1), help="Task processes. Default: one for each core.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print the results when the job is done.")
@click.option("-n", "--dry-run", is_flag=True, help="Check everything that can be checked; run nothing.")
@flags.formatted
@flags.common
def run(
    session: Session, *, inline: bool, processes: int | None, to_stdout: bool, dry_run: bool, **given: Any
) -> int:
    """Runs JOB with its INPUTs here and now, without a cluster.

    Output, results and exit codes are those of `mr submit`. Arguments of the job's own stand after `--`.
    """
    count = 0 if inline else processes or os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mr-run-") as scratch:
        if to_stdout and not given["output"]:
            given["output"] = str(Path(scratch) / "out")
        request = flags.job_request(session, given)
        if dry_run:
            from mr.commands.plan import show
            from mr.submit import prepare

            show(session, prepare(request))
            return 0
        return execute(session, request, count, Path(scratch), to_stdout=to_stdout)


def execute(session: Session, request: Request, processes: int, scratch: Path, *, to_stdout: bool) -> int:
    """Runs the request in `processes` task processes, or in this one if 0; the exit code."""
    from mr import follow, story
    from mr.commands.submit import finish
    from mr.submit import prepare

    started = time.monotonic()
    prepared = prepare(request)
    aside = session.machine or to_stdout
    shown: View = follow.view(
        quiet=session.quiet,
        aside=aside,
        color=session.color,
        moving=bool(processes),  # inline code may print, or open a debugger
    )
    shown.line(story.taken_in(prepared.spec, prepared.code_files, len(prepared.bundle)))
    try:
        result = _run(prepared, request, processes, scratch, _Progress(prepared, shown, max(1, processes)))
    except KeyboardInterrupt:
        shown.close()
        print("mr: interrupted; nothing was published", file=sys.stderr)
        return 130
    except BaseException:
        shown.close()
        raise
    status = as_status(prepared, result)
    if result.state == "SUCCEEDED":
        shown.progress(story.progress(status), last=True)
        shown.line(story.done(status, result.seconds))
    shown.close()
    return finish(session, status, time.monotonic() - started, to_stdout=to_stdout)


def as_status(prepared: Prepared, result: LocalResult) -> JobStatus:
    """A local run in the shape of a job of the cluster, so that both are shown and judged alike."""
    from mr import names
    from mr.rpc import cluster_pb2 as pb
    from mr.rpc.table_pb2 import JobState

    spec = prepared.spec
    status = pb.JobStatus(
        id=spec.job_id,
        name=spec.name,
        state=JobState.Value(result.state),
        priority=spec.options.priority,
        counters=result.counters,
        attempts=result.attempts,
        output=spec.output.path,
        manifest_digest=result.manifest,
        skipped=result.skipped_count,
        spec=spec,
        code_digest=spec.code_digest,
        finish_note=result.note,
    )
    for n, step in enumerate(spec.steps):
        maps = spec.maps if n == 0 else spec.steps[n - 1].reduces or spec.maps
        ended = result.state == "SUCCEEDED"
        status.steps.add(
            step=n,
            map=pb.KindStatus(total=maps, completed=maps * ended),
            reduce=pb.KindStatus(total=step.reduces, completed=step.reduces * ended),
        )
    if result.failure is not None:
        status.failure.CopyFrom(result.failure)
        status.reason = f"{result.failed_task}: {result.failure.message}"
        task = names.parse_task(result.failed_task, spec.job_id)
        status.failed_task.task.CopyFrom(task)
    return status


class _Progress:
    """Turns what `mr.local` reports into the lines that a job of the cluster has."""

    def __init__(self, prepared: Prepared, shown: View, slots: int) -> None:
        self._shown = shown
        self._slots = slots
        self._steps = prepared.spec.steps
        self._totals: dict[tuple[int, str], tuple[int, int]] = {}

    def __call__(self, moved: Moved) -> None:
        from mr import story
        from mr.rpc import cluster_pb2 as pb
        from mr.rpc.table_pb2 import JobState

        self._totals[moved.step, moved.phase] = moved.done, moved.total
        status = pb.JobStatus(state=JobState.PUBLISHING if moved.phase == "commit" else JobState.RUNNING)
        for n, step in enumerate(self._steps):
            maps, reduces = status.steps.add(step=n).map, status.steps[n].reduce
            maps.completed, total = self._totals.get((n, "map"), (0, 0))
            maps.total = total or 1
            reduces.completed, running = self._totals.get((n, "reduce"), (0, 0))
            reduces.total = step.reduces
            maps.in_progress = min(self._slots, total - maps.completed)
            reduces.in_progress = min(self._slots, running - reduces.completed)
        self._shown.progress(story.progress(status))


def _run(
    prepared: Prepared, request: Request, processes: int, scratch: Path, moved: Callable[[Moved], None]
) -> LocalResult:
    from mr import bundle, loader
    from mr.errors import TaskFailure, before_submit
    from mr.local import run_local

    folder = bundle.unpack(prepared.bundle, prepared.spec.code_digest, scratch / "code")
    try:
        if processes:
            code: loader.Code | Path = folder
        else:
            loaded = loader.load(request.job_file, request.args)
            code = loader.Code(loaded.job, loaded.registry, loaded.folder, folder)
        return run_local(
            prepared.spec, prepared.plan, code, processes=processes, on_progress=moved, work_dir=scratch
        )
    except TaskFailure as failure:
        raise before_submit(failure) from None
