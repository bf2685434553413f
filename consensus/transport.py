"""Frames from member to member over mutually authenticated gRPC, one stream in each direction.

The law: what arrives is from who the certificate says, of that peer's one living process, whole, in order,
and bounded before it is read. What cannot be delivered is dropped together with the stream, never kept:
whoever needs an answer asks again. Nothing here knows what a frame means.

`GrpcLink` calls its handler on the thread that calls `poll`, and only there. gRPC's threads touch the inbox
and one byte on a pipe, no more. `send` never blocks: a peer that does not read costs a bounded queue, and
then its stream. Snapshot pieces (`bulk`) go only when nothing else waits, so that a heartbeat never stands
behind more than one.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc

from consensus.config import ReplicaConfig
from consensus.credentials import channel_credentials, only_loopback, peer_certificate, server_credentials
from consensus.handshake import Disk, Hello, Refused, check, members_digest, read
from consensus.outbound import LINK, Outbound
from consensus.replica import RefusedToStart
from consensus.rpc import raft_pb2 as pb
from consensus.urgency import urgent

log = logging.getLogger("mr.consensus")

FRAME_BYTES = 16 << 20
"""The largest frame that is read."""
_INBOX_BYTES = 64 << 20  # of one peer, not yet taken by `poll`
_FULL_INBOX_S = 0.01
_FIRST_DISK = Disk()
_IDENTIFY = "/mr.raft.Raft/Identify"

_COMMON_OPTIONS = (
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 8192),
    # A silent partition leaves connections that look alive; with these both ends notice within three seconds.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 200),
    ("grpc.http2.max_ping_strikes", 0),
    # A connection that says nothing is closed; later than a busy peer may still be waiting (patience).
    ("grpc.server_handshake_timeout_ms", 5000),
    # So that no flood of them takes the file descriptors that the log needs.
    ("grpc.max_allowed_incoming_connections", 512),
)
_CHANNEL_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # each attempt is a fresh connection, with no back-off but ours
    ("grpc.enable_http_proxy", 0),
    # gRPC's own repetition of a call whose server says goodbye can hang, and then the call never ends (1 in 150 at a
    # server that comes and goes, grpcio 1.85); `Outbound` comes back by itself.
    ("grpc.enable_retries", 0),
)


class Handler(Protocol):
    """Whoever owns the link. Called by `poll` only."""

    def on_up(self, peer: str) -> None:
        """A new life of the link: the frames that follow are of one process of `peer`, and can reach it."""

    def on_frame(self, peer: str, frame: pb.Frame) -> None:
        """A frame of `peer`, between its `on_up` and its `on_down`."""

    def on_down(self, peer: str) -> None:
        """What is sent to `peer` gets lost from here on."""

    def on_reset(self, peer: str) -> None:
        """A stream from or to `peer` broke: perhaps its process died. May come before or after `on_down`."""


class Link(Protocol):
    """What carries frames. `GrpcLink` in a process, another one in the simulation."""

    def send(self, peer: str, frame: pb.Frame, *, bulk: bool = False) -> bool:
        """Queues a frame. False when `peer` is down or the queue was full; then nothing of it arrives."""

    def poll(self, handler: Handler) -> None:
        """Hands over what happened since. Never blocks."""

    def fileno(self) -> int:
        """Readable when there is something to poll, or somebody called `wake`."""

    def wake(self) -> None:
        """Makes `fileno` readable. Any thread."""

    def close(self) -> None:
        """Drops every stream. Idempotent."""


@dataclass(slots=True)
class _Inbound:
    """One stream from a peer: its life, and the bytes that it put into the inbox and that were taken out."""

    peer: str
    hello: Hello
    context: grpc.ServicerContext
    put: int = 0  # counted by the stream's thread
    taken: int = 0  # counted by poll's thread
    over: bool = False


class GrpcLink:
    """A link over gRPC. Listens from the start; exchanges frames after `open`.

    Raises RefusedToStart when the address is taken, the certificates are unusable, or plaintext would leave
    loopback.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        identify: Callable[[pb.Identification], pb.Identification],
        meet: Callable[[str, Disk], None] = lambda _member, _disk: None,
    ) -> None:
        self._config = config
        self._identify = identify
        self._meet = meet  # remembers a member's disk, or raises Refused; on gRPC's threads
        self._hello = Hello(config.id, secrets.randbits(63), 0, "", members_digest(config.peers))
        self._peers = dict(config.peers)
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._admitting = threading.Lock()
        self._inbound: dict[str, _Inbound] = {}
        self._outbound: dict[str, Outbound] = {}
        self._lives: dict[str, int] = {}  # of the peers that are up; poll's thread only
        self._refused = ""
        self._pipe = _Pipe()
        if config.tls is None:
            only_loopback(config)
        with urgent():  # gRPC's threads inherit it
            self._server, self.address = self._listen()

    def open(self, cluster_id: str, disk: Disk = _FIRST_DISK) -> None:
        """Exchanges frames with the other members of `cluster_id` from now on; `disk` is ours."""
        hello = replace(self._hello, cluster_id=cluster_id, disk=disk)
        self._outbound = {
            peer: Outbound(peer, hello, self.connect, self.post, self._meet) for peer in self._config.others
        }
        self._hello = hello  # from here on streams are let in
        for outbound in self._outbound.values():
            outbound.start()

    def move(self, peer: str, address: str) -> None:
        """`peer` is at `address` from the next connection on."""
        self._peers[peer] = address

    def ask(self, peer: str, mine: pb.Identification, *, timeout_s: float) -> pb.Identification:
        """What `peer` knows of itself; blocks. Raises grpc.RpcError."""
        with self.connect(peer, timeout_s) as channel:
            call = channel.unary_unary(
                _IDENTIFY,
                request_serializer=pb.Identification.SerializeToString,
                response_deserializer=pb.Identification.FromString,
            )
            answer: pb.Identification = call(mine, timeout=timeout_s)
            return answer

    def send(self, peer: str, frame: pb.Frame, *, bulk: bool = False) -> bool:
        """Queues a frame. False when `peer` is down or the queue was full; then nothing of it arrives."""
        life = self._lives.get(peer)
        return life is not None and self._outbound[peer].put(life, frame.SerializeToString(), bulk)

    def poll(self, handler: Handler) -> None:
        """Hands over what happened since. Never blocks."""
        self._pipe.drain()
        for _ in range(len(self._inbox)):
            kind, peer, *rest = self._inbox.popleft()
            if kind == "frame":
                self._frame(handler, *rest)
            elif kind == "up":
                self._lives[peer] = rest[0]
                handler.on_up(peer)
            elif kind == "down":
                if self._lives.get(peer) == rest[0]:
                    del self._lives[peer]
                    handler.on_down(peer)
                    handler.on_reset(peer)
            elif self._lives.get(peer) == rest[0]:
                handler.on_reset(peer)

    def fileno(self) -> int:
        """Readable when there is something to poll, or somebody called `wake`."""
        return self._pipe.reader

    def wake(self) -> None:
        """Makes `fileno` readable. Any thread."""
        self._pipe.write()

    def close(self) -> None:
        """Drops every stream. Idempotent."""
        for outbound in self._outbound.values():
            outbound.stop()
        with self._admitting:
            for inbound in self._inbound.values():
                inbound.over = True
        self._server.stop(None).wait()
        for outbound in self._outbound.values():
            outbound.join()
        self._pipe.close()

    def post(self, *event: Any) -> None:
        """Puts an event into the inbox. Any thread."""
        self._inbox.append(event)
        self._pipe.write()

    def connect(self, peer: str, patience_s: float) -> grpc.Channel:
        """A new connection to `peer`, which may take so many seconds to come about."""
        address, tls = self._peers[peer], self._config.tls
        options = [*_CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", int(1000 * patience_s))]
        if tls is None:
            return grpc.insecure_channel(address, options)
        name = ("grpc.ssl_target_name_override", f"{peer}.master.{tls.server_name}")
        return grpc.secure_channel(address, channel_credentials(tls), [*options, name])

    def _frame(self, handler: Handler, inbound: _Inbound, frame: pb.Frame, size: int) -> None:
        inbound.taken += size
        # Frames of a life that we cannot answer yet, or no longer, would have no lasting effect: let them go.
        if self._inbound.get(inbound.peer) is inbound and self._lives.get(inbound.peer) == inbound.hello.life:
            handler.on_frame(inbound.peer, frame)

    def _listen(self) -> tuple[grpc.Server, str]:
        tls, listen = self._config.tls, self._config.listen
        server = grpc.server(
            futures.ThreadPoolExecutor(4 * len(self._peers) + 8, thread_name_prefix="raft-in"),
            handlers=[_Service(self._link, self._answer)],
            options=_SERVER_OPTIONS,
            maximum_concurrent_rpcs=4 * len(self._peers) + 8,
        )
        try:
            port = (
                server.add_secure_port(listen, server_credentials(tls))
                if tls
                else server.add_insecure_port(listen)
            )
        except RuntimeError as error:
            raise RefusedToStart(
                f"cannot listen on {listen} for the other masters: is it taken? ({error})"
            ) from error
        server.start()
        return server, f"{listen.rpartition(':')[0]}:{port}"

    def _link(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serves one stream from a peer, on a thread of gRPC's, to its end."""
        if not self._hello.cluster_id:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not in a cluster yet")
        try:
            hello = read(context.invocation_metadata())
            check(self._hello, hello, self._peers, self._certified(context))
            self._meet(hello.member, hello.disk)
            inbound = self._admit(hello, context)
        except Refused as error:
            self._say_refused(str(error), context.peer())
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        context.send_initial_metadata(self._hello.metadata())
        self._outbound[hello.member].hurry(hello.life)
        try:
            for data in frames:
                if not self._take(inbound, data):
                    break
        except Exception:  # noqa: S110 - gRPC raises a bare Exception when the stream breaks
            pass
        if self._inbound.get(hello.member) is inbound:
            self.post("reset", hello.member, hello.life)
        return iter(())

    def _answer(self, asked: pb.Identification, context: grpc.ServicerContext) -> pb.Identification:
        """Serves `Identify`, to masters only."""
        try:
            certified = self._certified(context)
        except Refused:
            certified = ("", "")
        if certified is not None and certified[0] != "master":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "for masters only")
        return self._identify(asked)

    def _certified(self, context: grpc.ServicerContext) -> tuple[str, str] | None:
        """(role, name) of the caller's certificate; None on a plaintext link. Raises Refused."""
        return peer_certificate(context.auth_context()) if self._config.tls else None

    def _say_refused(self, reason: str, address: str) -> None:
        """Once, not at every attempt."""
        if reason != self._refused:
            log.warning("refused a link from %s: %s", address, reason)
        self._refused = reason

    def _admit(self, hello: Hello, context: grpc.ServicerContext) -> _Inbound:
        """The newest stream of a peer wins (hazard 11): an older one is retired, a late one refused."""
        with self._admitting:
            older = self._inbound.get(hello.member)
            if older is not None and older.hello.life == hello.life and older.hello.session > hello.session:
                raise Refused("a newer stream of this process is open already")
            if older is not None:
                older.over = True
                older.context.cancel()
            inbound = self._inbound[hello.member] = _Inbound(hello.member, hello, context)
        return inbound

    def _take(self, inbound: _Inbound, data: bytes) -> bool:
        """Puts one frame into the inbox; waits while too much is there, which slows the sender down."""
        try:
            frame = pb.Frame.FromString(data)
        except Exception as error:
            log.warning("%s sent a frame that is none: %s", inbound.peer, error)
            return False
        while inbound.put - inbound.taken > _INBOX_BYTES and not inbound.over:
            time.sleep(_FULL_INBOX_S)
        inbound.put += len(data)
        if not inbound.over:
            self.post("frame", inbound.peer, inbound, frame, len(data))
        return not inbound.over


class _Service(grpc.GenericRpcHandler):
    """The methods of proto/raft.proto; frames pass as bytes: they are counted before they are decoded."""

    def __init__(self, link: Any, identify: Any) -> None:
        self._methods = {
            LINK: grpc.stream_stream_rpc_method_handler(link),
            _IDENTIFY: grpc.unary_unary_rpc_method_handler(
                identify,
                request_deserializer=pb.Identification.FromString,
                response_serializer=pb.Identification.SerializeToString,
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, if it is one of ours."""
        return self._methods.get(details.method)


class _Pipe:
    """Wakes a thread that sleeps in poll(2). At most one byte is under way."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._rung = False
        self._lock = threading.Lock()

    def write(self) -> None:
        """Any thread."""
        if self._rung:
            return
        with self._lock:
            if not self._rung and self._writer >= 0:
                self._rung = True
                os.write(self._writer, b"\0")

    def drain(self) -> None:
        """Before looking at what there is, so that nothing that comes later is missed."""
        with self._lock:
            if self._rung and self._writer >= 0:
                os.read(self.reader, 16)
                self._rung = False

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._writer >= 0:
                os.close(self._writer)
                os.close(self.reader)
                self._writer = -1
