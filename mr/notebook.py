"""A job in a notebook cell: one table row of plain HTML, everything escaped, no scripts, no extension needed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from mr import outcome

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import JobStatus, KindStatus


def html(status: JobStatus) -> str:
    """Progress of the job's steps, its state and, when it failed, why."""
    rows = "".join(
        f"<tr><td>{step.step}</td><td>{_bar(step.map)}</td><td>{_bar(step.reduce)}</td></tr>"
        for step in status.steps
    )
    error = outcome.error_of(status)
    why = f"<p>{escape(str(error))}</p>" if error else ""
    return (
        f"<b>{escape(status.id)}</b> {outcome.state_name(status)} {escape(status.reason)}"
        f"<table><tr><th>step</th><th>map</th><th>reduce</th></tr>{rows}</table>{why}"
    )


def _bar(kind: KindStatus) -> str:
    return f'<progress max="{kind.total or 1}" value="{kind.completed}"></progress> {kind.completed}/{kind.total}'
