"""Commands that change a job: cancel, retry."""

from __future__ import annotations

import click

from mr import outcome, render
from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import Rejected


@click.command()
@flags.job_id
@click.option("--reason", default="", help="Shown with the job.")
@flags.formatted
@flags.common
def cancel(session: Session, *, id: str, reason: str) -> int:
    """Ends a job. Refused (exit 5) when it publishes its output or has ended."""
    with session.connect() as client:
        handle = client.attach(id)
        state = handle.cancel(reason)
    if state in {"SUCCEEDED", "FAILED"}:
        raise Rejected(f"{handle.id} had ended before: it is {state}")
    render.one(handle, lambda h: {"id": h.id, "state": state}, session.form, lambda h: f"{h.id} {state}")
    return 0


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def retry(session: Session, *, id: str) -> int:
    """Starts a failed or cancelled job again; what it had completed and still has is not done again."""
    from mr.calls import request_id
    from mr.rpc.cluster_pb2 import RetryRequest

    with session.connect() as client:
        handle = client.attach(id)
        reply = client.calls.call("Retry", RetryRequest(job=handle.id, request_id=request_id()))
        status = client.attach(reply.job).status()
    state = outcome.state_name(status)
    render.one(status, lambda s: {"id": s.id, "state": state}, session.form, lambda s: f"{s.id} {state}")
    return 0
