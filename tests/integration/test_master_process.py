"""`mr-master` as people and scripts meet it: what it says first, how it refuses, how it stops."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import mr.tls
from mr import errors
from mr.client import connect
from mr.cluster import Cluster
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc, job_pb2
from mr.settings import Tls

MASTER = [sys.executable, "-P", "-m", "master.main"]


def refused(*args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and stderr of an `mr-master` that does not start."""
    done = subprocess.run(
        [*MASTER, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


CODE = b"one blob is code and plan here: nobody runs it"
DIGEST = hashlib.sha256(CODE).digest()


def _spec(job: str) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        job_id=job,
        name="storm",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=1, partitioner="hash")],
        maps=1,
        code_digest=DIGEST,
        splits_digest=DIGEST,
        output=job_pb2.Output(path=f"/nowhere/{job}"),
        staging=f"/nowhere/.{job}",
        job_file="x.py",
    )


class Process:
    """One master, started by hand."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [*MASTER, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.first = json.loads(line)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.first['http']}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.get("/readyz")
            except urllib.error.HTTPError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("never ready")

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("promise", "args", "status", "said"),
    [
        ("no peers", [], 2, "--peers"),
        ("an unknown flag", ["--peer", "a"], 2, "No such option"),
        ("no certificate", ["--peers", "a=127.0.0.1:7070"], 2, "mr tls init"),
        (
            "plaintext beyond loopback",
            ["--peers", "a=198.51.100.1:7070", "--id", "a", "--insecure"],
            2,
            "loopback",
        ),
        (
            "plaintext pages beyond loopback",
            ["--peers", "a=127.0.0.1:0", "--http", "0.0.0.0:0", "--insecure"],
            2,
            "loopback",
        ),
        ("none of the peers is here", ["--peers", "198.51.100.1,203.0.113.1", "--insecure"], 2, "--id"),
        ("several peers are here", ["--peers", "127.0.0.1,127.0.0.2", "--insecure"], 2, "--id"),
        ("an id that is no peer", ["--peers", "a=127.0.0.1:0", "--id", "x", "--insecure"], 2, "not among"),
        ("a port that is none", ["--peers", "a=127.0.0.1:99999", "--insecure"], 2, "host:port"),
        (
            "a wrong entry to refuse",
            ["--peers", "a=127.0.0.1:0", "--insecure", "--refuse-entry", "7"],
            2,
            "INDEX:DIGEST",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_clear_message(
    promise: str, args: list[str], status: int, said: str, tmp_path: Path
) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    code, text = refused(*args, env=env)
    assert (code, said in text) == (status, True), f"{promise}: {code} {text}"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = refused("--peers", f"a={place}/0", "--insecure", "--data-dir", str(tmp_path))
    assert code == 2
    assert place in text


def test_one_master_alone_is_a_cluster(tmp_path: Path) -> None:
    """S0-08: the first line tells where it is; SIGTERM ends it with 0; its logs are JSON lines when asked for."""
    args = [
        "--peers",
        f"a=127.0.0.1:{free_port()}/{free_port()}",
        "--data-dir",
        str(tmp_path / "d"),
        "--insecure",
    ]
    with Process(
        *args, "--http", "127.0.0.1:0", "--log-dir", str(tmp_path / "log"), "--log-format", "json"
    ) as one:
        assert set(one.first) == {"id", "grpc", "raft", "http", "pid", "version"}
        assert one.first["pid"] == one.process.pid
        one.ready()
        assert one.get("/healthz") == "ok\n"
        with connect(one.first["grpc"], tls=Tls(insecure=True)) as client:
            assert [(row.id, row.role) for row in client.masters()] == [("a", "leader")]
        assert one.end() == 0
    lines = [json.loads(line) for line in (tmp_path / "log" / "master-a.log").read_text().splitlines()]
    assert {"at", "level", "logger", "text"} <= set(lines[0])


def test_a_master_that_waits_for_the_others_says_so_and_stops_at_once(tmp_path: Path) -> None:
    peers = f"a=127.0.0.1:{free_port()}/{free_port()},b=127.0.0.1:{free_port()}/{free_port()}"
    args = ["--peers", peers, "--id", "a", "--data-dir", str(tmp_path), "--insecure", "--http", "127.0.0.1:0"]
    with Process(*args) as one:
        with pytest.raises(urllib.error.HTTPError) as answer:
            one.get("/readyz")
        assert answer.value.code == 503
        deadline = time.monotonic() + 20
        while "waiting for b" not in one.get("/cluster"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert one.end() == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters with certificates, no worker."""
    with Cluster.spawn(masters=3, workers=0) as made:
        yield made


def test_without_a_certificate_nobody_is_let_in(cluster: Cluster) -> None:
    """S1."""
    stub = cluster_pb2_grpc.ClusterStub(grpc.insecure_channel(cluster.addresses[0]))
    with pytest.raises(grpc.RpcError):
        stub.ListMasters(pb.ListMastersRequest(), timeout=5)


