"""Commands on workers: list them; drain, undrain, exclude, include one."""

from __future__ import annotations

import time
from typing import Any

import click

from mr import render, shapes, units
from mr.commands import flags
from mr.commands.flags import Session
from mr.render import Column


@click.command()
@click.option("--all", "everybody", is_flag=True, help="Lost workers too.")
@flags.formatted
@flags.common
def workers(session: Session, *, everybody: bool) -> int:
    """Lists workers: what they run, what they hold, how long they have been silent."""
    with session.connect() as client:
        found = client.workers(include_lost=everybody)
    render.rows(found, _columns(), shapes.worker, session.form)
    return 0


@click.group()
def worker() -> None:
    """Drains, undrains, excludes or includes one worker."""


def _change(session: Session, id: str, state: str, reason: str = "", for_s: float = 0, job: str = "") -> int:
    from mr.calls import request_id
    from mr.rpc.cluster_pb2 import SetWorkerRequest
    from mr.rpc.table_pb2 import WorkerState

    request = SetWorkerRequest(
        worker=id,
        request_id=request_id(),
        state=WorkerState.Value(state),
        reason=reason,
        for_ms=round(for_s * 1000),
        job=job,
    )
    with session.connect() as client:
        found = client.calls.call("SetWorker", request)
    render.one(found, shapes.worker, session.form, lambda w: f"{w.id} {w.state} {w.reason}".rstrip())
    return 0


@worker.command()
@click.argument("id")
@click.option("--reason", default="", help="Shown in `mr workers`.")
@flags.formatted
@flags.common
def drain(session: Session, *, id: str, reason: str) -> int:
    """Gives a worker no new tasks; it leaves when it is empty."""
    return _change(session, id, "WORKER_DRAINING", reason)


@worker.command()
@click.argument("id")
@flags.formatted
@flags.common
def undrain(session: Session, *, id: str) -> int:
    """Takes a drain back."""
    return _change(session, id, "WORKER_ACTIVE")


@worker.command()
@click.argument("id")
@click.option("--reason", default="", help="Shown in `mr workers`.")
@click.option(
    "--for", "for_s", type=flags.Duration(), default=0.0, metavar="TIME", help="Default: until included."
)
@click.option("--job", default="", help="For this job alone.")
@flags.formatted
@flags.common
def exclude(session: Session, *, id: str, reason: str, for_s: float, job: str) -> int:
    """Uses a worker no more, for a time or until `mr worker include` (S3-21)."""
    return _change(session, id, "WORKER_EXCLUDED", reason, for_s, job)


@worker.command()
@click.argument("id")
@click.option("--job", default="", help="For this job alone.")
@flags.formatted
@flags.common
def include(session: Session, *, id: str, job: str) -> int:
    """Uses an excluded worker again."""
    return _change(session, id, "WORKER_ACTIVE", job=job)


@worker.command()
@click.argument("id")
@flags.formatted
@flags.common
def show(session: Session, *, id: str) -> int:
    """Shows everything known about one worker."""
    from mr.errors import NotFound

    with session.connect() as client:
        found = [one for one in client.workers(include_lost=True) if one.id == id]
    if not found:
        raise NotFound(f"no worker {id}", next="`mr workers --all` lists them")
    render.one(found[0], shapes.worker, session.form, _text)
    return 0


def _text(one: Any) -> str:
    return "\n".join(
        f"{name:<16} {value}" for name, value in shapes.worker(one).items() if value not in (None, "", [])
    )


def _columns() -> list[Column]:
    now_ms = time.time() * 1000
    return [
        Column("ID", lambda w: w.id),
        Column("ADDR", lambda w: w.address),
        Column("STATE", lambda w: w.state),
        Column("BUSY", lambda w: f"{w.busy}/{w.slots}", right=True),
        Column("HELD", lambda w: str(w.held_outputs), right=True),
        Column("SEEN", lambda w: units.duration(w.last_seen_ms / 1000), right=True),
        Column("DISK FREE", lambda w: units.size(w.disk_free_bytes) if w.disk_free_bytes else "", right=True),
        Column(
            "UP",
            lambda w: units.duration((now_ms - w.attached_ms) / 1000) if w.attached_ms else "",
            right=True,
        ),
        Column("REASON", lambda w: w.reason),
        Column(
            "MEMORY", lambda w: units.size(w.memory_bytes) if w.memory_bytes else "", wide=True, right=True
        ),
        Column("LABELS", lambda w: ",".join(w.labels), wide=True),
        Column("HOST", lambda w: w.host, wide=True),
        Column("VERSION", lambda w: w.version, wide=True),
        Column("PYTHON", lambda w: w.python, wide=True),
        Column("ISOLATION", lambda w: w.isolation, wide=True),
        Column("INCARNATION", lambda w: w.incarnation, wide=True),
    ]
