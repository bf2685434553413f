"""The workers' streams: one `Session` each, as long as this master leads.

The law: what a worker says reaches the leader in order, one message at a time, and everybody else has a turn
in between: nothing is queued here, gRPC's flow control holds a worker back. What the leader says waits in a
bounded queue; a worker too slow to take it loses its session, attaches again and is told everything anew, so
nothing here is worth more memory. A follower redirects and ends the stream.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from grpc.aio import ServicerContext

from consensus.replica import Replica
from master.access import Identity, audit, identify
from master.bounds import bounded, why_too_large
from master.config import MasterConfig
from master.driver import Driver
from master.leader_events import Attached, SessionClosed, WorkerSaid
from mr.errors import NotAllowed, Usage
from mr.rpc import session_pb2 as pb
from mr.rpc import session_pb2_grpc as rpc

log = logging.getLogger("mr.master")

_QUEUE_BYTES = 32 << 20
_MESSAGE_BYTES = 1 << 20
_MESSAGE_ORDERS = 256


class Link:
    """What one worker is still to be told. Bounded; `close` ends it after what is queued."""

    def __init__(self) -> None:
        self._queue: deque[tuple[pb.MasterMessage, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, message: pb.MasterMessage) -> bool:
        """Queues; False if the bound is passed, and then the link is closed."""
        size = message.ByteSize()
        if self._bytes + size > _QUEUE_BYTES and self._queue:
            self.close()
            return False
        self._queue.append((message, size))
        self._bytes += size
        self._changed.set()
        return True

    def close(self) -> None:
        """No more after what is queued."""
        self._closed = True
        self._changed.set()

    async def messages(self) -> AsyncIterator[pb.MasterMessage]:
        """What is queued, neighbours of one term put together, until closed."""
        while True:
            while self._queue:
                yield self._next()
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()

    def _next(self) -> pb.MasterMessage:
        message, size = self._queue.popleft()
        self._bytes -= size
        while (
            self._queue
            and self._queue[0][0].term == message.term
            and size + self._queue[0][1] <= _MESSAGE_BYTES
            and len(message.orders) < _MESSAGE_ORDERS
        ):
            more, more_size = self._queue.popleft()
            self._bytes -= more_size
            size += more_size
            message.orders.extend(more.orders)
            message.heartbeat_echo = max(message.heartbeat_echo, more.heartbeat_echo)
        return message


class Links:
    """All open sessions by their number; what the driver sends goes through here."""

    def __init__(self, farewell: Callable[[], pb.MasterMessage]) -> None:
        self._links: dict[int, Link] = {}
        self._farewell = farewell

    def __len__(self) -> int:
        return len(self._links)

    def open(self, session: int) -> Link:
        """A new link."""
        link = self._links[session] = Link()
        return link

    def forget(self, session: int) -> None:
        """The stream is gone."""
        self._links.pop(session, None)

    def send(self, session: int, message: pb.MasterMessage) -> None:
        """Queues a message; nothing if the session is gone."""
        link = self._links.get(session)
        if link and not link.put(message):
            log.warning("session %d does not take its orders: closed", session)

    def close(self, session: int) -> None:
        """Ends a session after what is queued."""
        link = self._links.get(session)
        if link:
            link.close()

    def close_all(self) -> None:
        """Ends every session; the last word says who leads."""
        for link in self._links.values():
            link.put(self._farewell())
            link.close()


class SessionService(rpc.SessionsServicer):
    """The Sessions service."""

    def __init__(
        self,
        driver: Driver,
        links: Links,
        redirect: Callable[[], pb.MasterMessage],
        heard: Callable[[pb.WorkerEvent], None],
    ) -> None:
        self._driver = driver
        self._heard = heard
        self._links = links
        self._redirect = redirect
        self._serial = itertools.count(1)

    async def Session(
        self, request: AsyncIterator[pb.WorkerMessage], context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.MasterMessage]:
        """One worker, from its Attach to the end of its stream."""
        first = await anext(aiter(request), None)
        if first is None or not first.events or first.events[0].WhichOneof("kind") != "attach":
            raise Usage("a session begins with Attach")
        if not self._driver.leading:
            yield self._redirect()
            return
        attach = first.events[0].attach
        if why := why_too_large(attach):
            raise Usage(why)
        caller = identify(context)
        _check_identity(attach, caller)
        session = next(self._serial)
        about = {"worker": attach.worker, "session": session, "identity": str(caller)}
        audit.info("worker %s attached from %s by %s", attach.worker, attach.address, caller, extra=about)
        link = self._links.open(session)
        self._driver.feed(Attached(session=session, attach=attach))
        reader = asyncio.create_task(self._read(session, link, first, request))
        try:
            async for message in link.messages():
                yield message
        finally:
            self._links.forget(session)
            reader.cancel()
            self._driver.feed(SessionClosed(session=session))
            log.info("session of worker %s ended", attach.worker, extra=about)

    async def _read(
        self, session: int, link: Link, first: pb.WorkerMessage, rest: AsyncIterator[pb.WorkerMessage]
    ) -> None:
        try:
            self._hear(session, link, first.events[1:])
            async for message in rest:
                self._hear(session, link, message.events)
                await asyncio.sleep(0)  # one message, then everybody else's turn
        finally:
            link.close()

    def _hear(self, session: int, link: Link, events: Iterable[pb.WorkerEvent]) -> None:
        for event in events:
            self._heard(event)
            self._driver.feed(WorkerSaid(session=session, event=bounded(event)))
            if event.HasField("heartbeat"):
                link.put(pb.MasterMessage(term=self._driver.term, heartbeat_echo=event.heartbeat.sequence))


def _check_identity(attach: pb.Attach, caller: Identity) -> None:
    """A worker's certificate bears its id, or the plain name "worker" when all workers share one."""
    if caller.verified and caller.name not in {attach.worker, "worker"}:
        raise NotAllowed(f"the certificate of {caller.name} does not speak for worker {attach.worker}")


def redirect(config: MasterConfig, replica: Replica) -> pb.MasterMessage:
    """What a worker hears from a master that does not lead."""
    leadership = replica.leadership
    leader = "" if leadership.mine else config.address_of(leadership.leader) or ""
    return pb.MasterMessage(term=leadership.term, orders=[pb.Order(redirect=pb.Redirect(leader=leader))])
