"""Masters in one process: real servers and sockets, consensus in memory, so that a test says who leads."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from consensus.memory import MemoryCluster
from master.config import MasterConfig, parse_peers
from master.server import Master
from mr.rpc import cluster_pb2_grpc, session_pb2_grpc


@dataclass
class Town:
    """Masters a, b, c on loopback. `elect` chooses the leader."""

    home: Path
    size: int = 3
    masters: dict[str, Master] = field(default_factory=dict)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        ids = "abcde"[: self.size]
        ports = _free_ports(len(ids))
        self.peers = parse_peers(",".join(f"{i}=127.0.0.1:{p}" for i, p in zip(ids, ports, strict=True)))
        self.memory = MemoryCluster(list(ids))
        for name in ids:
            await self.start_one(name)

    async def start_one(self, name: str) -> Master:
        me = next(peer for peer in self.peers if peer.id == name)
        config = MasterConfig(
            id=name,
            peers=self.peers,
            data_dir=self.home / name,
            listen=me.address,
            advertise=me.address,
            http="127.0.0.1:0",
            http_pinned=True,
            tls=None,
            commit_timeout_s=1.0,
            read_timeout_s=0.5,
            **self.limits,
        )
        master = Master(config, lambda _, machine: self.memory.replica(name, machine))
        self.masters[name] = master
        await master.listen()
        await master.start()
        return master

    def elect(self, name: str) -> Master:
        self.memory.elect(name)
        return self.masters[name]

    def channel(self, name: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self.masters[name].config.me.address)
        self.channels.append(channel)
        return channel

    def cluster(self, name: str) -> Any:
        return cluster_pb2_grpc.ClusterStub(self.channel(name))

    def blobs(self, name: str) -> Any:
        return cluster_pb2_grpc.BlobsStub(self.channel(name))

    def sessions(self, name: str) -> Any:
        return session_pb2_grpc.SessionsStub(self.channel(name))

    async def stop(self) -> None:
        for channel in self.channels:
            await channel.close()
        for master in self.masters.values():
            await master.stop()


def _free_ports(count: int) -> list[int]:
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """Three masters; nobody leads yet."""
    made = Town(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
