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
    """Tries a failed or cancelled job again, as a new job with the same code, inputs and output."""
    from mr import submit

    with session.connect() as client:
        old = client.attach(id).status()
        if outcome.state_name(old) not in {"FAILED", "CANCELLED"}:
            raise Rejected(f"{old.id} has neither failed nor been cancelled")
        known = [job.id for job in client.jobs(prefix=old.id.partition("-r")[0], limit=1000)]
        status = client.attach(submit.retry(client.calls, old, known).job).status()
    state = outcome.state_name(status)
    render.one(status, lambda s: {"id": s.id, "state": state}, session.form, lambda s: f"{s.id} {state}")
    return 0
