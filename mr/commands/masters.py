"""`mr masters`: who leads, who lags, who is down, and how many more may be lost."""

from __future__ import annotations

from typing import Any

import click

from mr import render, shapes, units
from mr.commands import flags
from mr.commands.flags import Session
from mr.render import Column


@click.command()
@flags.formatted
@flags.common
def masters(session: Session) -> int:
    """Lists the masters as any of them sees the others. Works without a leader."""
    with session.connect() as client:
        found = client.masters()
    render.rows(found, _COLUMNS, shapes.master, session.form)
    if not session.machine:
        print(summary(found))
        for one in found:
            if one.note:
                print(f"{one.id}: {one.note}")
    return 0


def summary(found: list[Any]) -> str:
    """What the number of masters that are up means."""
    up = sum(one.role != "down" for one in found)
    spare = up - (len(found) // 2 + 1)
    leader = next((one.id for one in found if one.role == "leader"), None)
    head = f"{up} of {len(found)} up: "
    if spare < 0:
        return head + f"does not work; {-spare} more must come up"
    if leader is None:
        return head + "no leader yet"
    return head + f"works, can lose {spare} more"


def _known(one: Any, text: str) -> str:
    return "" if one.role == "down" else text


_COLUMNS = [
    Column("ID", lambda m: m.id),
    Column("ADDR", lambda m: m.address),
    Column("ROLE", lambda m: m.role),
    Column("TERM", lambda m: _known(m, str(m.term)), right=True),
    Column("COMMIT", lambda m: _known(m, str(m.commit)), right=True),
    Column("LAG", lambda m: _known(m, "" if m.role == "leader" else str(m.lag)), right=True),
    Column("DISK", lambda m: _known(m, units.duration(m.disk_ms / 1000)), right=True),
    Column("VERSION", lambda m: m.version),
    Column("UP", lambda m: _known(m, units.duration(m.up_ms / 1000)), right=True),
    Column("APPLIED", lambda m: _known(m, str(m.applied)), wide=True, right=True),
    Column("SNAPSHOT", lambda m: _known(m, str(m.snapshot_index)), wide=True, right=True),
    Column("LOG", lambda m: _known(m, str(m.log_entries)), wide=True, right=True),
    Column("MEMORY", lambda m: _known(m, units.size(m.memory_bytes)), wide=True, right=True),
    Column("RAFT", lambda m: m.raft_address, wide=True),
    Column("HTTP", lambda m: m.http, wide=True),
    Column("CLUSTER", lambda m: m.cluster_id, wide=True),
    Column("COMMANDS", lambda m: _known(m, f"{m.cluster_version}/{m.knows}"), wide=True, right=True),
]
