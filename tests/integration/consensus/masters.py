"""Real `mr-master` processes on ground that the test chose: disks of their own, a preloaded shim, another release."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.shim import Shim, build
from mr.client import Client
from mr.cluster import Cluster
from mr.ground import Ground
from mr.processes import Server
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2

WAIT_S = 60.0  # on a busy machine


class Prepared(Ground):
    """Loopback; each master's folder, command and environment as `prepare` leaves them."""

    def __init__(self, prepare: Callable[[Server], None]) -> None:
        self._prepare = prepare

    def settle(self, server: Server) -> None:
        super().settle(server)
        if server.kind == "master":
            self._prepare(server)


@contextlib.contextmanager
def shimmed(home: Path, *, workers: int = 0) -> Iterator[tuple[Cluster, dict[str, Shim]]]:
    """Three masters, each with a shim over its data directory."""
    home.mkdir(parents=True)
    library, shims = build(home), {}

    def prepare(server: Server) -> None:
        shims[server.id] = Shim(library, home / f"{server.id}.shim", server.data_dir)
        server.env = {**server.env, **shims[server.id].env}

    with Cluster.spawn(masters=3, workers=workers, home=home, ground=Prepared(prepare)) as cluster:
        try:
            yield cluster, shims
        finally:
            for shim in shims.values():
                shim.close()


def mr(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """One command of `mr` against the cluster."""
    return subprocess.run(
        [sys.executable, "-m", "mr.cli", *words],
        env=cluster.env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def row(cluster: Cluster, name: str) -> Any:
    """What a master says of itself; None when it does not answer."""
    return cluster.ask(cluster.masters[name], 1.0)


def until(found: Callable[[], Any], what: str, *, within_s: float = WAIT_S) -> Any:
    """Asks `found` until it says something. Fails after a while."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"no {what} within {within_s} s"
        time.sleep(0.05)
    return result


def ended(cluster: Cluster, name: str, *, within_s: float = WAIT_S) -> int:
    """The exit status of a master that is about to end."""
    process = cluster.masters[name].process
    assert process
    return process.wait(within_s)


def refusal(cluster: Cluster, name: str, *more: str, within_s: float = WAIT_S) -> tuple[int, str]:
    """Starts a stopped master that refuses: its exit status, and what it wrote to stderr meanwhile.

    One that does not refuse is killed before the test fails, so that the next has its port.
    """
    server = cluster.masters[name]
    before = len(server.log.read_text())
    argv, server.argv = server.argv, [*server.argv, *more]
    try:
        server.start()
        status = ended(cluster, name, within_s=within_s)
    finally:
        server.argv = argv
        cluster.kill(name)
    return status, server.log.read_text()[before:]


def others(cluster: Cluster, *but: str) -> Sequence[str]:
    """The ids of the other masters."""
    return [name for name in cluster.masters if name not in but]


def stop_all(cluster: Cluster) -> None:
    """SIGKILL to every master."""
    for name in cluster.masters:
        cluster.kill(name)


_CODE = b"one blob is code and plan here: nobody runs it"
_DIGEST = hashlib.sha256(_CODE).digest()


def submit(client: Client, job: str, *, maps: int = 1, timeout: float = 30.0) -> str:
    """A job that nobody will run: an entry of the log, acknowledged."""
    client.calls.upload(
        "Blobs.Put", lambda: iter([pb.BlobChunk(digest=_DIGEST, data=_CODE)]), size=len(_CODE)
    )
    spec = job_pb2.JobSpec(
        job_id=job,
        name="storm",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=1, partitioner="hash")],
        maps=maps,
        code_digest=_DIGEST,
        splits_digest=_DIGEST,
        output=job_pb2.Output(path=f"/nowhere/{job}"),
        staging=f"/nowhere/.{job}",
        job_file="x.py",
    )
    request = pb.SubmitRequest(spec=spec, request_id=job)
    return str(client.calls.call("Submit", request, timeout=timeout).job)


def jobs(cluster: Cluster) -> set[str]:
    """Every job that the cluster knows."""
    with cluster.connect() as client:
        return {job.id for job in client.jobs(limit=100_000)}
