"""The command `mr-master`: flags and files into one configuration, one process, one exit status.

    mr-master --peers a,b,c

The first line on stdout is one JSON object with the real addresses. SIGTERM hands leadership over and ends
with 0. Exit status: 0 ended as told, 1 refused to start or its disk failed, 2 bad usage or no certificate, 70 a
bug or a broken law of consensus, 75 the disk is full.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from consensus.replica import RefusedToStart
from master import hosts
from master.config import HTTP_PORT, MasterConfig, choose_self, join_address, parse_peers, split_address
from master.machine import Machine
from master.server import Master
from mr import logs, tls
from mr.config import Config, load, user_data_dir
from mr.errors import Error, Usage

log = logging.getLogger("mr.master")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--peers", help="Every master: h1,h2,h3 or a=h1:7070,b=h2:7070 (Raft has the next port, or h1:7070/9001)."
)
@click.option(
    "--id", "own_id", help="Which of the peers this is. Default: the one that is an address of this host."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="State on disk: log, snapshots, blobs.")
@click.option("--listen", help="host:port of gRPC. Default: the own place in --peers.")
@click.option(
    "--advertise", help="host:port under which clients and workers reach this master, if not as in --peers."
)
@click.option(
    "--http",
    "http",
    help=f"host:port of pages and metrics, or off. Default: {HTTP_PORT} or the next free one on loopback.",
)
@click.option("--tls-dir", type=click.Path(path_type=Path), help="Certificates, as `mr tls init` makes them.")
@click.option("--insecure", is_flag=True, help="Plaintext instead of TLS; loopback addresses only.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--policy", help="Scheduling policy.")
@click.option(
    "--log-dir", type=click.Path(path_type=Path), help="Log to rotated files there instead of stderr."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Default: text.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info.")
@click.option(
    "--replace",
    is_flag=True,
    help="The disk of this master was lost: come back empty, without a vote at first.",
)
@click.option(
    "--refuse-entry", metavar="INDEX:DIGEST", help="Skip a fatal log entry. The same on every master."
)
@click.version_option(package_name="mapraft")
def main(**flags: Any) -> None:
    """One master of a mapraft cluster: keeps the replicated task table; the elected one schedules work."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its C core writes notes of its own to stderr
    try:
        settings = _settings(flags)
        config = configure(flags, settings)
        logs.setup(
            f"master-{config.id}",
            level=settings.log.level,
            style=settings.log.format,
            folder=settings.master.log_dir,
        )
        status = asyncio.run(serve(config))
    except Error as error:
        status = _complain(error, error.exit_code)
    except (RefusedToStart, OSError) as error:
        status = _complain(error, getattr(error, "exit_code", 1))
    sys.stdout.flush()
    sys.exit(status)


def configure(flags: dict[str, Any], settings: Config) -> MasterConfig:
    """The one record out of flags and settings. Raises Usage."""
    text = flags["peers"] or ",".join(settings.cluster.masters)
    if not text:
        raise Usage(
            "no peers",
            next="name every master: mr-master --peers h1,h2,h3 (one name alone is a single master)",
        )
    peers = parse_peers(text)
    own_id = choose_self(peers, flags["own_id"], hosts.is_local)
    me = next(peer for peer in peers if peer.id == own_id)
    files = None if flags["insecure"] else _certificate(settings.tls.dir, own_id)
    http = flags["http"] or ""
    config = MasterConfig(
        id=own_id,
        peers=peers,
        data_dir=settings.master.data_dir or user_data_dir() / f"master-{own_id}",
        listen=join_address(*split_address(flags["listen"])) if flags["listen"] else me.address,
        advertise=join_address(*split_address(flags["advertise"])) if flags["advertise"] else me.address,
        http=None if http == "off" else join_address(*split_address(http or "127.0.0.1", HTTP_PORT)),
        http_pinned=bool(http),
        tls=files,
        refuse_entry=_refused(flags["refuse_entry"]),
        replace=flags["replace"],
        election_timeout_s=settings.master.election_timeout,
        heartbeat_s=settings.master.heartbeat,
        worker_lease_s=settings.master.worker_lease,
        worker_heartbeat_s=settings.master.worker_heartbeat,
        policy=settings.master.policy,
        exclude_after=settings.blacklist.after,
        exclude_s=settings.blacklist.for_,
        exclude_for_good=settings.blacklist.permanent,
        history_s=settings.master.history,
        history_jobs=settings.master.history_jobs,
        snapshot_every=settings.master.snapshot_every,
    )
    if files is None and not all(hosts.is_loopback(host) for host in config.hosts):
        raise Usage(
            "--insecure is plaintext, for loopback addresses only",
            next="`mr tls init` makes certificates for a small cluster",
        )
    return config


