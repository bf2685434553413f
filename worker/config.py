"""What one worker process is told: masters, limits, places. A frozen record, checked when made.

Nothing of a job is configured here: a job's settings travel with it (S1-11); a worker's can only restrict it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mr import channel, tls
from mr.config import Config
from mr.errors import Usage
from mr.rpc import job_pb2 as job
from worker import memory

HTTP_PORT = 7080
_MEMORY_SHARE = 0.75
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker. Raises Usage for what cannot work."""

    masters: tuple[str, ...]  # host:port of each
    id: str = ""  # "": as kept in the work dir, or invented
    slots: int
    memory_bytes: int  # for all tasks together
    work_dir: Path
    labels: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()  # empty: all
    listen: str  # host:port of the data port; port 0: any free one
    advertise: str  # host, or host:port, as other workers reach it
    http: str | None  # host:port; None: off
    http_pinned: bool = False  # the port was asked for: do not look for the next free one
    files: tls.TlsFiles | None = None  # None: plaintext on loopback

    def __post_init__(self) -> None:
        if self.id and not _ID.fullmatch(self.id):
            raise Usage(f"{self.id!r} cannot be a worker's id", next="use letters, digits, dots and dashes")
        if self.slots < 1:
            raise Usage("--slots must be at least 1")
        if self.memory_bytes < 64 << 20:
            raise Usage("--memory is too little for a Python process", next="give at least 64MiB")
        plain = [a for a in (*self.masters, self.listen) if not channel.is_loopback(a)]
        if self.files is None and plain:
            raise Usage(
                f"--insecure is plaintext, for loopback addresses only, and {plain[0]} is none",
                next="`mr tls init` makes certificates for a small cluster",
            )

    @property
    def task_memory_bytes(self) -> int:
        """What one task may use unless its job says otherwise."""
        return self.memory_bytes // self.slots


def configure(
    settings: Config,
    *,
    worker_id: str = "",
    kinds: str = "",
    listen: str = "",
    advertise: str = "",
    http: str = "",
) -> WorkerConfig:
    """The one record out of settings and flags. Raises Usage; TlsError without a certificate."""
    masters = tuple(channel.full_address(address) for address in settings.cluster.masters)
    if not masters:
        raise Usage("no masters", next="name them: mr-worker --masters h1,h2,h3")
    worker_id = worker_id or _certified_id(settings)
    here = "127.0.0.1" if all(channel.is_loopback(m) for m in masters) else _own_address(masters)
    listen = _with_port(listen or (here if channel.is_loopback(f"{here}:0") else "0.0.0.0"), 0)  # noqa: S104 - TLS is on
    return WorkerConfig(
        masters=masters,
        id=worker_id,
        slots=settings.worker.slots or os.cpu_count() or 1,
        memory_bytes=settings.worker.memory or int(memory.total() * _MEMORY_SHARE),
        work_dir=settings.worker.work_dir or Path(),
        labels=settings.worker.labels,
        kinds=_kinds(kinds),
        listen=listen,
        advertise=advertise or here,
        http=None if http == "off" else _with_port(http or "127.0.0.1", HTTP_PORT),
        http_pinned=bool(http),
        files=_certificate(settings, worker_id),
    )


def _certified_id(settings: Config) -> str:
    """The only id that this host's certificate allows, so that `mr-worker --masters a,b,c` needs no --id."""
    t = settings.tls
    if t.insecure or (t.ca and t.cert and t.key):
        return ""
    return tls.only_name(t.dir or tls.default_dir(), "worker") or ""


def _certificate(settings: Config, worker_id: str) -> tls.TlsFiles | None:
    t = settings.tls
    if t.insecure:
        return None
    if t.ca and t.cert and t.key:
        return tls.TlsFiles(t.ca, t.cert, t.key)
    try:
        return tls.find(t.dir or tls.default_dir(), "worker", worker_id or None)
    except tls.TlsError as error:
        raise Usage(
            str(error), next="or pass --insecure: plaintext, for a cluster on this machine only"
        ) from None


def _kinds(text: str) -> tuple[int, ...]:
    names = {"map": job.MAP, "reduce": job.REDUCE}
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in names]:
        raise Usage(f"--kinds {unknown[0]!r} is neither map nor reduce")
    return tuple(names[name] for name in wanted)


def _with_port(address: str, default: int) -> str:
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]"):
        return f"{address}:{default}"
    if not port.isdigit() or int(port) > 65535:
        raise Usage(f"{address!r} is not host:port")
    return f"{host or '127.0.0.1'}:{port}"


def _own_address(masters: Iterable[str]) -> str:
    """The address of this host on the way to a master; sends nothing. Its name if no master has a route."""
    for master in masters:
        host, _, port = master.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
            family, kind, _, _, address = found[0]
            with socket.socket(family, kind) as probe:
                probe.connect(address)
                own = str(probe.getsockname()[0])
                return f"[{own}]" if ":" in own else own
        except OSError:
            continue
    return socket.getfqdn()
