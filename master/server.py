"""One master process put together: replica, table, leader, gRPC services, pages; and how it ends.

Everything lives on one asyncio loop; consensus has its own threads and its own gRPC port, so that a flood of
clients or a long plan delays no heartbeat. A leader that is told to stop hands its office over first.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from consensus.replica import ConsensusError, Replica
from master.access import Guard
from master.archive import named_blobs
from master.blob_service import BlobService
from master.blobs import BlobStore
from master.config import MasterConfig, join_address, split_address
from master.copies import Copies
from master.driver import Driver
from master.hosts import listening_socket
from master.leader import Leader
from master.leader_config import LeaderConfig
from master.machine import Machine
from master.masters import Masters
from master.metrics import Metrics
from master.peers import Peers
from master.plans import Plans
from master.saving import Saving
from master.service import ClusterService
from master.streams import Links, SessionService, redirect
from master.task_logs import TaskLogs
from master.task_table import TaskTable
from master.upgrading import Upgrading
from master.watch import Watch
from master.web import Web
from mr import tls
from mr.errors import Usage
from mr.rpc import cluster_pb2, cluster_pb2_grpc, session_pb2, session_pb2_grpc

log = logging.getLogger("mr.master")

VERSION = importlib.metadata.version("mapraft")
READY = "mr.Cluster"  # health is asked by this name for readiness, by "" for liveness

EXIT_DISK_FULL = 75  # EX_TEMPFAIL: start it again when there is room

_HAND_OVER_S = 5.0
_GRACE_S = 1.0
_CAUGHT_UP = 1000  # entries that a ready master may lag
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # a second process on the port fails instead of taking half of the calls
    ("grpc.max_receive_message_length", 8 << 20),  # S6: bounded memory for any single message
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_retries", 0),  # of calls to other masters: see mr/channel.py
    ("grpc.keepalive_time_ms", 10_000),  # both sides notice a silent peer
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # A connection that says nothing is closed, later than a handshake takes on a machine with a load of 30.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # So that no flood of them takes the file descriptors that the log needs.
    ("grpc.max_allowed_incoming_connections", 4096),
]


class Master:
    """A master. `new_replica` makes the consensus member around the state machine."""

    def __init__(self, config: MasterConfig, new_replica: Callable[[MasterConfig, Machine], Replica]) -> None:
        self.config = config
        self.table = TaskTable()
        self.metrics = Metrics(self)
        self.machine = Machine(self.table, self.metrics.snapshot_seconds.observe)
        self.replica = new_replica(config, self.machine)
        self.peers = Peers(config, lambda address: self._connect(address, "master"))
        self.store = BlobStore(
            config.data_dir / "blobs",
            limit_bytes=config.blob_limit_bytes,
            each_bytes=config.blob_each_bytes,
            failed=self._disk_failed,
        )
        self.copies = Copies(config, self.store, self.peers, lambda: named_blobs(self.table))
        self.links = Links(lambda: redirect(config, self.replica))
        self.driver = Driver(
            self._new_leader,
            self.replica,
            self.links,
            self.copies.read_all,
            propose_timeout_s=config.commit_timeout_s,
            committed=self.metrics.commit_seconds.observe,
            decided=self.metrics.decision_seconds.observe,
        )
        self.watch = Watch(self.table, lambda: self.driver.leader, limit=config.watchers)
        self.masters = Masters(config, self.replica, self.peers, self.table, VERSION)
        self.logs = TaskLogs(self.table, self.driver, lambda address: self._connect(address, "worker"))
        self.plans = Plans(self.table, self.copies.read_all)
        self.cluster = ClusterService(
            config=config,
            replica=self.replica,
            machine=self.machine,
            driver=self.driver,
            copies=self.copies,
            watch=self.watch,
            masters=self.masters,
            logs=self.logs,
            plans=self.plans,
            saving=Saving(
                self.replica, self.machine, self.driver, self.store, self.copies, config.data_dir, VERSION
            ),
        )
        self.upgrading = Upgrading(
            self.table,
            self.driver,
            self.replica,
            self.masters.known,
            propose_timeout_s=config.commit_timeout_s,
        )
        self.web = Web(self)
        self.grpc_port = 0
        self._health = health.aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: grpc.aio.Server | None = None
        self._broken = asyncio.Event()
        self.exit_status = 0

    async def listen(self) -> None:
        """Binds the gRPC and HTTP ports; calls are refused until `start`. Raises Usage if a port is taken."""
        self.config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store.open()
        self._server = self._make_server()
        await self._server.start()
        if self.config.http:
            host, port = split_address(self.config.http)
            sock = listening_socket(host, port, next_free=not self.config.http_pinned)
            await self.web.start(sock)
            self.masters.http = join_address(host, sock.getsockname()[1])

    async def start(self) -> None:
        """Joins the cluster. Raises consensus' RefusedToStart."""
        self.machine.listen(self.watch.applied, self.watch.restored)
        self.machine.listen(self.driver.applied, self.driver.restored)
        self.machine.listen(self.metrics.applied)
        self.replica.on_leadership(self.driver.led)
        self.replica.on_leadership(self.metrics.led)
        await self.replica.start()
        self._tasks = [
            asyncio.create_task(self.driver.tick_forever()),
            asyncio.create_task(self.copies.tend()),
            asyncio.create_task(self.upgrading.tend()),
            asyncio.create_task(self._tell_health()),
        ]
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, or until the disk fails. A task of ours that dies ends the process loudly."""
        ends = {asyncio.create_task(stop.wait()), asyncio.create_task(self._broken.wait())}
        done, _ = await asyncio.wait({*ends, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Hands the office over if we lead, lets calls end, closes everything. Idempotent."""
        await self._health.enter_graceful_shutdown()
        if self.driver.leading and self.config.others:
            await self._hand_over()
        for task in self._tasks:
            task.cancel()
        self.links.close_all()
        if self._server:
            await self._server.stop(_GRACE_S)
        await self.web.stop()
        await self.copies.close()
        await self.driver.close()
        try:
            await self.replica.stop()
        except Exception as error:  # what was acknowledged is on disk already
            log.error("the log did not close well: %s", error)
        self.store.close()
        await self.peers.close()

    @property
    def ready(self) -> bool:
        """Knows a leader and is caught up."""
        status = self.replica.status()
        return status.leader is not None and status.commit - status.applied <= _CAUGHT_UP

    def first_line(self) -> dict[str, str | int | None]:
        """What the process says first, with the real addresses."""
        host, _ = split_address(self.config.advertise)
        return {
            "id": self.config.id,
            "grpc": join_address(host, self.grpc_port),
            "raft": self.config.me.raft_address,
            "http": self.masters.http or None,
            "pid": os.getpid(),
            "version": VERSION,
        }

    def _disk_failed(self, error: OSError) -> None:
        """A master whose disk is full must not lead; started again, it waits until there is room."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else f"the disk failed: {error}"
        log.critical("this master cannot go on: %s", reason)
        print(f"mr-master: fatal: {reason}", file=sys.stderr, flush=True)  # also when the log goes elsewhere
        self.exit_status = EXIT_DISK_FULL if full else 1
        self._broken.set()

    async def _hand_over(self) -> None:
        began = time.monotonic()
        try:
            to = await self.replica.transfer(None, timeout_s=_HAND_OVER_S)
        except ConsensusError as error:
            log.warning("stopping without handing over: %s", error)
            return
        while self.driver.leading and time.monotonic() - began < _HAND_OVER_S:
            await asyncio.sleep(0.01)
        log.info("handed over to %s in %.3f s", to, time.monotonic() - began)

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[Guard(self.config.address_of)], options=_OPTIONS)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self.cluster, server)
        blobs = BlobService(self.store, self.copies, self.cluster.check_leading)
        cluster_pb2_grpc.add_BlobsServicer_to_server(blobs, server)
        sessions = SessionService(
            self.driver, self.links, lambda: redirect(self.config, self.replica), self.metrics.heard
        )
        session_pb2_grpc.add_SessionsServicer_to_server(sessions, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [
            *(service.full_name for service in cluster_pb2.DESCRIPTOR.services_by_name.values()),
            *(service.full_name for service in session_pb2.DESCRIPTOR.services_by_name.values()),
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, server)
        try:
            if self.config.tls is None:
                self.grpc_port = server.add_insecure_port(self.config.listen)
            else:
                self.grpc_port = server.add_secure_port(
                    self.config.listen, tls.server_credentials(self.config.tls)
                )
        except RuntimeError:
            self.grpc_port = 0
        if not self.grpc_port:
            raise Usage(
                f"cannot listen on {self.config.listen}",
                next="is another process there? `--listen` chooses another place",
            )
        return server

    def _connect(self, address: str, role: str) -> grpc.aio.Channel:
        files = self.config.tls
        if files is None:
            return grpc.aio.insecure_channel(address, _OPTIONS)
        options = [*_OPTIONS, *tls.channel_options(role)]
        return grpc.aio.secure_channel(address, tls.channel_credentials(files), options)

    def _new_leader(self) -> Leader:
        config = self.config
        return Leader(
            self.table,
            LeaderConfig(
                id=config.id,
                cluster_id=self.replica.status().cluster_id,
                version=VERSION,
                heartbeat_s=config.worker_heartbeat_s,
                lease_s=config.worker_lease_s,
                policy=config.policy,
                exclude_after=config.exclude_after,
                exclude_s=config.exclude_s,
                exclude_for_good=config.exclude_for_good,
                retention_s=config.history_s,
                retention_jobs=config.history_jobs,
            ),
        )

    async def _tell_health(self) -> None:
        told = None
        while True:
            if self.ready != told:
                told = self.ready
                serving = health_pb2.HealthCheckResponse
                await self._health.set(READY, serving.SERVING if told else serving.NOT_SERVING)
            await asyncio.sleep(0.2)