async def serve(config: MasterConfig) -> int:
    """Runs a master until a signal; returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The thread that ticks Raft shares the interpreter with this loop: it gets its turn within a millisecond, not
    # five, however long a plan takes.
    sys.setswitchinterval(0.001)
    master = Master(config, new_replica)
    await master.listen()
    try:
        print(json.dumps(master.first_line()), flush=True)
        if config.tls is None:
            log.warning("plaintext on loopback: everybody on this machine may do everything")
        starting = asyncio.create_task(master.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            log.info("master %s serves on %s", config.id, config.listen)
            await master.run(stop)
        starting.cancel()
        stopping.cancel()
    finally:
        await master.stop()
    log.info("master %s ended", config.id)
    return master.exit_status


def new_replica(config: MasterConfig, machine: Machine) -> Any:
    """The member of consensus: one master or many, the same code."""
    from consensus.config import Limits, ReplicaConfig, Timing, Tls
    from consensus.syncobj import SyncObjReplica

    listen, _ = split_address(config.listen)
    return SyncObjReplica(
        ReplicaConfig(
            id=config.id,
            peers={peer.id: peer.raft_address for peer in config.peers},
            listen=join_address(listen, config.me.raft_port),
            data_dir=config.data_dir / "raft",
            tls=Tls(ca=config.tls.ca, cert=config.tls.cert, key=config.tls.key) if config.tls else None,
            timing=Timing(
                heartbeat_s=config.heartbeat_s,
                election_min_s=config.election_timeout_s,
                election_max_s=2 * config.election_timeout_s,
                lease_s=config.election_timeout_s,
            ),
            limits=Limits(
                compact_entries=config.snapshot_every,
                keep_entries=min(Limits().keep_entries, config.snapshot_every // 2),
            ),
            refuse_entry=config.refuse_entry,
            replace=config.replace,
        ),
        machine,
    )


def _settings(flags: dict[str, Any]) -> Config:
    given = {
        "master.data_dir": flags["data_dir"],
        "master.policy": flags["policy"],
        "master.log_dir": flags["log_dir"],
        "tls.dir": flags["tls_dir"],
        "log.format": flags["log_format"],
        "log.level": flags["log_level"],
    }
    return load(given, config_file=flags["config_file"])


def _certificate(folder: Path | None, own_id: str) -> tls.TlsFiles:
    try:
        return tls.find(folder or tls.default_dir(), "master", own_id)
    except tls.TlsError as error:
        raise Usage(str(error), next="or, for a try on one machine: --insecure") from error


def _refused(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    index, colon, digest = text.partition(":")
    if not (colon and index.isdigit() and len(digest) >= 12 and set(digest) <= set("0123456789abcdef")):
        raise Usage(f"--refuse-entry {text}: what the stopped masters printed is INDEX:DIGEST")
    return int(index), digest


def _complain(error: Exception, status: int) -> int:
    click.echo(f"mr-master: {error}", err=True)
    if getattr(error, "next", ""):
        click.echo(f"  {error.next}", err=True)  # type: ignore[attr-defined]  # just looked at
    return status


if __name__ == "__main__":
    main()