def test_a_worker_may_not_do_what_clients_do(cluster: Cluster) -> None:
    """S2: exit 4 on the command line."""
    assert cluster.tls.dir is not None
    files = next(
        mr.tls.TlsFiles(cluster.tls.dir / "ca.pem", cert, cert.with_suffix(".key"))
        for cert in cluster.tls.dir.glob("master-*.pem")
    )
    credentials, options = mr.tls.channel_credentials(files), mr.tls.channel_options("master")
    leader = cluster.await_leader()
    with grpc.secure_channel(leader.address, credentials, options) as channel:
        stub = cluster_pb2_grpc.ClusterStub(channel)
        assert stub.ListMasters(pb.ListMastersRequest(), timeout=5).masters
        with pytest.raises(grpc.RpcError) as failed:
            stub.Cancel(pb.CancelRequest(job="x"), timeout=5)
    error = errors.from_rpc(failed.value)
    assert isinstance(error, errors.NotAllowed)
    assert error.exit_code == 4


def test_a_job_is_its_owners(cluster: Cluster) -> None:
    """S2, S5, FT14: another user may look, but not cancel, and sees neither arguments nor environment."""
    assert cluster.tls.dir is not None
    mr.tls.issue(cluster.tls.dir, "client", "eve")
    spec = _spec("owned-1")
    spec.args.append("--password=hunter2")
    spec.env["TOKEN"] = "hunter2"
    with cluster.connect() as client:
        client.calls.upload(
            "Blobs.Put", lambda: iter([pb.BlobChunk(digest=DIGEST, data=CODE)]), size=len(CODE)
        )
        client.calls.call("Submit", pb.SubmitRequest(spec=spec, request_id="owned-1"))
        assert "hunter2" in str(client.attach("owned-1").status().spec)
    files = mr.tls.find(cluster.tls.dir, "client", "eve")
    credentials, options = mr.tls.channel_credentials(files), mr.tls.channel_options("master")
    with grpc.secure_channel(cluster.await_leader().address, credentials, options) as channel:
        eve = cluster_pb2_grpc.ClusterStub(channel)
        status = eve.GetJob(pb.GetJobRequest(job="owned-1"), timeout=5)
        assert status.owner == "client"
        assert "hunter2" not in str(status)
        for event in eve.Watch(pb.WatchRequest(job="owned-1"), timeout=5):
            assert "hunter2" not in str(event)
        with pytest.raises(grpc.RpcError) as failed:
            eve.Cancel(pb.CancelRequest(job="owned-1", request_id="c"), timeout=5)
    assert isinstance(errors.from_rpc(failed.value), errors.NotAllowed)
    assert all("hunter2" not in server.log.read_text() for server in cluster.masters.values())


def test_pages_beyond_loopback_want_a_certificate(cluster: Cluster, tmp_path: Path) -> None:
    """S1: health is open, the rest is not."""
    assert cluster.tls.dir is not None
    folder = cluster.tls.dir
    args = ["--peers", f"a=127.0.0.1:{free_port()}/{free_port()}", "--data-dir", str(tmp_path)]
    with Process(*args, "--tls-dir", str(folder), "--http", "0.0.0.0:0") as one:
        port = one.first["http"].rpartition(":")[2]
        stranger = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        assert _status(f"https://localhost:{port}/healthz", stranger) == 200
        assert _status(f"https://localhost:{port}/cluster", stranger) == 403
        known = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        known.load_cert_chain(folder / "client.pem", folder / "client.key")
        assert _status(f"https://localhost:{port}/cluster", known) == 200


def test_every_master_is_stopped_in_turn_and_no_client_sees_it(cluster: Cluster) -> None:
    """SIGTERM on a leader hands over first: a storm of submits goes on, each answered, none lost (C8)."""
    ended, seen, accepted = threading.Event(), [], []

    def storm(number: int) -> None:
        with cluster.connect() as client:
            client.calls.upload(
                "Blobs.Put", lambda: iter([pb.BlobChunk(digest=DIGEST, data=CODE)]), size=len(CODE)
            )
            while not ended.is_set():
                job = f"storm-{number}-{len(accepted)}"
                try:
                    request = pb.SubmitRequest(spec=_spec(job), request_id=job)
                    accepted.append(client.calls.call("Submit", request, timeout=10).job)
                except errors.Error as error:
                    seen.append(error)

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            leader = cluster.await_leader()
            process: Any = cluster.masters[leader.id].process
            cluster.kill(leader.id, signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert cluster.await_leader().id != leader.id
            cluster.restart(leader.id)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert seen == []
    assert len(accepted) > 10
    with cluster.connect() as client:
        assert set(accepted) <= {job.id for job in client.jobs(limit=100_000, prefix="storm-")}


def test_all_masters_killed_come_back_with_what_they_knew(cluster: Cluster, tmp_path: Path) -> None:
    """FC3, C8: a job that was accepted is there, under the same id, in the same cluster."""
    job = tmp_path / "wc.py"
    job.write_text(
        "def mapper(line):\n    yield line, 1\ndef reducer(key, values):\n    yield key, sum(values)\n"
    )
    (tmp_path / "in.txt").write_text("one\n")
    with cluster.connect() as client:
        client.submit(job, tmp_path / "in.txt", tmp_path / "out", id="kept-1")
        before, known = cluster.await_leader(), {row.cluster_id for row in client.masters() if row.cluster_id}
    for name in cluster.masters:
        cluster.kill(name)
    for name in cluster.masters:
        cluster.restart(name)
    after = cluster.await_leader()
    assert after.term > before.term
    assert after.commit > before.commit
    with cluster.connect() as client:
        assert client.attach("kept").id == "kept-1"
        assert {row.cluster_id for row in client.masters() if row.cluster_id} == known


def _status(url: str, context: ssl.SSLContext) -> int:
    try:
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
