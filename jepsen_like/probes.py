"""Knocks at every door of a living cluster as somebody who must not be let in, and writes down what came back (S1, S2,
S6).

Which role may call what is written here once more, from the requirements, so that the masters' own table is not its
own judge. Empty requests are sent: what is refused is refused before the request is looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from jepsen_like.evidence import Probe
from mr import tls as certificates

if TYPE_CHECKING:
    from mr.processes import Server

PATIENCE_S = 8.0
OVERSIZED = 40 << 20
READS = ("GetJob", "ListJobs", "ListTasks", "ListWorkers", "ListMasters", "Explain", "Watch", "ReadLogs")
WRITES = (
    "Submit",
    "Cancel",
    "Retry",
    "SetWorker",
    "Transfer",
    "KillAttempt",
    "SaveSnapshot",
    "RestoreSnapshot",
)
MASTER = {
    **{f"/mr.Cluster/{name}": {"client", "master"} for name in READS},
    **{f"/mr.Cluster/{name}": {"client"} for name in WRITES},
    "/mr.Blobs/Put": {"client", "master"},
    "/mr.Blobs/Get": {"client", "master", "worker"},
    "/mr.Blobs/Have": {"client", "master"},
    "/mr.Sessions/Session": {"worker"},
}
WORKER = {
    "/mr.Data/FetchSegments": {"worker"},
    "/mr.Data/Probe": {"worker", "master"},
    "/mr.Data/ReadLog": {"master"},
}
PEER = {"/mr.raft.Raft/Link": {"master"}, "/mr.raft.Raft/Identify": {"master"}}
Doors = list[tuple["Server", str, str, Mapping[str, set[str]]]]


def doors(masters: Mapping[str, Server], workers: Mapping[str, Server]) -> Doors:
    """Every gRPC port: server, its name, where, and who may call what there."""
    found: Doors = []
    for server in masters.values():
        if server.alive:
            found += [(server, "grpc", server.address, MASTER), (server, "raft", server.raft, PEER)]
    found += [(s, "data", s.address, WORKER) for s in workers.values() if s.alive and s.address]
    return found


def knock(masters: Mapping[str, Server], workers: Mapping[str, Server], folder: Path) -> list[Probe]:
    """All probes: a stranger at every port with one method, a true certificate with all that its role may not call at
    one server of each kind. `folder` holds the cluster's certificates."""
    found: list[Probe] = []
    kinds: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="mr-strangers-") as place:
        foreign = Path(place)
        certificates.init(foreign, workers=("w1",))
        for server, port, address, table in doors(masters, workers):
            first = port not in kinds
            kinds.add(port)
            for who, credentials in _strangers(folder, foreign):
                methods = list(table) if first else list(table)[:1]
                found += _ask(address, credentials, who, server.id, port, methods)
            for role, credentials in _roles(folder) if first else ():
                methods = [method for method, allowed in table.items() if role not in allowed]
                found += _ask(address, credentials, role, server.id, port, methods)
    return found


def oversize(masters: Mapping[str, Server], folder: Path) -> list[Probe]:
    """One message that is far too large, to each living master, with a client's true certificate."""
    found = []
    for server in masters.values():
        if not server.alive:
            continue
        before = _memory(server.pid)
        files = certificates.find(folder, "client")
        answer = _call(
            server.address, certificates.channel_credentials(files), "/mr.Cluster/Submit", bytes(OVERSIZED)
        )
        grew = max(0, _memory(server.pid) - before)
        found.append(
            Probe(
                who="client",
                server=server.id,
                port="grpc",
                method="/mr.Cluster/Submit",
                answer=answer,
                bytes=OVERSIZED,
                grew=grew,
            )
        )
    return found


def _strangers(folder: Path, foreign: Path) -> Iterator[tuple[str, grpc.ChannelCredentials | None]]:
    yield "plaintext", None
    yield "no certificate", grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes())
    files = certificates.find(foreign, "client")
    yield (
        "another CA",
        grpc.ssl_channel_credentials(
            (folder / "ca.pem").read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
        ),
    )


def _roles(folder: Path) -> Iterator[tuple[str, grpc.ChannelCredentials]]:
    """A true certificate of each role that lies in the folder."""
    for role in certificates.ROLES:
        found = sorted(folder.glob(f"{role}*.pem"))
        if found:
            files = certificates.TlsFiles(folder / "ca.pem", found[0], found[0].with_suffix(".key"))
            yield role, certificates.channel_credentials(files)


def _ask(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    who: str,
    server: str,
    port: str,
    methods: list[str],
) -> list[Probe]:
    return [
        Probe(who=who, server=server, port=port, method=m, answer=_call(address, credentials, m, b""))
        for m in methods
    ]


def _call(address: str, credentials: grpc.ChannelCredentials | None, method: str, request: bytes) -> str:
    """The status that one call ends with. A connection that fails ends it at once."""
    options: list[tuple[str, Any]] = [
        ("grpc.ssl_target_name_override", certificates.SERVER_NAME),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
    ]
    channel = (
        grpc.secure_channel(address, credentials, options)
        if credentials is not None
        else grpc.insecure_channel(address, options)
    )
    with channel:
        call = channel.unary_stream(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            for _ in call(request, timeout=PATIENCE_S):
                return "OK"
            return "OK"
        except grpc.RpcError as error:
            return str(error.code().name)


def _memory(pid: int) -> int:
    """Resident bytes of a process and what it became; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(rows.get("VmRSS", "0 kB").split()[0]) << 10
