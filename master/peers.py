"""One channel to every other master, opened at first use and kept (S3-17)."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from master.config import MasterConfig, Peer
from mr.rpc import cluster_pb2_grpc as rpc


class Peers:
    """Stubs for the other masters. `connect` opens a channel to an address; credentials are its business."""

    def __init__(self, config: MasterConfig, connect: Callable[[str], grpc.aio.Channel]) -> None:
        self.others: tuple[Peer, ...] = config.others
        self._connect = connect
        self._channels: dict[str, grpc.aio.Channel] = {}

    def cluster(self, peer: Peer) -> rpc.ClusterAsyncStub:
        """The Cluster service of `peer`."""
        return rpc.ClusterStub(self._channel(peer))

    def blobs(self, peer: Peer) -> rpc.BlobsAsyncStub:
        """The Blobs service of `peer`."""
        return rpc.BlobsStub(self._channel(peer))

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _channel(self, peer: Peer) -> grpc.aio.Channel:
        if peer.id not in self._channels:
            self._channels[peer.id] = self._connect(peer.address)
        return self._channels[peer.id]
