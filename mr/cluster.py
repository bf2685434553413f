"""A whole cluster of real processes on this machine: for `mr dev`, the demo, tests and the harness
(S1-19, S3-06).

Every server is an ordinary `mr-master` or `mr-worker` with its own folder and its own session, so that
Ctrl-C in a terminal does not reach it. Ports are chosen once, outside the range that the kernel hands to
clients, so that a server comes back where it was. A guardian process cleans up even when the owner is
killed by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from mr import guardian
from mr import tls as certificates
from mr.errors import Error, Unavailable
from mr.ground import Ground
from mr.processes import Server, python
from mr.settings import Tls

if TYPE_CHECKING:
    from mr.client import Client

_NAMES = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads now, by its own account."""

    id: str
    term: int
    commit: int
    address: str


class Cluster:
    """A running cluster on loopback. Make one with `Cluster.spawn`, use it as a context manager."""

    def __init__(
        self, home: Path, *, temporary: bool, tls: bool, env: Mapping[str, str], ground: Ground
    ) -> None:
        self.home = home
        self.ground = ground
        self.tls = Tls(dir=home / "tls") if tls else Tls(insecure=True)
        self.masters: dict[str, Server] = {}
        self.workers: dict[str, Server] = {}
        self._temporary = temporary
        self._env = env
        self._worker_argv: list[str] = []
        self._channels: dict[str, Any] = {}
        self._guardian, self._wire = _start_guardian()
        if temporary:
            self._tell(f"rm {home}")

    @classmethod
    def spawn(
        cls,
        masters: int = 3,
        workers: int = 4,
        *,
        slots: int = 1,
        home: Path | None = None,
        tls: bool = True,
        master_args: Sequence[str] = (),
        worker_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        ground: Ground | None = None,
        timeout: float = 60.0,
        wait: bool = True,
    ) -> Cluster:
        """Starts `masters` masters (a, b, c, …) and `workers` workers (w1, w2, …) of `slots` slots each.

        `home` holds certificates, state and logs; without one it is a temporary folder, removed by
        `stop`. `ground` is where they stand, if not on loopback. Returns when a leader is known and all
        workers are attached, unless `wait` is False. Raises Error, with the log of the server that failed,
        after `timeout` seconds.
        """
        temporary = home is None
        place = Path(tempfile.mkdtemp(prefix="mr-cluster-")) if home is None else home.absolute()
        place.mkdir(parents=True, exist_ok=True)
        cluster = cls(
            place,
            temporary=temporary,
            tls=tls,
            env={**os.environ, **(env or {})},
            ground=ground or Ground(),
        )
        try:
            cluster._prepare(masters, workers, slots, master_args, worker_args)
            cluster._start_all(timeout, wait)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def addresses(self) -> list[str]:
        """host:port of every master."""
        return [server.address for server in self.masters.values()]

    @property
    def masters_flag(self) -> str:
        """For `--masters` and MR_MASTERS."""
        return ",".join(self.addresses)

    @property
    def servers(self) -> dict[str, Server]:
        """Masters and workers by id."""
        return self.masters | self.workers

    def exports(self) -> dict[str, str]:
        """The environment variables that make `mr` talk to this cluster."""
        tls = {"MR_TLS__INSECURE": "true"} if self.tls.insecure else {"MR_TLS__DIR": str(self.tls.dir)}
        return {"MR_MASTERS": self.masters_flag, **tls}

    def env(self) -> dict[str, str]:
        """A whole environment for a subprocess that runs `mr` against this cluster."""
        return {**self._env, **self.exports()}

    def connect(self, **options: Any) -> Client:
        """A client of this cluster; options are those of `mr.connect`."""
        from mr.client import connect

        return connect(self.masters_flag, tls=self.tls, **options)

    def kill(self, id: str, sig: int = signal.SIGKILL) -> None:
        """Sends `sig` to one server; after SIGKILL it is dead when this returns."""
        server = self.servers[id]
        if server.process is None or not server.alive:
            return
        server.process.send_signal(sig)
        if sig == signal.SIGKILL:
            server.process.wait()
            self._tell(f"-{server.pid}")

    def pause(self, id: str) -> None:
        """SIGSTOP: the server is there but silent."""
        self.kill(id, signal.SIGSTOP)

    def resume(self, id: str) -> None:
        """SIGCONT."""
        self.kill(id, signal.SIGCONT)

    def restart(self, id: str, *, timeout: float = 30.0) -> Server:
        """Starts a dead server again: same id, same ports, same folder. Returns when it listens."""
        server = self.servers[id]
        if server.alive:
            raise Error(f"{id} still runs: kill it first")
        self._start(server)
        server.await_first_line(time.monotonic() + timeout)
        return server

    def add_worker(self, *, timeout: float = 30.0) -> Server:
        """One more worker, like the others (S2-16). Returns when it listens."""
        server = self._new_worker(f"w{len(self.workers) + 1}")
        self._start(server)
        server.await_first_line(time.monotonic() + timeout)
        return server

    def leader(self, timeout: float = 0.1) -> Leader | None:
        """Asks each living master, `timeout` seconds each; None when none claims to lead."""
        best: Leader | None = None
        for server in self.masters.values():
            own = self.ask(server, timeout) if server.alive else None
            if own is not None and own.role == "leader" and (best is None or own.term > best.term):
                best = Leader(server.id, own.term, own.commit, server.address)
        return best

    def await_leader(self, timeout: float = 30.0) -> Leader:
        """The first leader that answers. Raises Unavailable after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            leader = self.leader(timeout=0.5)
            if leader:
                return leader
            time.sleep(0.02)
        logs = "\n".join(f"--- {s.id}\n{s.log_tail(8)}" for s in self.masters.values())
        raise Unavailable(f"no leader after {timeout:.0f} s", next=f"the masters' logs end with:\n{logs}")

    def await_workers(self, count: int, timeout: float = 30.0) -> None:
        """Returns when `count` workers are attached. Raises Unavailable after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self.connect(timeout=timeout) as client:
            while sum(worker.state == "active" for worker in client.workers()) < count:
                if time.monotonic() > deadline:
                    logs = "\n".join(f"--- {s.id}\n{s.log_tail(5)}" for s in self.workers.values())
                    raise Unavailable(
                        f"not {count} workers after {timeout:.0f} s", next=f"their logs:\n{logs}"
                    )
                time.sleep(0.05)

    def stop(self) -> None:
        """Kills every server with its descendants, and removes a temporary home. Idempotent.

        No farewell: a cluster that lives by surviving kills may be stopped by them.
        """
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        for server in reversed(self.servers.values()):
            if server.process is not None and server.alive:
                guardian.kill_tree(server.pid)
                server.process.wait()
        if self._temporary:
            guardian.remove(self.home)
        if not self._wire.closed:
            self._wire.close()
            self._guardian.wait()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(
        self, masters: int, workers: int, slots: int, master_args: Sequence[str], worker_args: Sequence[str]
    ) -> None:
        names = [_NAMES[n] if masters <= len(_NAMES) else f"m{n}" for n in range(masters)]
        spots = self.ground.spots(self.home, names)
        peers = ",".join(f"{name}={spot.host}:{spot.grpc}/{spot.raft}" for name, spot in spots.items())
        if self.tls.dir:
            certificates.init(self.tls.dir, masters=names, workers=())
        for name, spot in spots.items():
            home = self.home / f"master-{name}"
            argv = [*python("master.main"), "--id", name, "--peers", peers, "--data-dir", str(home / "data")]
            argv += [*self._security(), *master_args]
            self.masters[name] = self._new(name, "master", home, argv, f"{spot.host}:{spot.grpc}")
        self._worker_argv = ["--masters", self.masters_flag, "--slots", str(slots)]
        # they share one machine: together they may use what a worker alone on it may
        self._worker_argv += ["--memory", str(_memory_share(max(workers, 1))), *worker_args]
        for n in range(1, workers + 1):
            self._new_worker(f"w{n}")

    def _new_worker(self, id: str) -> Server:
        home = self.home / f"worker-{id}"
        if self.tls.dir:
            certificates.init(self.tls.dir, masters=(), workers=[id], clients=())
        argv = [*python("worker.main"), "--id", id, "--work-dir", str(home / "work")]
        argv += [*self._worker_argv, *self._security()]
        self.workers[id] = self._new(id, "worker", home, argv)
        return self.workers[id]

    def _new(self, id: str, kind: str, home: Path, argv: list[str], address: str = "") -> Server:
        server = Server(id, kind, home, argv, self._env, address=address)
        self.ground.settle(server)
        return server

    def _start_all(self, timeout: float, wait: bool) -> None:
        deadline = time.monotonic() + timeout
        for server in self.servers.values():
            self._start(server)
        for server in self.servers.values():
            server.await_first_line(deadline)
        if wait:
            self.await_leader(deadline - time.monotonic())
            self.await_workers(len(self.workers), deadline - time.monotonic())

    def _start(self, server: Server) -> None:
        server.start()
        self._tell(f"+{server.pid}")

    def _security(self) -> list[str]:
        return ["--tls-dir", str(self.tls.dir)] if self.tls.dir else ["--insecure"]

    def ask(self, server: Server, timeout: float) -> Any:
        """What a master says of itself, a MasterInfo; None when it does not answer within `timeout` seconds."""
        import grpc

        from mr.channel import open_channel
        from mr.rpc.cluster_pb2 import ListMastersRequest
        from mr.rpc.cluster_pb2_grpc import ClusterStub

        channel = self._channels.get(server.id)
        if channel is None:
            channel = self._channels[server.id] = open_channel(server.address, self.tls)
        try:
            answer = ClusterStub(channel).ListMasters(ListMastersRequest(local_only=True), timeout=timeout)
        except grpc.RpcError:
            return None
        return next(iter(answer.masters), None)

    def _tell(self, line: str) -> None:
        self._wire.write(f"{line}\n")
        self._wire.flush()


def _start_guardian() -> tuple[subprocess.Popen[str], IO[str]]:
    argv = [sys.executable, "-I", "-S", str(Path(guardian.__file__))]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None  # a pipe was asked for
    return process, process.stdin


def _memory_share(workers: int) -> int:
    """Bytes for each of `workers` workers of this machine: three quarters of it, divided, 256 MiB at least."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(total * 3 // 4 // workers, 256 << 20)
