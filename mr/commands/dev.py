"""`mr dev`: a whole cluster on this machine, for as long as the command runs (S3-06)."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mr.commands import flags
from mr.commands.flags import Session

if TYPE_CHECKING:
    from mr.cluster import Cluster


@click.command()
@click.option("--masters", "count", type=click.IntRange(1, 7), default=3, show_default=True, help="Masters.")
@click.option("--workers", type=click.IntRange(min=0), default=4, show_default=True, help="Workers.")
@click.option(
    "--slots", type=click.IntRange(min=1), default=1, show_default=True, help="Tasks at once, each worker."
)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Keep state and logs here. Default: temporary."
)
@click.option("--plaintext", is_flag=True, help="Without certificates.")
@flags.formatted
@flags.apart
def dev(
    session: Session, *, count: int, workers: int, slots: int, folder: Path | None, plaintext: bool
) -> int:
    """Starts masters and workers on loopback, with certificates made for them; Ctrl-C stops them all.

    Prints what to export in another shell. Killing this command, even with SIGKILL, stops the cluster too.
    """
    from mr import render
    from mr.cluster import Cluster

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    session.note(f"starting {count} masters and {workers} workers")
    try:
        with Cluster.spawn(count, workers, slots=slots, home=folder, tls=not plaintext) as cluster:
            if session.machine:
                print(render.line(_facts(cluster)), flush=True)
            else:
                print(_text(cluster), flush=True)
            _until_interrupted(cluster)
    except KeyboardInterrupt:
        session.note("stopped")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _text(cluster: Cluster) -> str:
    leader = cluster.leader(timeout=1.0)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in cluster.exports().items()]
    pages = [server.http for server in cluster.masters.values() if server.http]
    lines.append(f"# leader {leader.id if leader else 'not known yet'}   logs {cluster.home}")
    if pages:
        lines.append(f"# pages  http://{pages[0]}/")
    lines.append("# copy the lines above into another shell, then: mr submit wordcount.py INPUT... -o OUT")
    lines.append("# Ctrl-C stops the cluster")
    return "\n".join(lines)


def _facts(cluster: Cluster) -> dict[str, object]:
    """The one line of `mr dev --json`."""
    return {
        "env": cluster.exports(),
        "home": str(cluster.home),
        "masters": [
            {"id": s.id, "grpc": s.address, "http": s.http, "pid": s.pid} for s in cluster.masters.values()
        ],
        "workers": [
            {"id": s.id, "data": s.address, "http": s.http, "pid": s.pid} for s in cluster.workers.values()
        ],
    }


def _until_interrupted(cluster: Cluster) -> None:
    """Says when a server ends by itself; the rest goes on."""
    gone: set[str] = set()
    while True:
        for server in cluster.servers.values():
            if not server.alive and server.id not in gone:
                gone.add(server.id)
                print(f"{server.kind} {server.id} ended; its log: {server.log}", file=sys.stderr, flush=True)
        time.sleep(0.5)
