"""gRPC channels from a worker to masters and to other workers: one a peer, kept and used again (S3-17)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import grpc
import grpc.aio

from mr import tls

MOST_CHANNELS = 256
CLOSE_S = 60.0  # for calls that still run on a channel that has to go
MESSAGE_BYTES = 64 << 20
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # gRPC's own repetition of a call whose server says goodbye can hang; whoever calls repeats it anyway.
    ("grpc.enable_retries", 0),
    # A host that vanished without a word is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class Channels:
    """Opens and keeps channels; `files` None is plaintext, which its caller allows on loopback only."""

    def __init__(self, files: tls.TlsFiles | None) -> None:
        self._files = files
        self._kept: OrderedDict[tuple[str, str], grpc.aio.Channel] = OrderedDict()
        self._closing: set[asyncio.Future[None]] = set()

    def open(self, role: str, address: str) -> grpc.aio.Channel:
        """A new channel to a `master` or `worker`; the caller closes it. Reads renewed certificates."""
        if self._files is None:
            return grpc.aio.insecure_channel(address, OPTIONS)
        options = [*OPTIONS, *tls.channel_options(role)]
        return grpc.aio.secure_channel(address, tls.channel_credentials(self._files), options)

    def get(self, role: str, address: str) -> grpc.aio.Channel:
        """A channel that is kept; the one used longest ago goes when there are too many."""
        key = (role, address)
        if key not in self._kept:
            self._kept[key] = self.open(role, address)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_CHANNELS:
            _, oldest = self._kept.popitem(last=False)
            closing = asyncio.ensure_future(oldest.close(CLOSE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self._kept[key]

    async def close(self) -> None:
        """Closes all."""
        while self._kept:
            await self._kept.popitem()[1].close()
