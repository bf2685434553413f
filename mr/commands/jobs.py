"""Commands that look at jobs: jobs, status, explain, tasks, counters."""

from __future__ import annotations

import time
from typing import Any

import click

from mr import outcome, render, shapes, story, units
from mr.commands import flags
from mr.commands.flags import Session
from mr.render import Column


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=50, help="At most so many.")
@flags.formatted
@flags.common
def jobs(session: Session, *, limit: int) -> int:
    """Lists jobs, newest first, finished ones too."""
    with session.connect() as client:
        found = client.jobs(limit=limit)
    now_ms = time.time_ns() // 1_000_000
    render.rows(found, _job_columns(now_ms), lambda s: shapes.job(s, now_ms=now_ms), session.form)
    return 0


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def status(session: Session, *, id: str) -> int:
    """Shows one job by its id or a unique prefix; for a failed one why, where and what next."""
    now_ms = time.time_ns() // 1_000_000
    with session.connect() as client:
        found = client.attach(id).status()
    render.one(
        found, lambda s: shapes.job(s, now_ms=now_ms), session.form, lambda s: story.status_text(s, now_ms)
    )
    return 0


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def explain(session: Session, *, id: str) -> int:
    """Says why a job does not go on, in one cause, and what would help."""
    with session.connect() as client:
        answer = client.attach(id).explain()

    def shape(_: Any) -> dict[str, Any]:
        return {
            "cause": answer.cause,
            "text": answer.text,
            "details": list(answer.details),
            "next": answer.next,
        }

    def text(_: Any) -> str:
        lines = [f"{answer.cause}  {answer.text}", *(f"  {detail}" for detail in answer.details)]
        return "\n".join([*lines, f"  next    {answer.next}"] if answer.next else lines)

    render.one(answer, shape, session.form, text)
    return 0


@click.command()
@flags.job_id
@click.option("--task", default="", metavar="m-7", help="One task.")
@click.option("--state", "states", multiple=True, type=click.Choice(["idle", "in_progress", "completed"]))
@click.option("--limit", type=click.IntRange(min=1), default=1000, help="At most so many.")
@flags.formatted
@flags.common
def tasks(session: Session, *, id: str, task: str, states: tuple[str, ...], limit: int) -> int:
    """Lists the tasks of a job with their attempts."""
    with session.connect() as client:
        found = client.attach(id).tasks(states=states, task=task, limit=limit)
    render.rows(found, _TASK_COLUMNS, shapes.task, session.form)
    return 0


@click.command()
@flags.job_id
@flags.formatted
@flags.common
def counters(session: Session, *, id: str) -> int:
    """Shows a job's counters: of winning attempts only, so re-runs count once."""
    with session.connect() as client:
        found = client.attach(id).counters()
    if session.form == "json":
        print(render.dump(found))
        return 0
    columns = [Column("COUNTER", lambda row: row[0]), Column("VALUE", lambda row: str(row[1]), right=True)]
    render.rows(list(found.items()), columns, lambda row: {"counter": row[0], "value": row[1]}, session.form)
    return 0


def _job_columns(now_ms: int) -> list[Column]:
    def took(status: Any) -> str:
        seconds = shapes.seconds(status, now_ms)
        return units.duration(seconds) if seconds is not None else ""

    def done(status: Any, kind: str) -> str:
        parts = [getattr(step, kind) for step in status.steps]
        return f"{sum(p.completed for p in parts)}/{sum(p.total for p in parts)}"

    return [
        Column("ID", lambda s: s.id),
        Column("STATE", outcome.state_name),
        Column("MAPS", lambda s: done(s, "map"), right=True),
        Column("REDUCES", lambda s: done(s, "reduce"), right=True),
        Column("AGE", lambda s: units.duration(max(0, now_ms - s.submitted_ms) / 1000), right=True),
        Column("TOOK", took, right=True),
        Column("OWNER", lambda s: s.owner),
        Column("OUTPUT", lambda s: s.output),
        Column("NAME", lambda s: s.name, wide=True),
        Column("QUEUE", lambda s: s.queue or "default", wide=True),
        Column("PRIO", lambda s: str(s.priority), wide=True, right=True),
        Column("ATTEMPTS", lambda s: str(s.attempts), wide=True, right=True),
        Column("RERUNS", lambda s: str(sum(s.reruns.values())), wide=True, right=True),
        Column("LEADERS", lambda s: str(s.leader_changes), wide=True, right=True),
        Column("REASON", lambda s: s.reason, wide=True),
    ]


def _input(task: Any) -> str:
    pieces = task.split.pieces
    more = f" +{len(pieces) - 1}" if len(pieces) > 1 else ""
    return f"{pieces[0].path}[{pieces[0].start}:{pieces[0].end}]{more}" if pieces else ""


def _newest(task: Any) -> Any:
    return task.attempts[-1] if task.attempts else None


_TASK_COLUMNS = [
    Column("TASK", lambda t: shapes.task(t)["task"]),
    Column("STATE", lambda t: t.state),
    Column("WORKER", lambda t: t.winner_worker or (_newest(t).worker if _newest(t) else "")),
    Column("TRIES", lambda t: str(len(t.attempts)), right=True),
    Column("FAILED", lambda t: str(t.user_failures), right=True),
    Column("DONE", lambda t: "100%" if t.state == "completed" else _share(t), right=True),
    Column(
        "STATUS", lambda t: _newest(t).progress.status or _newest(t).failure.message if _newest(t) else ""
    ),
    Column("BYTES", lambda t: units.size(t.split.bytes) if t.split.bytes else "", wide=True, right=True),
    Column("INPUT", _input, wide=True),
]


def _share(task: Any) -> str:
    newest = _newest(task)
    return f"{newest.progress.fraction:.0%}" if newest and newest.state == "running" else ""
