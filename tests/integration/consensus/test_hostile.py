"""Whoever reaches a port and is not one of us: silence, noise, slow ones, wrong roles (FC30; S1 to S3, S6)."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

import mr.tls
from mr.cluster import Cluster as Masters
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc
from tests.integration.consensus import masters
from tests.integration.consensus.cluster import Cluster
from tests.integration.consensus.test_lives import Client, assert_nothing_lost

pytestmark = pytest.mark.timeout(300)

CONNECTIONS = 10_000


def test_ten_thousand_connections_that_say_nothing_cost_no_election(tmp_path):
    """FC30: to the Raft port of every member, while commands are committed; nobody loses a link or a command."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CONNECTIONS + 2000), hard))
    try:
        with Cluster(tmp_path / "c") as cluster, contextlib.ExitStack() as held:
            cluster.start()
            leader, client = cluster.leader(), Client(cluster, "w")
            term, opened = cluster.terms(), 0
            places = [address.rpartition(":") for address in cluster.options["peers"].values()]
            for number in range(CONNECTIONS):
                host, _, port = places[number % 3]
                one = held.enter_context(socket.socket())
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect((host, int(port)))
                opened += 1
                if number % 500 == 0:
                    time.sleep(0.1)
            time.sleep(3.5)  # longer than a handshake may take
            client.stop()
            assert opened == CONNECTIONS
            assert client.failed == []
            assert (cluster.leader(), cluster.terms()) == (leader, term)
            assert all(peer["connected"] for peer in cluster.status(leader)["peers"].values())
            assert_nothing_lost(cluster, client.acknowledged)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


Attack = Callable[[str, int, Path], None]


def noise(host: str, port: int, _: Path) -> None:
    with socket.create_connection((host, port), timeout=5) as one:
        one.sendall(os.urandom(100_000))


def endless_line(host: str, port: int, _: Path) -> None:
    with socket.create_connection((host, port), timeout=5) as one:
        one.sendall(b"GET /" + b"x" * (4 << 20))


def tls_without_a_certificate(host: str, port: int, folder: Path) -> None:
    """A frame of 16 MiB is announced; what a server without a certificate would answer is never read."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout=5) as plain, context.wrap_socket(plain) as one:
        one.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1 << 20)
        )


def huge_frame(host: str, port: int, folder: Path) -> None:
    """The same with a certificate of the cluster, of a worker."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    with socket.create_connection((host, port), timeout=5) as plain, context.wrap_socket(plain) as one:
        one.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1 << 20)
        )


def slow(host: str, port: int, _: Path) -> None:
    """A TLS hello, a byte at a time."""
    with socket.create_connection((host, port), timeout=5) as one:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03":
            one.sendall(bytes([byte]))
            time.sleep(0.1)


def wrong_role(host: str, port: int, folder: Path) -> None:
    """A client's certificate, on everything that it is not for."""
    files = mr.tls.TlsFiles(folder / "ca.pem", folder / "client.pem", folder / "client.key")
    options = mr.tls.channel_options("master")
    with grpc.secure_channel(f"{host}:{port}", mr.tls.channel_credentials(files), options) as channel:
        for method in ("/mr.raft.Raft/Link", "/mr.Sessions/Session"):
            call = channel.stream_stream(method)(iter([b"\xff" * 1000]), timeout=2)
            with pytest.raises(grpc.RpcError):
                list(call)


def oversized(host: str, port: int, folder: Path) -> None:
    """S6: nine megabytes in one message."""
    files = mr.tls.TlsFiles(folder / "ca.pem", folder / "client.pem", folder / "client.key")
    options = mr.tls.channel_options("master")
    credentials = mr.tls.channel_credentials(files)
    with grpc.secure_channel(f"{host}:{port}", credentials, options) as channel, pytest.raises(grpc.RpcError):
        cluster_pb2_grpc.ClusterStub(channel).Cancel(pb.CancelRequest(job="x" * (9 << 20)), timeout=5)


ATTACKS: tuple[Attack, ...] = (
    noise,
    endless_line,
    tls_without_a_certificate,
    huge_frame,
    slow,
    wrong_role,
    oversized,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Masters]:
    """Three masters with pages, and no worker."""
    home = tmp_path_factory.mktemp("hostile")
    with Masters.spawn(masters=3, workers=0, home=home / "c") as made:
        yield made


def test_a_master_listens_only_where_it_was_told(cluster: Masters) -> None:
    """Its three ports, on loopback: no wildcard, no port of its own choosing."""
    for server in cluster.masters.values():
        told = {str(server.facts[port]) for port in ("grpc", "raft", "http")}
        assert _listening(server.pid) == told


def _listening(pid: int) -> set[str]:
    """host:port of every socket on which a process listens, from the kernel's tables."""
    held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
                host, _, port = fields[1].partition(":")
                words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
                name = socket.inet_ntop(
                    socket.AF_INET if table == "tcp" else socket.AF_INET6, b"".join(words)
                )
                found.add(f"{name.removeprefix('::ffff:')}:{int(port, 16)}")
    return found


@pytest.mark.parametrize(
    ("port", "attack"),
    [
        (port, attack)
        for port in ("grpc", "raft", "http")
        for attack in ATTACKS
        if port != "http" or attack not in (wrong_role, oversized)  # it speaks no gRPC
    ],
)
def test_no_port_is_hurt_by_what_strangers_send(cluster: Masters, port: str, attack: Attack) -> None:
    """S1, S6: the same leader leads, clients are served, no process ends or grows by what was sent."""
    assert cluster.tls.dir
    leader = cluster.await_leader()
    before = {name: masters.row(cluster, name).memory_bytes for name in cluster.masters}
    places = [str(server.facts[port]).rpartition(":") for server in cluster.masters.values()]

    def run(host: str, number: int) -> None:
        for _ in range(2):
            with contextlib.suppress(OSError):
                attack(host, number, cluster.tls.dir)

    threads = [
        threading.Thread(target=run, args=(host, int(number))) for host, _, number in places for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    with cluster.connect() as client:
        job = masters.submit(client, f"{port}-{attack.__name__}".replace("_", "-"))
    for thread in threads:
        thread.join()
    assert job in masters.jobs(cluster)
    now = cluster.await_leader()
    assert (now.id, now.term) == (leader.id, leader.term)
    for name in cluster.masters:
        assert masters.row(cluster, name).memory_bytes < before[name] + (150 << 20)
