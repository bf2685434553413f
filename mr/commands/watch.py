"""Commands that stay with a job or read what it left: watch, wait, events, logs, results."""

from __future__ import annotations

import sys
import time

import click

from mr import render, shapes
from mr.commands import flags
from mr.commands.flags import Session


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def watch(session: Session, *, id: str) -> int:
    """Follows a job to its end; the exit code is the job's. Ctrl-C leaves, the job goes on."""
    from mr import follow
    from mr.commands.submit import stay

    with session.connect() as client:
        shown = follow.view(quiet=session.quiet, aside=session.machine, color=session.color)
        return stay(session, client.attach(id), shown)


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def wait(session: Session, *, id: str) -> int:
    """Waits for the end of a job, silently; the exit code is the job's, 124 after --timeout."""
    from mr import follow
    from mr.commands.submit import stay

    with session.connect() as client:
        return stay(session, client.attach(id), follow.Silence())


@click.command()
@flags.job_id
@click.option("-f", "--follow", "go_on", is_flag=True, help="Stay until the job ends.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only what came after this log index.")
@click.option("--significant", is_flag=True, help="Without the coming and going of single attempts.")
@flags.formatted
@flags.common
def events(session: Session, *, id: str, go_on: bool, after: int, significant: bool) -> int:
    """Says what happened to a job, in the order of the replicated log (P-14)."""
    with session.connect() as client:
        handle = client.attach(id)
        if not go_on:
            render.rows(
                handle.events(after, tasks=not significant), _EVENT_COLUMNS, shapes.event, session.form
            )
            return 0
        deadline = time.monotonic() + session.timeout if session.timeout else None
        for event in handle.follow(after, tasks=not significant, deadline=deadline):
            if event.index:
                text = render.line(shapes.event(event)) if session.machine else _event_line(event)
                print(text, flush=True)
    return 0


@click.command()
@flags.job_id
@click.option("--task", default="", metavar="m-7", help="One task; without it all that failed or run.")
@click.option("--attempt", type=click.IntRange(min=1), help="One attempt of the task.")
@click.option("-f", "--follow", "go_on", is_flag=True, help="Stay while it is written.")
@flags.formatted
@flags.common
def logs(session: Session, *, id: str, task: str, attempt: int | None, go_on: bool) -> int:
    """Shows what the functions of a job wrote to stdout, stderr and ctx.log."""
    with session.connect() as client:
        handle = client.attach(id)
        if session.machine:
            for chunk in handle.log_lines(task, attempt=attempt or 0, follow=go_on):
                print(render.line(shapes.log(chunk)), flush=True)
            return 0
        for text in handle.logs(task, attempt=attempt or 0, follow=go_on):
            sys.stdout.write(text)
            sys.stdout.flush()
    return 0


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def results(session: Session, *, id: str) -> int:
    """Prints the output of a job that is done: its files as they are, or key and value as JSON."""
    from mr import outcome
    from mr.client import visible_output
    from mr.commands.submit import print_results
    from mr.errors import Rejected
    from mr.results import read_results

    with session.connect() as client:
        status = client.attach(id).status()
    state = outcome.state_name(status)
    if state != "SUCCEEDED":
        raise Rejected(
            f"{status.id} has no results: it is {state}", next=f"`mr status {status.id}` says more"
        )
    place = visible_output(status)
    if not session.machine:
        print_results(status)
    elif session.form == "jsonl":
        for key, value in read_results(place):
            print(render.line({"key": key, "value": value}))
    else:
        print(render.dump([{"key": key, "value": value} for key, value in read_results(place)]))
    return 0


def _clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else "-"


def _event_line(event: object) -> str:
    cells = [column.cell(event) for column in _EVENT_COLUMNS]
    return f"{cells[0]:>8}  {cells[1]}  {cells[2]:<16}  {cells[3]}".rstrip()


_EVENT_COLUMNS = [
    render.Column("INDEX", lambda e: str(e.index or ""), right=True),
    render.Column("TIME", lambda e: _clock(e.at_ms)),
    render.Column("EVENT", lambda e: e.type),
    render.Column("WHAT", lambda e: e.text),
]
