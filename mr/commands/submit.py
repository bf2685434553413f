"""`mr submit`: a job file, its inputs and its output go to the cluster; the command stays to the end, or not."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import Usage

if TYPE_CHECKING:
    from mr.client import Client, Handle
    from mr.follow import View
    from mr.rpc.cluster_pb2 import JobStatus
    from mr.submit import Prepared


@click.command(cls=flags.JobCommand)
@flags.job_flags
@click.option("--id", "job_id", default="", help="The job's id: submitting twice under one id is one job.")
@click.option("--detach", is_flag=True, help="Return when the job is accepted; print its id.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print the results when the job is done.")
@click.option("-n", "--dry-run", is_flag=True, help="Check everything that can be checked; submit nothing.")
@click.option("--with-cluster", is_flag=True, help="Start a cluster here for this job alone.")
@flags.formatted
@flags.common
def submit(
    session: Session,
    *,
    job_id: str,
    detach: bool,
    to_stdout: bool,
    dry_run: bool,
    with_cluster: bool,
    **given: Any,
) -> int:
    """Submits JOB with its INPUTs and follows it to its end.

    Arguments of the job's own stand after `--`. Ctrl-C leaves; the job goes on.

    \b
    Exit codes: 0 done, 1 failed, 2 bad usage or job file, 3 no leader in time, 4 not allowed, 5 refused,
    7 cancelled, 8 deadline passed, 9 done but too many records skipped, 124 --timeout, 130 Ctrl-C.
    """
    from mr.submit import new_id, prepare

    if with_cluster and detach:
        raise Usage("--with-cluster ends with this command: a job cannot be left to it")
    temporary = None
    if to_stdout and not given["output"]:
        temporary = Path.cwd() / f".mr-{new_id('stdout')}"  # where the workers see it, as they see the inputs
        given["output"] = str(temporary)
    prepared = prepare(flags.job_request(session, given, job_id))
    if dry_run:
        from mr.commands.plan import show

        show(session, prepared)
        return 0
    try:
        if with_cluster:
            return _with_cluster(session, prepared, to_stdout)
        with session.connect() as client:
            return run(session, client, prepared, detach=detach, to_stdout=to_stdout)
    finally:
        if temporary is not None and not detach:
            shutil.rmtree(temporary, ignore_errors=True)


def run(
    session: Session, client: Client, prepared: Prepared, *, detach: bool = False, to_stdout: bool = False
) -> int:
    """Sends a prepared job and, unless `detach`, follows it; the exit code."""
    from mr import follow, story
    from mr.client import Handle
    from mr.render import line
    from mr.submit import send

    started = time.monotonic()
    aside = session.machine or to_stdout or detach
    shown = follow.view(quiet=session.quiet, aside=aside, color=session.color)
    try:
        reply = send(client.calls, prepared)
        shown.line(story.accepted(reply, prepared.spec))
        shown.line(story.taken_in(prepared.spec, prepared.code_files, len(prepared.bundle)))
    except BaseException:
        shown.close()
        raise
    handle = Handle(client, reply.job)
    if detach:
        shown.close()
        print(line({"id": handle.id, "state": "QUEUED"}) if session.machine else handle.id)
        return 0
    return stay(session, handle, shown, started, to_stdout=to_stdout)


def stay(
    session: Session, handle: Handle, shown: View, started: float | None = None, *, to_stdout: bool = False
) -> int:
    """Follows a job to its end, or until Ctrl-C (130) or `--timeout` (124), which it survives; the exit code.

    `started` is when this command submitted it; without it the job's own time is told.
    """
    from mr import follow, shapes
    from mr.cli import report
    from mr.errors import Error, WaitTimeout
    from mr.render import line

    try:
        status = follow.follow(handle, shown, timeout=session.timeout)
    except KeyboardInterrupt:
        print(follow.detached(handle.id), file=sys.stderr, flush=True)
        code = 130
    except WaitTimeout as error:
        code = report(error)
    else:
        took = shapes.seconds(status, 0) if started is None else time.monotonic() - started
        return finish(session, status, took or 0.0, to_stdout=to_stdout)
    if session.machine:
        with contextlib.suppress(Error):  # it goes on, whether or not we hear how
            print(line({**shapes.result(handle.status()), "exit_code": code}), flush=True)
    return code


def finish(session: Session, status: JobStatus, wall_s: float, *, to_stdout: bool = False) -> int:
    """What `submit`, `run` and `watch` say of a job that has ended: results, failure, one JSON object."""
    from mr import outcome, shapes, story
    from mr.render import line

    sys.stderr.flush()
    error = outcome.error_of(status)
    if to_stdout and outcome.state_name(status) == "SUCCEEDED":
        print_results(status)
    if error is not None:
        if outcome.state_name(status) == "FAILED":
            print("\n".join(story.failure(status)), file=sys.stderr)
        else:
            print(f"mr: {error}", file=sys.stderr)
    sys.stderr.flush()
    if session.machine:
        print(line(shapes.result(status, wall_s=wall_s)), flush=True)
    return error.exit_code if error else 0


def print_results(status: JobStatus) -> None:
    """The output's files, one behind the other, as they are."""
    out = sys.stdout.buffer
    sys.stdout.flush()
    for part in sorted(Path(status.output).glob("part-*")):
        with part.open("rb") as file:
            shutil.copyfileobj(file, out)
    out.flush()


def _with_cluster(session: Session, prepared: Prepared, to_stdout: bool) -> int:
    """S3-10: the master is also the client. One master is enough for one job on one machine."""
    import os

    from mr.cluster import Cluster

    session.note("starting a cluster for this job: 1 master, 1 worker")
    with (
        Cluster.spawn(masters=1, workers=1, slots=os.cpu_count() or 1) as cluster,
        cluster.connect() as client,
    ):
        return run(session, client, prepared, to_stdout=to_stdout)
